"""Why a model gives a class its score: which parts of which frames count for it.

Integrated gradients (Sundararajan et al., 2017, equation 3): the gradient of the class's log
probability is averaged on the straight line from a clip without content, the mean color, to the
clip, times their difference, and summed over the cells of a grid. The method needs nothing of a
network but its gradients, so that it is the same for every architecture; fused attention keeps no
maps that could be followed. The check is by occlusion: without the most important tenth of the
cells, the probability must fall more than without a random tenth.

Shape legend: T frames, S crop size, G cells along a side, K classes, P points of the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Sample
from vtcli.errors import UsageError
from vtcli.inference.predictor import Predictor
from vtcli.inference.scoring import default_batch_size, on_device, score_clips
from vtcli.video.container import checked_path
from vtcli.video.decode_pool import source_info
from vtcli.video.heat import HeatMap

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.models.protocol import VideoModel
    from vtcli.video.decode import VideoInfo
    from vtcli.video.pipeline import Pipeline

PATH_POINTS = 32
FRACTION = 0.1
"""Of the cells, what the check leaves out."""
RANDOM_DRAWS = 10
_SIDES = (14, 16, 12, 8, 4, 2, 1)
_LEAST_CELL = 4  # pixels
_STRONGEST = 99  # percentile of the relevance that is shown in full


@dataclass(frozen=True)
class Deletion:
    """The probability of the class: of the clip, without the most important cells, and without as
    many random ones (mean of several draws).
    """

    score: float
    without_important: float
    without_random: float

    @property
    def is_faithful(self) -> bool:
        """Whether the important cells matter more than random ones."""
        return self.without_important < self.without_random


@dataclass(frozen=True)
class Explanation:
    """What counts for a class in one clip of a video.

    `frames` are uint8 RGB [T,S,S,3] as the model saw them, `times` [T] in seconds; `relevance`
    [T,G,G] is what each cell adds to the log probability of the class, below 0 where it speaks
    against it. `box` is the part of the frame that the model saw, as in `HeatMap`.
    """

    path: str
    info: VideoInfo
    index: int
    label: str
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    relevance: NDArray[np.float64]
    deletion: Deletion
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def heat(self) -> NDArray[np.float64]:
        """What speaks for the class [T,G,G], from 0 to 1 for the strongest cells."""
        return heat_of(self.relevance)

    @property
    def heat_map(self) -> HeatMap:
        """The same in the frames of the video."""
        return HeatMap(self.times, self.heat, self.box)

    @property
    def frame_importance(self) -> NDArray[np.float64]:
        """The fraction of each frame [T] in what speaks for the class."""
        positive_T = np.maximum(self.relevance, 0).sum((1, 2))
        return positive_T / max(positive_T.sum(), 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the pictures."""
        importance = self.frame_importance.tolist()
        return {
            "path": self.path,
            "index": self.index,
            "label": self.label,
            "score": self.deletion.score,
            "score_without_important": self.deletion.without_important,
            "score_without_random": self.deletion.without_random,
            "frames": [
                {"time": round(time, 3), "importance": share}
                for time, share in zip(self.times.tolist(), importance, strict=True)
            ],
            "relevance": self.relevance.tolist(),
        }


def explain(predictor: Predictor, path: str, label: str | None = None) -> Explanation:
    """Explain the score of a class, by default of the best one, in the center view of a video.

    Raises `UsageError` for a class that the model does not have or settings with several views, and
    `VideoDecodeError`.
    """
    if (predictor.clips, predictor.crops) != (1, 1):
        raise UsageError("one view of a video is explained; leave out --views")
    file = checked_path(path)  # before any weights are loaded
    from vtcli.video.views import center_box

    pipeline, net = predictor.pipeline, predictor.net
    require_gradients(net)
    reader = ClipReader(pipeline, 1, 1, decoder=predictor.settings.decoder)
    sample = Sample(path, file)
    loaded = reader.read(sample, None, predictor.decoders.open)
    (clip_3TSS,) = loaded.clips
    info = source_info(loaded.source)
    index = _class_index(net, clip_3TSS, label)
    relevance_TGG = integrated_gradients(net, clip_3TSS, index)
    frames = [int(i) for i in loaded.views[0].frame_indices]
    return Explanation(
        path,
        info,
        index,
        net.labels[index],
        _visible(clip_3TSS, pipeline),
        np.asarray(loaded.source.times, np.float64)[frames],
        relevance_TGG,
        deletion_test(net, clip_3TSS, index, relevance_TGG),
        center_box(info.height, info.width, pipeline),
    )


def require_gradients(net: object) -> None:
    """Raise `UsageError` for the network of an exported graph."""
    if not hasattr(net, "state_dict"):
        raise UsageError(
            "a graph has no gradients; explain the .safetensors file that it was exported from"
        )


def heat_of(relevance_TGG: NDArray[np.float64]) -> NDArray[np.float64]:
    """What speaks for a class [T,G,G], from 0 to 1 for the strongest cells."""
    positive_TGG = np.maximum(relevance_TGG, 0)
    strongest = max(float(np.percentile(positive_TGG, _STRONGEST)), 1e-12)
    return np.asarray(np.minimum(positive_TGG / strongest, 1))


def integrated_gradients(
    net: VideoModel, clip_3TSS: Tensor, index: int, points: int = PATH_POINTS
) -> NDArray[np.float64]:
    """What each cell [T,G,G] adds to the log probability of a class."""
    import torch

    empty_3TSS = _empty(clip_3TSS)
    difference = clip_3TSS - empty_3TSS
    total = torch.zeros_like(clip_3TSS)
    # The activations of all layers are kept for the gradients.
    size = max(1, default_batch_size(net, tuple(clip_3TSS.shape)) // 2)
    for steps_P in ((torch.arange(points) + 0.5) / points).split(size):
        clips_P3TSS = empty_3TSS + steps_P.view(-1, 1, 1, 1, 1) * difference
        with torch.enable_grad():
            clips_P3TSS.requires_grad_()
            log_p_PK = _logits(net, clips_P3TSS).log_softmax(-1)
            (gradients,) = torch.autograd.grad(log_p_PK[:, index].sum(), clips_P3TSS)
        total += gradients.sum(0)
    contribution_TSS = (total / points * difference).sum(0)
    T, S, _ = contribution_TSS.shape
    G = grid_side(S)
    cells = contribution_TSS.view(T, G, S // G, G, S // G).sum((2, 4))
    relevance: NDArray[np.float64] = cells.double().numpy()
    return relevance


def grid_side(size: int) -> int:
    """Cells along the side of a frame: a number that divides it, of at least four pixels each."""
    return next(side for side in _SIDES if size % side == 0 and size // side >= _LEAST_CELL)


def deletion_test(
    net: VideoModel, clip_3TSS: Tensor, index: int, relevance_TGG: NDArray[np.float64]
) -> Deletion:
    """The probability of a class, and without the most important or a random tenth of the cells."""
    flat = relevance_TGG.ravel()
    count = max(1, round(FRACTION * flat.size))
    rng = np.random.default_rng(0)
    important = np.argsort(-flat, kind="stable")[:count]
    random = [rng.choice(flat.size, count, replace=False) for _ in range(RANDOM_DRAWS)]
    clips = (
        _without(clip_3TSS, cells, relevance_TGG.shape)
        for cells in (np.empty(0, np.int64), important, *random)
    )
    head = net.card.heads[0].name
    logits_VK = score_clips(net, clips, None)[head]
    score, first, *others = logits_VK.softmax(-1)[:, index].tolist()
    return Deletion(score, first, fmean(others))


def _without(clip_3TSS: Tensor, cells: NDArray[np.int64], shape: tuple[int, ...]) -> Tensor:
    """The clip with the mean color in some cells."""
    import torch

    mask = np.zeros(shape, bool)
    mask.ravel()[cells] = True
    size = clip_3TSS.shape[-1] // shape[-1]
    mask_TSS = torch.from_numpy(mask.repeat(size, axis=1).repeat(size, axis=2))
    return torch.where(mask_TSS, _empty(clip_3TSS), clip_3TSS)


def _empty(clip_3TSS: Tensor) -> Tensor:
    """A clip without content: the mean color of the clip everywhere."""
    return clip_3TSS.mean((1, 2, 3), keepdim=True).expand_as(clip_3TSS)


def _logits(net: VideoModel, clips_B3TSS: Tensor) -> Tensor:
    """Logits [B,K] of the first head, fp32 on the CPU."""
    logits = net(on_device(net, clips_B3TSS))
    first = next(iter(logits.values())) if isinstance(logits, Mapping) else logits
    return first.float().cpu()


def _class_index(net: VideoModel, clip_3TSS: Tensor, label: str | None) -> int:
    import torch

    labels = net.card.heads[0].labels
    if label is None:
        with torch.inference_mode():
            return int(_logits(net, clip_3TSS[None]).argmax())
    if label not in labels:
        raise UsageError(
            f"the model has no class '{label}'; its classes are {', '.join(labels[:8])}"
            f"{', ...' if len(labels) > 8 else ''}"
        )
    return int(list(labels).index(label))


def _visible(clip_3TSS: Tensor, pipeline: Pipeline) -> NDArray[np.uint8]:
    """The frames [T,S,S,3] of a normalized clip."""
    values = clip_3TSS.permute(1, 2, 3, 0).double().numpy()
    values = values * np.array(pipeline.std) + np.array(pipeline.mean)
    if pipeline.channel_order == "bgr":
        values = values[..., ::-1]
    # Mean and std are of pixels in 0..1 or in 0..255, as upstream's code has them.
    in_bytes = max(pipeline.mean) > 1
    return np.clip(values if in_bytes else 255 * values, 0, 255).round().astype(np.uint8)
