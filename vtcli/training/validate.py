"""The validation of a network in training: one view of every video, shared by all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtcli.data.clip_loader import ClipReader, Loader, Request
from vtcli.data.samples import Dataset, labels_by_head
from vtcli.errors import DataError, VideoDecodeError
from vtcli.evaluation.results import HeadResult
from vtcli.runtime.distributed import Group

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

CENTER = (0,)  # the only view of one clip and one crop


@dataclass(frozen=True)
class Validated:
    """Mean loss, accuracies of every head, and how many videos could not be read."""

    loss: float
    heads: tuple[HeadResult, ...]
    unreadable: int

    @property
    def top1(self) -> float:
        """The mean over the heads of the share of read videos that is right."""
        return _mean([head.top1_read.value for head in self.heads if head.top1_read])

    @property
    def top5(self) -> float:
        """The same for the best five answers."""
        return _mean([head.top5_read.value for head in self.heads if head.top5_read])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Row:
    """One validated video: its target and its probabilities [K] per head."""

    target: tuple[tuple[int, ...], ...]
    scores: tuple[np.ndarray, ...]


def validate(
    net: nn.Module,
    dataset: Dataset,
    reader: ClipReader,
    group: Group,
    batch_size: int,
    workers: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Validated:
    """Score the middle view of every video of `dataset`.

    Raises `DataError` where none can be read or a score is NaN.
    """
    from vtcli.evaluation.metrics import head_metrics

    was_training = net.training
    net.eval()
    mine = dataset.samples[group.rank :: group.size]
    # As many batches in every process, which may have to put shards of the network together.
    most = -(-len(dataset.samples) // group.size)
    batches = -(-most // batch_size)
    requests = [Request(sample, CENTER) for sample in mine]
    groups = [requests[i * batch_size : (i + 1) * batch_size] for i in range(batches)]
    rows = list(_rows(net, groups, len(dataset.heads), reader, workers, autocast, group.size > 1))
    net.train(was_training)
    gathered = [row for part in group.all_gather(rows) for row in part]
    if not gathered:
        raise DataError(
            f"none of the {len(dataset.samples)} validation videos of {dataset.name} can be read; "
            "see vt datasets check"
        )
    heads = tuple(
        head_metrics(
            name,
            names,
            _stack([row.scores[place] for row in gathered]),
            [row.target[place] for row in gathered],
            len(dataset.samples),
        )
        for place, (name, names) in enumerate(dataset.classes.items())
    )
    losses = [-math.log(max(_right(row), 1e-12)) for row in gathered]
    return Validated(_mean(losses), heads, len(dataset.samples) - len(gathered))


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack(rows)


def _right(row: Row) -> float:
    """The probability of all that is right, the heads taken as independent."""
    shares = [
        sum(float(scores[label]) for label in target)
        for target, scores in zip(row.target, row.scores, strict=True)
    ]
    return math.prod(shares)


def _rows(
    net: nn.Module,
    groups: Sequence[Sequence[Request]],
    heads: int,
    reader: ClipReader,
    workers: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    always: bool,
) -> Iterator[Row]:
    """What was read, scored; with `always` the network also sees batches of which nothing was."""
    import torch

    p = reader.pipeline
    nothing = torch.zeros(3, p.frames, p.crop_size, p.crop_size)
    device = next(net.parameters()).device
    for asked, loaded in Loader(reader, groups, workers):
        read = [
            (request.sample, next(found.clips))
            for request, found in zip(asked, loaded, strict=True)
            if not isinstance(found, VideoDecodeError)
        ]
        if not read and not always:
            continue
        clips = torch.stack([clip for _, clip in read] or [nothing])
        with torch.no_grad(), autocast():
            logits = net(clips.to(device))
        parts = list(logits.values()) if isinstance(logits, dict) else [logits]
        scores = [_probabilities(part) for part in parts]
        for place, (sample, _) in enumerate(read):
            yield Row(labels_by_head(sample, heads), tuple(part[place] for part in scores))


def _probabilities(logits_BK: Tensor) -> np.ndarray:
    return logits_BK.float().cpu().double().softmax(-1).numpy()  # not every device has float64
