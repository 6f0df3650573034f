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
    import torch

    order = sorted(clips)
    row_of = {slot: slot if slots else row for row, slot in enumerate(order)}
    first = clips[order[0]]
    on_gpu = next(net.parameters()).device.type == "cuda"
    batch = torch.zeros(slots or len(order), *first.shape, dtype=first.dtype, pin_memory=on_gpu)
    for slot in order:
        batch[row_of[slot]] = clips[slot]
    with memory_errors(len(batch)):
        rows = by_head(net, forward(net, batch))
    return {slot: {h: v[row_of[slot]] for h, v in rows.items()} for slot in order}


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
    heads = logits if isinstance(logits, Mapping) else {net.card.heads[0].name: logits}
    return {head: values.float().cpu() for head, values in heads.items()}


def score_clips(
    net: VideoModel,
    clips: Iterable[Tensor],
    batch_size: int | None,
    score: Callable[[Sequence[Tensor]], Sequence[Mapping[str, Tensor]]] | None = None,
) -> dict[str, Tensor]:
    """Logits [V,K] per head of clips [3,T,S,S], in batches of bounded size; fp32 on the CPU.

    `score` gives the logits [K] per head of each clip of a batch, by default those of the network.
    A batch that does not fit into memory is halved and tried again. Raises `OutOfMemoryError` where
    a single clip does not fit, `DataError` where a logit is NaN or infinite.
    """
    import torch

    def score_alone(batch: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        return list(score_slots(net, dict(enumerate(batch)), None).values())

    score = score or score_alone
    names = [head.name for head in net.card.heads]
    rows: list[Mapping[str, Tensor]] = []
    pending: list[Tensor] = []
    size = batch_size

    def flush() -> None:
        nonlocal size, pending
        while pending:
            part = pending[:size]
            try:
                rows.extend(score(part))
            except OutOfMemoryError:
                if len(part) == 1:
                    raise
                size = len(part) // 2
                continue
            pending = pending[len(part) :]

    for clip in clips:
        size = size or default_batch_size(net, tuple(clip.shape))
        pending.append(clip)
        if len(pending) >= size:
            flush()
    flush()
    logits = {name: torch.stack([row[name] for row in rows]) for name in names}
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
    return _computed(net, net, clips)


def features(net: VideoModel, clips: Tensor) -> Tensor:
    """What the classifier of a network sees of clips [B,3,T,S,S]: [B,D], fp32 on the CPU.

    Raises `UsageError` for a network without such a method.
    """
    compute = getattr(net, "features", None)
    if compute is None:
        raise UsageError("this model has no features; use one of those of vt models list")
    values: Tensor = _computed(net, compute, clips)
    return values.float().cpu()


def _computed(net: VideoModel, compute: Callable[[Tensor], Any], clips: Tensor) -> Any:
    import torch

    with torch.inference_mode():
        return compute(on_device(net, clips))


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
    import torch

    from vtcli.video.views import fuse_views, probabilities

    heads: Sequence[HeadSpec] = card.heads
    rankings: dict[str, tuple[ClassPrediction, ...]] = {}
    if {head.name for head in heads} == {"noun", "verb"}:
        rankings["action"] = _rank_pairs(logits, {h.name: h for h in heads}, rule, topk)
    for head in heads:
        fused_K = fuse_views(logits[head.name], rule)
        score_K = probabilities(logits[head.name], rule)
        if calibration := card.calibration.get(head.name):
            probabilities_K = score_K.double().numpy()
            score_K = torch.from_numpy(
                apply_temperature(probabilities_K, calibration["temperature"])
            )
        rankings[head.name] = _best(fused_K, score_K, head.labels, topk)
    return rankings


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
    order = fused_K.argsort(descending=True, stable=True)[:topk].tolist()
    return tuple(ClassPrediction(i, names[i], score_K[i].item(), fused_K[i].item()) for i in order)
