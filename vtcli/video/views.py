"""From decoded frames to the views a checkpoint was tested with, and from their logits to scores.

The functions here follow a `Pipeline`; its rules are in `transforms.py`.

Shape legend: V views, T frames of a clip, N decoded frames, S crop size, C = 3 channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vtcli.errors import InputError
from vtcli.video.decode import FramePart, in_turn
from vtcli.video.interpolation import Box
from vtcli.video.pipeline import MULTI_LABEL, Pipeline, View, ViewFusion, shown_frames
from vtcli.video.transforms import (
    RESIZE_RULES,
    Size,
    crop_corners,
    in_channel_order,
    normalize_frames,
    normalize_levels,
    normalize_planes,
)

CHUNK_BYTES = 1 << 21
"""Bytes of frames that are resized at a time, so that intermediate results stay in the cache."""
DEVICE_CHUNK_BYTES = 1 << 26
"""The same on a GPU: enough to keep it busy; float32 copies of them take four times as much."""


class FrameLimitError(InputError):
    """Frames that take too much memory, even when only what the views show of them is kept."""

    def __init__(self, frames: int, size: int, max_bytes: float) -> None:
        super().__init__(
            f"{frames} frames need {size / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f} GiB; "
            "use fewer views or a smaller video"
        )


def clip_tensors(
    frames_THWC: npt.NDArray[np.uint8],
    pipeline: Pipeline,
    crops: Sequence[int],
    num_crops: int | None = None,
) -> Tensor:
    """Crops of a clip of RGB frames: float32 [len(crops), 3, T, S, S].

    `crops` are numbers in the published order of `num_crops`, 1 or 3 (None: the pipeline's own).
    """
    num_crops = pipeline.crops if num_crops is None else num_crops
    corners = _corners(resized_size(frames_THWC, pipeline), pipeline, num_crops)
    box = _around([corners[crop] for crop in crops], pipeline.crop_size)
    resized_CTHW = resize_frames(frames_THWC, pipeline, box).permute(3, 0, 1, 2).contiguous()
    rows = range(len(frames_THWC))
    within = [_within(corners[crop], box) for crop in crops]
    return torch.stack([_crop(resized_CTHW, corner, pipeline, rows) for corner in within])


def views_from_frames(
    frames_NHWC: npt.NDArray[np.uint8],
    index_of: Mapping[int, int],
    pipeline: Pipeline,
    views: Sequence[View],
) -> ViewClips:
    """`views_from_parts` of RGB frames in any order, `index_of` the row of each frame index."""
    used = shown_frames(views)
    rows = [index_of[index] for index in used]
    parts = in_turn(
        rows, _chunk_length(frames_NHWC, CHUNK_BYTES), lambda part: frames_NHWC[list(part)]
    )
    return views_from_parts(parts, used, pipeline, views)


def views_from_parts(
    parts: Iterable[FramePart],
    indices: Sequence[int],
    pipeline: Pipeline,
    views: Sequence[View],
    max_bytes: float = math.inf,
    device: str | None = None,
) -> ViewClips:
    """The views one by one, in their order: float32 [3, T, S, S] each.

    `parts` are the RGB frames `indices`, all of one size. They are resized before this returns,
    each once however many views show it, and only what the crops show of them is kept in memory;
    each view is cropped when it is requested. With `device` they are moved there before they are
    resized, if the pipeline's rule gives the same there. Raises `InputError` for frames that are
    smaller than the crop, and `FrameLimitError` where both the frames and what is kept of them are
    more than `max_bytes`.
    """
    kept_CNHW, corners_V, box = torch.empty(0), [(0, 0)], (slice(0), slice(0))
    for rows, frames_NHWC in parts:
        if not len(kept_CNHW):
            size = resized_size(frames_NHWC, pipeline)
            corners_V = [_corners(size, pipeline, v.num_crops)[v.crop] for v in views]
            box = _around(corners_V, pipeline.crop_size)
        resized_NHWC = resize_frames(frames_NHWC, pipeline, box, device)
        if not len(kept_CNHW):
            nbytes = len(indices) * min(resized_NHWC[0].nbytes, frames_NHWC[0].nbytes)
            if nbytes > max_bytes:
                raise FrameLimitError(len(indices), nbytes, max_bytes)
            height, width = resized_NHWC.shape[1:3]
            kept_CNHW = resized_NHWC.new_empty((3, len(indices), height, width))
        if isinstance(rows, range):
            kept_CNHW[:, rows.start : rows.stop] = resized_NHWC.permute(3, 0, 1, 2)
            continue
        for row, frame_HWC in zip(rows, resized_NHWC, strict=True):
            kept_CNHW[:, row] = frame_HWC.permute(2, 0, 1)
    within_V = [_within(corner, box) for corner in corners_V]
    return ViewClips(kept_CNHW, indices, pipeline, list(zip(views, within_V, strict=True)))


def _around(corners: Sequence[tuple[int, int]], crop_size: int) -> Box:
    """The rows and columns of the smallest box that contains all crops."""
    rows, columns = (
        slice(min(starts), max(starts) + crop_size) for starts in zip(*corners, strict=True)
    )
    return rows, columns


def _within(corner: tuple[int, int], box: Box) -> tuple[int, int]:
    return corner[0] - box[0].start, corner[1] - box[1].start


class ViewClips(Iterator[Tensor]):
    """The views of a video one by one, each at its corner in what is kept of the resized frames.

    Iterating gives normalized clips; `crops` gives what is normalized for them.
    """

    def __init__(
        self,
        kept_CNHW: Tensor,
        indices: Sequence[int],
        pipeline: Pipeline,
        views: Sequence[tuple[View, tuple[int, int]]],
    ) -> None:
        self.kept_CNHW, self.pipeline = kept_CNHW, pipeline
        row_of = {index: row for row, index in enumerate(indices)}
        self._left = iter(
            [([row_of[index] for index in view.frame_indices], corner) for view, corner in views]
        )

    def __next__(self) -> Tensor:
        rows, corner = next(self._left)
        return _crop(self.kept_CNHW, corner, self.pipeline, rows)

    def crops(self) -> Iterator[Tensor]:
        """The views that are left, [3, T, S, S]: uint8, or normalized float32 where the resize rule
        takes normalized pixels.
        """
        size = self.pipeline.crop_size
        for rows, (top, left) in self._left:
            yield self.kept_CNHW[:, rows, top : top + size, left : left + size]


def resized_size(frames_NHWC: npt.NDArray[np.uint8] | Tensor, pipeline: Pipeline) -> Size:
    """Height and width to which the pipeline resizes these frames."""
    height, width = frames_NHWC.shape[1:3]
    return _resized((height, width), pipeline)


def _resized(size: Size, pipeline: Pipeline) -> Size:
    if pipeline.keeps_size:
        return size
    return pipeline.resize_to or RESIZE_RULES[pipeline.resize].size(*size, pipeline.short_side)


def center_box(height: int, width: int, pipeline: Pipeline) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of what the center crop shows, as fractions of the frame."""
    (tall, wide), side = _resized((height, width), pipeline), pipeline.crop_size
    ((top, left),) = _corners((tall, wide), pipeline, 1)
    return top / tall, left / wide, (top + side) / tall, (left + side) / wide


def resize_frames(
    frames_NHWC: npt.NDArray[np.uint8], pipeline: Pipeline, box: Box, device: str | None = None
) -> Tensor:
    """A box of the frames resized to the pipeline's size, in its channel order: [n, h, w, 3].

    uint8, or normalized float32 where the resize rule takes normalized pixels. On `device`, if it
    is given and the rule gives the same there.
    """
    # Contiguous and writable, as PyTorch takes it: nearly always without a copy.
    frames_THWC = torch.from_numpy(np.require(frames_NHWC, requirements=("C", "W")))
    if device is not None and RESIZE_RULES[pipeline.resize].on_devices:
        chunks = frames_THWC.split(_chunk_length(frames_NHWC, DEVICE_CHUNK_BYTES))
        return torch.cat(
            [_resize_chunk(chunk.to(device), pipeline, box, device) for chunk in chunks]
        )
    chunks = frames_THWC.split(_chunk_length(frames_NHWC, CHUNK_BYTES))
    return torch.cat([_resize_chunk(chunk, pipeline, box) for chunk in chunks])


def _chunk_length(frames_NHWC: npt.NDArray[np.uint8], most: int) -> int:
    return max(1, most // max(1, frames_NHWC[0].nbytes))


def _resize_chunk(
    frames_THWC: Tensor, pipeline: Pipeline, box: Box, device: str | None = None
) -> Tensor:
    rule, (height, width) = RESIZE_RULES[pipeline.resize], resized_size(frames_THWC, pipeline)
    # Channels are reversed in the result, which has fewer pixels.
    order = -1 if pipeline.channel_order == "bgr" else 1
    if order == 1:
        frames_THWC = in_channel_order(frames_THWC, pipeline.channel_order)
    is_resized = frames_THWC.shape[1:3] == (height, width)
    if is_resized:
        frames_THWC = frames_THWC[:, box[0], box[1]]
    if rule.normalized_first:
        mean, std = pipeline.mean[::order], pipeline.std[::order]
        frames_THWC = normalize_frames(frames_THWC, pipeline.normalize, mean, std)
    if not is_resized:
        where = {} if device is None else {"device": device}
        frames_THWC = rule.pixels(frames_THWC, height, width, box, **where)
    return frames_THWC.flip(-1) if order == -1 else frames_THWC


def _corners(size: Size, pipeline: Pipeline, num_crops: int) -> list[tuple[int, int]]:
    height, width = size
    if min(height, width) < pipeline.crop_size:
        raise InputError(
            f"its frames are {width}x{height}, and the model's pipeline cuts {pipeline.crop_size}x"
            f"{pipeline.crop_size} out of frames that it does not resize; use a larger video, or "
            "another --pipeline"
        )
    return crop_corners(
        (height, width), pipeline.crop_size, pipeline.crop_offset, pipeline.crop_order, num_crops
    )


def _crop(
    resized_CNHW: Tensor, corner: tuple[int, int], pipeline: Pipeline, rows: Sequence[int]
) -> Tensor:
    """One crop of the frames in `rows`, normalized: [3, T, S, S]."""
    (top, left), size = corner, pipeline.crop_size
    crop_CNSS = resized_CNHW[:, :, top : top + size, left : left + size]
    p = pipeline
    if RESIZE_RULES[p.resize].normalized_first:
        clip_CTSS = crop_CNSS.new_empty((3, len(rows), size, size))
        for place, row in enumerate(rows):  # much faster than one copy of all rows
            clip_CTSS[:, place] = crop_CNSS[:, row]
        return clip_CTSS
    if resized_CNHW.device.type != "cpu":
        return normalize_planes(crop_CNSS[:, list(rows)].float(), p.normalize, p.mean, p.std)
    return normalize_levels(crop_CNSS, rows, p.normalize, p.mean, p.std)


def fuse_views(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """Upstream's score per class: the mean or sum over views of probabilities or logits.

    Logits [V, K] to float64 [K] on the CPU.
    """
    scores_VK = view_scores(logits_VK, rule)
    return scores_VK.mean(0) if rule.startswith("mean") else scores_VK.sum(0)


def mean_scores(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """The mean over views of what the rule fuses: float64 [K] on the CPU."""
    return view_scores(logits_VK, rule).mean(0)


def probabilities(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """The probability per class, in the same order as `fuse_views`: float64 [K] on the CPU.

    The mean of the views' probabilities, or the softmax of their mean logits. Those of
    `MULTI_LABEL` are of one class each, and do not sum to 1.
    """
    mean_K = mean_scores(logits_VK, rule)
    return mean_K.softmax(0) if rule.endswith("logit") else mean_K


def view_scores(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """What the rule fuses of each view, probabilities or logits: float64 [V, K] on the CPU."""
    logits_VK = logits_VK.detach().cpu().double()
    if rule == MULTI_LABEL:
        return logits_VK.sigmoid()
    return logits_VK.softmax(1) if rule.endswith("prob") else logits_VK
