"""From decoded frames to the views a checkpoint was tested with, and from their logits to scores.

The functions here follow a `Pipeline`; its rules are in `transforms.py`.

Shape legend: V views, T frames of a clip, N decoded frames, S crop size, C = 3 channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vtcli.errors import InputError
from vtcli.video.pipeline import Pipeline, View, ViewFusion
from vtcli.video.transforms import (
    RESIZE_RULES,
    crop_corners,
    in_channel_order,
    normalize_clip,
    normalize_frames,
)

CHUNK_BYTES = 1 << 21
"""Bytes of frames that are resized at a time, so that intermediate results stay in the cache."""


def clip_tensors(
    frames_THWC: npt.NDArray[np.uint8],
    pipeline: Pipeline,
    crops: Sequence[int],
    num_crops: int | None = None,
) -> Tensor:
    """Crops of a clip of RGB frames: float32 [len(crops), 3, T, S, S].

    `crops` are numbers in the published order of `num_crops`, 1 or 3 (None: the pipeline's own).
    """
    resized_THWC = resize_frames(frames_THWC, pipeline)
    corners = _corners(resized_THWC, pipeline, pipeline.crops if num_crops is None else num_crops)
    return torch.stack([_crop(resized_THWC, corners[crop], pipeline) for crop in crops])


def views_from_frames(
    frames_NHWC: npt.NDArray[np.uint8],
    index_of: Mapping[int, int],
    pipeline: Pipeline,
    views: Sequence[View],
) -> Iterator[Tensor]:
    """The views one by one, in their order: float32 [3, T, S, S] each.

    `frames_NHWC` are RGB frames in any order, `index_of` the row of each frame index. All frames
    are resized before this returns, each once however many views show it; only the resized frames
    are kept in memory, and each view is cropped when it is requested.
    """
    used = sorted({index for view in views for index in view.frame_indices})
    resized_NHWC = resize_frames(frames_NHWC, pipeline, [index_of[index] for index in used])
    return _crop_views(
        resized_NHWC, {index: row for row, index in enumerate(used)}, pipeline, views
    )


def _crop_views(
    resized_NHWC: Tensor, row_of: Mapping[int, int], pipeline: Pipeline, views: Sequence[View]
) -> Iterator[Tensor]:
    for view in views:
        rows_T = torch.tensor([row_of[index] for index in view.frame_indices])
        corner = _corners(resized_NHWC, pipeline, view.num_crops)[view.crop]
        yield _crop(resized_NHWC, corner, pipeline, rows_T)


def resize_frames(
    frames_NHWC: npt.NDArray[np.uint8], pipeline: Pipeline, rows: Sequence[int] | None = None
) -> Tensor:
    """Frames (all, or `rows`) resized to the pipeline's size, in its channel order: [n, h, w, 3].

    uint8, or normalized float32 where the resize rule takes normalized pixels.
    """
    rows = range(len(frames_NHWC)) if rows is None else rows
    step = max(1, CHUNK_BYTES // max(1, frames_NHWC[0].nbytes))
    resized = []
    for start in range(0, len(rows), step):
        chunk = np.ascontiguousarray(frames_NHWC[list(rows[start : start + step])])
        resized.append(_resize_chunk(torch.from_numpy(chunk), pipeline))
    return torch.cat(resized)


def _resize_chunk(frames_THWC: Tensor, pipeline: Pipeline) -> Tensor:
    rule = RESIZE_RULES[pipeline.resize]
    size = rule.size(frames_THWC.shape[1], frames_THWC.shape[2], pipeline.short_side)
    height, width = pipeline.resize_to or size
    frames_THWC = in_channel_order(frames_THWC, pipeline.channel_order)
    if rule.normalized_first:
        frames_THWC = normalize_frames(frames_THWC, pipeline.normalize, pipeline.mean, pipeline.std)
    if pipeline.keeps_size or frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    return rule.pixels(frames_THWC, height, width)


def _corners(resized_THWC: Tensor, pipeline: Pipeline, num_crops: int) -> list[tuple[int, int]]:
    height, width = resized_THWC.shape[1:3]
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
    resized_NHWC: Tensor, corner: tuple[int, int], pipeline: Pipeline, rows_T: Tensor | None = None
) -> Tensor:
    """One crop of the frames in `rows_T` (None: all), normalized: [3, T, S, S]."""
    (top, left), size = corner, pipeline.crop_size
    clip_TSSC = resized_NHWC[:, top : top + size, left : left + size]
    if rows_T is not None:
        clip_TSSC = clip_TSSC.index_select(0, rows_T)
    if RESIZE_RULES[pipeline.resize].normalized_first:
        return clip_TSSC.permute(3, 0, 1, 2).contiguous()
    return normalize_clip(clip_TSSC, pipeline.normalize, pipeline.mean, pipeline.std)


def fuse_views(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """Upstream's score per class: the mean or sum over views of probabilities or logits.

    Logits [V, K] to float64 [K] on the CPU.
    """
    scores_VK = _per_view(logits_VK, rule)
    return scores_VK.mean(0) if rule.startswith("mean") else scores_VK.sum(0)


def probabilities(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    """The probability per class, in the same order as `fuse_views`: float64 [K] on the CPU.

    The mean of the views' probabilities, or the softmax of their mean logits.
    """
    mean_K = _per_view(logits_VK, rule).mean(0)
    return mean_K if rule.endswith("prob") else mean_K.softmax(0)


def _per_view(logits_VK: Tensor, rule: ViewFusion) -> Tensor:
    logits_VK = logits_VK.detach().cpu().double()
    return logits_VK.softmax(1) if rule.endswith("prob") else logits_VK
