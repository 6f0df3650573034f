"""From clips to logits in batches of bounded size, and from the logits of all views to the top-k
classes per head.

Shape legend: B clips of a batch, V views, K classes, T frames of a clip, S crop size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, OutOfMemoryError, UsageError
from vtcli.inference.decision import apply_temperature

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.models.protocol import VideoModel
    from vtcli.video.pipeline import ViewFusion
    from vtcli.weights.checkpoint import HeadSpec

# Values of a batch of clips: two of 8 frames at 224 pixels on a CPU, where more are not faster,
# and 64 on a GPU.
CPU_BATCH_VALUES = 2 * 3 * 8 * 224 * 224
GPU_BATCH_VALUES = 64 * 3 * 8 * 224 * 224


@dataclass(frozen=True)
class ClassPrediction:
    """One class of a ranking.

    score: probability in 0..1; upstream_score: the score by which upstream's own evaluation ranks
    (`Pipeline.view_fusion`).
    """

    index: int
    label: str
    score: float
    upstream_score: float


def score_slots(
    net: VideoModel, clips: Mapping[int, Tensor], slots: int | None
) -> dict[int, Mapping[str, Tensor]]:
    """Logits [K] per head of clips [3,T,S,S], by their slots in a batch; fp32 on the CPU.

    The batch has `slots` slots, of which the others are zero; with None it holds the clips alone.
    Raises `OutOfMemoryError`.
    """
    on_gpu = next(net.parameters()).device.type == "cuda"
    with memory_errors(slots or len(clips)):
        batch, row_of = fill_batch(clips, slots, pinned=on_gpu)
        rows = by_head(net, forward(net, batch))
    return {slot: {h: v[row] for h, v in rows.items()} for slot, row in row_of.items()}


def fill_batch(
    clips: Mapping[int, Tensor], slots: int | None, pinned: bool
) -> tuple[Tensor, dict[int, int]]:
    """The batch [B,3,T,S,S] of `score_slots`, and the row of each slot in it."""
    import torch

    order = sorted(clips)
    row_of = {slot: slot if slots else row for row, slot in enumerate(order)}
    first = clips[order[0]]
    size = slots or len(order)
    pinned = pinned and first.device.type == "cpu"  # what a GPU has resized is there already
    if size == 1 and not pinned:
        return first[None], row_of
    new = torch.empty if size == len(order) else torch.zeros
    shape, dtype = (size, *first.shape), first.dtype
    batch = new(shape, dtype=dtype, device=first.device, pin_memory=pinned)
    for slot in order:
        batch[row_of[slot]] = clips[slot]
    return batch, row_of


@contextmanager
def memory_errors(size: int) -> Iterator[None]:
    """Raises `OutOfMemoryError` where a batch of `size` views does not fit into memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"a batch of {size} views does not fit into memory; run again with -b {size // 2}"
            if size > 1
            else "one view of this model does not fit into memory; use a smaller model or "
            "--device cpu"
        ) from error


def by_head(net: VideoModel, logits: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a network returned for B clips as logits [B,K] per head, fp32 on the CPU."""
    return {head: values.float().cpu() for head, values in heads_of(net, logits).items()}


def heads_of(net: VideoModel, logits: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a network returned, per head."""
    return logits if isinstance(logits, Mapping) else {net.card.heads[0].name: logits}


def score_clips(
    net: VideoModel,
    clips: Iterable[Tensor],
    batch_size: int | None,
    score: Callable[[Sequence[Tensor]], Sequence[Mapping[str, Tensor]]] | None = None,
    on_scored: Callable[[Sequence[Mapping[str, Tensor]]], None] | None = None,
) -> dict[str, Tensor]:
    """Logits [V,K] per head of clips [3,T,S,S], in batches of bounded size; fp32 on the CPU.

    `score` gives the logits [K] per head of each clip of a batch, by default those of the network;
    `on_scored` is called with them, batch by batch.
    A batch that does not fit into memory is halved and tried again. Raises `OutOfMemoryError` where
    a single clip does not fit, `DataError` where a logit is NaN or infinite.
    """
    import torch

    def score_alone(batch: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        return list(score_slots(net, dict(enumerate(batch)), None).values())

    score = score or score_alone
    rows: list[Mapping[str, Tensor]] = []
    pending: list[Tensor] = []
    size = batch_size

    def flush() -> None:
        nonlocal size, pending
        while pending:
            part = pending[:size]
            try:
                scored = score(part)
            except OutOfMemoryError:
                if len(part) == 1:
                    raise
                size = len(part) // 2
                continue
            pending = pending[len(part) :]
            rows.extend(scored)
            if on_scored is not None:
                on_scored(scored)

    for clip in clips:
        size = size or default_batch_size(net, tuple(clip.shape))
        pending.append(clip)
        if len(pending) >= size:
            flush()
    flush()
    logits = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    require_finite(logits.values(), "this video")
    return logits


def require_finite(logits: Iterable[Tensor], subject: str) -> None:
    """Raise `DataError` where a logit of `subject` is NaN or infinite."""
    if not all(values.isfinite().all() for values in logits):
        raise DataError(
            f"the logits of the model are NaN or infinite for {subject}; its weights are damaged, "
            "or try --precision fp32"
        )


def forward(net: VideoModel, clips: Tensor) -> Tensor | Mapping[str, Tensor]:
    """Logits of clips [B,3,T,S,S], which are moved to the network's device and data type."""
    import torch

    with torch.inference_mode():
        return net(on_device(net, clips))


EMBEDDING = "embedding"


class FeatureNetwork:
    """A network as the stream runs it, that gives what its classifier sees in place of logits.

    Called with clips [B,3,T,S,S], it returns {"embedding": [B,D]}. Raises `UsageError` for a
    network without such features.
    """

    def __init__(self, net: VideoModel) -> None:
        if not hasattr(net, "features"):
            raise UsageError("this model has no features; use one of those of vt models list")
        self._compute: Callable[[Tensor], Tensor] = net.features
        self.config, self.card, self.labels = net.config, net.card, net.labels
        self.dtype, self.parameters = net.dtype, net.parameters

    def __call__(self, clips_B3THW: Tensor) -> Mapping[str, Tensor]:
        return {EMBEDDING: self._compute(clips_B3THW)}


def on_device(net: VideoModel, clips: Tensor) -> Tensor:
    """Clips on the network's device and in its data type."""
    return clips.to(next(net.parameters()).device, net.dtype, non_blocking=True)


def default_batch_size(net: VideoModel, shape: tuple[int, ...]) -> int:
    """How many clips of this shape make a batch, where no batch size is given."""
    on_cpu = next(net.parameters()).device.type == "cpu"
    budget = CPU_BATCH_VALUES if on_cpu else GPU_BATCH_VALUES
    return max(1, budget // math.prod(shape))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system ran out of memory, whatever type the backend raises."""
    import torch

    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    is_type = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_type or any(phrase in text for phrase in phrases)


def topk_per_head(
    logits: Mapping[str, Tensor], card: Any, rule: ViewFusion, topk: int
) -> dict[str, tuple[ClassPrediction, ...]]:
    """The best classes of each head of a model card, from its logits [V,K].

    The probabilities of a calibrated head are softmax(log p / temperature).

    The heads `noun` and `verb` are also ranked in pairs, as the first head `action`.
    """
    from vtcli.video.views import fuse_views

    heads: Sequence[HeadSpec] = card.heads
    rankings: dict[str, tuple[ClassPrediction, ...]] = {}
    if {head.name for head in heads} == {"noun", "verb"}:
        rankings["action"] = _rank_pairs(logits, {h.name: h for h in heads}, rule, topk)
    for head in heads:
        fused_K = fuse_views(logits[head.name], rule)
        score_K = class_scores(logits, card, head.name, rule)
        rankings[head.name] = _best(fused_K, score_K, head.labels, topk)
    return rankings


def class_scores(logits: Mapping[str, Tensor], card: Any, head: str, rule: ViewFusion) -> Tensor:
    """The probabilities [K] of a head, from the logits [V,K] per head: float64 on the CPU.

    Those of a calibrated head are softmax(log p / temperature).
    """
    import torch

    from vtcli.video.views import probabilities

    score_K = probabilities(logits[head], rule)
    if calibration := card.calibration.get(head):
        probabilities_K = score_K.double().numpy()
        score_K = torch.from_numpy(apply_temperature(probabilities_K, calibration["temperature"]))
    return score_K


def _rank_pairs(
    logits: Mapping[str, Tensor], heads: Mapping[str, HeadSpec], rule: ViewFusion, topk: int
) -> tuple[ClassPrediction, ...]:
    """The actions of EPIC-Kitchens: each verb with each noun, scored by the product of both.

    The index of a pair is noun * verbs + verb (ViViT, section 4.1; specification, head).
    """
    from vtcli.video.views import probabilities

    noun, verb = (probabilities(logits[name], rule) for name in ("noun", "verb"))
    pairs_K = (noun[:, None] * verb).flatten()
    names = [f"{v} {n}" for n in heads["noun"].labels for v in heads["verb"].labels]
    return _best(pairs_K, pairs_K, names, topk)


def _best(
    fused_K: Tensor, score_K: Tensor, names: Sequence[str], topk: int
) -> tuple[ClassPrediction, ...]:
    order = fused_K.argsort(descending=True, stable=True)[:topk]
    best = zip(order.tolist(), score_K[order].tolist(), fused_K[order].tolist(), strict=True)
    return tuple(ClassPrediction(i, names[i], score, fused) for i, score, fused in best)
