"""From clips to logits in batches of bounded size, and from the logits of all views to the top-k
classes per head.

Shape legend: B clips of a batch, V views, K classes, T frames of a clip, S crop size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtcli.errors import DataError, OutOfMemoryError

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


def score_clips(
    net: VideoModel, clips: Iterable[Tensor], batch_size: int | None
) -> dict[str, Tensor]:
    """Logits [V,K] per head of clips [3,T,S,S], in batches of bounded size; fp32 on the CPU.

    A batch that does not fit into memory is halved and tried again. Raises `OutOfMemoryError` where
    a single clip does not fit, `DataError` where a logit is NaN or infinite.
    """
    import torch

    names = [head.name for head in net.card.heads]
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    pending: list[Tensor] = []
    size = batch_size

    def flush() -> None:
        nonlocal size, pending
        while pending:
            assert size is not None
            try:
                logits = forward(net, torch.stack(pending[:size]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1 or len(pending) == 1:
                    raise OutOfMemoryError(
                        "one view of this model does not fit into memory; use a smaller model "
                        "or --device cpu"
                    ) from error
                size = max(1, min(size, len(pending)) // 2)
                continue
            parts = logits if isinstance(logits, Mapping) else {names[0]: logits}
            for name in names:
                rows[name].append(parts[name].float().cpu())
            pending = pending[size:]

    for clip in clips:
        size = size or default_batch_size(net, tuple(clip.shape))
        pending.append(clip)
        if len(pending) >= size:
            flush()
    flush()
    result = {name: torch.cat(parts) for name, parts in rows.items()}
    if not all(torch.isfinite(logits).all() for logits in result.values()):
        raise DataError(
            "the logits of the model are NaN or infinite; its weights are damaged, or try "
            "--precision fp32"
        )
    return result


def forward(net: VideoModel, clips: Tensor) -> Tensor | Mapping[str, Tensor]:
    """Logits of clips [B,3,T,S,S], which are moved to the network's device and data type."""
    import torch

    device = next(net.parameters()).device
    with torch.inference_mode():
        return net(clips.to(device, net.dtype))


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
    logits: Mapping[str, Tensor], heads: Sequence[HeadSpec], rule: ViewFusion, topk: int
) -> dict[str, tuple[ClassPrediction, ...]]:
    """The best classes of each head, from its logits [V,K].

    The heads `noun` and `verb` are also ranked in pairs, as the first head `action`.
    """
    from vtcli.video.views import fuse_views, probabilities

    rankings: dict[str, tuple[ClassPrediction, ...]] = {}
    if {head.name for head in heads} == {"noun", "verb"}:
        rankings["action"] = _rank_pairs(logits, {h.name: h for h in heads}, rule, topk)
    for head in heads:
        fused_K = fuse_views(logits[head.name], rule)
        score_K = probabilities(logits[head.name], rule)
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
