"""Validation during training: one view of every video, the videos split among all processes.

Legend: B clips, K classes of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtcli.data.clip_loader import ClipReader, Loader, Request
from vtcli.data.samples import Dataset, labels_by_head
from vtcli.errors import DataError, VideoDecodeError
from vtcli.evaluation.results import HeadResult
from vtcli.runtime.distributed import Group
from vtcli.video.frame_source import Opener, open_frame_source
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

CENTER_VIEW = (0,)  # of one clip and one crop


@dataclass(frozen=True)
class ValidationResult:
    """Mean loss, accuracies of every head, and the number of videos that could not be read.

    `mean_ap`, `threshold`: where each class is decided alone, the mean average precision, and the
    probability with the best micro F1.
    """

    loss: float
    heads: tuple[HeadResult, ...]
    failed_videos: int
    mean_ap: float | None = None
    threshold: float | None = None

    @property
    def top1(self) -> float:
        """Top-1 accuracy on the videos that were read, as a fraction; the mean over the heads."""
        return _mean([head.top1_read.value for head in self.heads if head.top1_read])

    @property
    def top5(self) -> float:
        """Top-5 accuracy, likewise."""
        return _mean([head.top5_read.value for head in self.heads if head.top5_read])

    @property
    def macro(self) -> float:
        """Macro accuracy: the mean over the classes with videos, likewise."""
        return _mean([head.mean_class.value for head in self.heads if head.mean_class])

    def to_row(self) -> dict[str, Any]:
        """The columns of history.csv."""
        row: dict[str, Any] = {
            "val_loss": self.loss,
            "val_top1": self.top1,
            "val_top5": self.top5,
            "val_macro": self.macro,
        }
        if self.mean_ap is not None:
            row |= {"val_map": self.mean_ap, "val_threshold": self.threshold}
        return row


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class ScoredVideo:
    """One validated video: its labels and its probabilities [K] per head."""

    labels: tuple[tuple[int, ...], ...]
    probabilities: tuple[np.ndarray, ...]


def validate(
    net: nn.Module,
    dataset: Dataset,
    reader: ClipReader,
    group: Group,
    batch_size: int,
    workers: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    open_source: Opener = open_frame_source,
) -> ValidationResult:
    """Score the center view of every video of `dataset`; all processes must call this.

    Raises `DataError` where no video can be read or a score is NaN.
    """
    was_training = net.training
    net.eval()
    mine = dataset.samples[group.rank :: group.size]
    # All processes run the same number of batches: with FSDP they gather the weights together.
    most = -(-len(dataset.samples) // group.size)
    requests = [Request(sample, CENTER_VIEW) for sample in mine]
    batches = [requests[i : i + batch_size] for i in range(0, most, batch_size)]
    loader = Loader(reader, batches, workers, open_source)
    several = group.size > 1
    with closing(loader):
        scored = list(_score(net, loader, reader.pipeline, len(dataset.heads), autocast, several))
    net.train(was_training)
    gathered = [video for part in group.all_gather(scored) for video in part]
    return result_of(gathered, dataset, reader.pipeline.multi_label)


def result_of(
    gathered: Sequence[ScoredVideo], dataset: Dataset, multi_label: bool = False
) -> ValidationResult:
    """The metrics of the videos of `dataset` that were read; `multi_label`: each class is decided
    alone.

    Raises `DataError` for none, and where a score is NaN.
    """
    if not gathered:
        raise DataError(
            f"none of the {len(dataset.samples)} validation videos of {dataset.name} can be read; "
            "see vt datasets check"
        )
    failed = len(dataset.samples) - len(gathered)
    if multi_label:
        return _multi_label_result(gathered, dataset, failed)
    losses = [-math.log(max(_label_probability(video), 1e-12)) for video in gathered]
    return ValidationResult(_mean(losses), _head_results(gathered, dataset), failed)


def _multi_label_result(
    videos: Sequence[ScoredVideo], dataset: Dataset, failed: int
) -> ValidationResult:
    import numpy as np

    from vtcli.evaluation.multi_label import best_threshold, multi_hot, multi_label_metrics

    (names,) = dataset.classes.values()
    target = [video.labels[0] for video in videos]
    probability_NK = np.stack([video.probabilities[0] for video in videos])
    heads = _head_results(videos, dataset)  # refuses NaN
    correct_NK = np.where(multi_hot(target, len(names)), probability_NK, 1 - probability_NK)
    loss = -float(np.log(np.maximum(correct_NK, 1e-12)).mean())
    threshold = best_threshold(probability_NK, target)
    metrics = multi_label_metrics(names, probability_NK, target, threshold)
    return ValidationResult(loss, heads, failed, metrics.mean_ap, threshold)


def _head_results(videos: Sequence[ScoredVideo], dataset: Dataset) -> tuple[HeadResult, ...]:
    import numpy as np

    from vtcli.evaluation.metrics import head_metrics

    return tuple(
        head_metrics(
            name,
            names,
            np.stack([video.probabilities[head] for video in videos]),
            [video.labels[head] for video in videos],
            len(dataset.samples),
        )
        for head, (name, names) in enumerate(dataset.classes.items())
    )


def _label_probability(video: ScoredVideo) -> float:
    """The probability that all heads are correct, assuming them independent."""
    return math.prod(
        sum(float(scores[label]) for label in labels)
        for labels, scores in zip(video.labels, video.probabilities, strict=True)
    )


def _score(
    net: nn.Module,
    loader: Loader,
    pipeline: Pipeline,
    heads: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    run_empty_batches: bool,
) -> Iterator[ScoredVideo]:
    """The videos that could be read; `run_empty_batches` runs the network for other batches too."""
    import torch

    empty = torch.zeros(3, pipeline.frames, pipeline.crop_size, pipeline.crop_size)
    device = next(net.parameters()).device
    for requests, loaded in loader:
        read = [
            (request.sample, next(views.clips))
            for request, views in zip(requests, loaded, strict=True)
            if not isinstance(views, VideoDecodeError)
        ]
        if not read and not run_empty_batches:
            continue
        clips = torch.stack([clip for _, clip in read] or [empty])
        with torch.no_grad(), autocast():
            logits = net(clips.to(device))
        parts = list(logits.values()) if isinstance(logits, dict) else [logits]
        probabilities = [_probabilities(part, pipeline.multi_label) for part in parts]
        for row, (sample, _) in enumerate(read):
            labels = labels_by_head(sample, heads)
            yield ScoredVideo(labels, tuple(part[row] for part in probabilities))


def _probabilities(logits_BK: Tensor, multi_label: bool) -> np.ndarray:
    logits_BK = logits_BK.float().cpu().double()  # not every device has float64
    return (logits_BK.sigmoid() if multi_label else logits_BK.softmax(-1)).numpy()
