"""Transforms: how each upstream resizes, crops and normalizes decoded frames, with its rounding.

The rules differ in interpolation (`interpolation.py`) and in how the long side is rounded;
test-time pipelines of the four specifications.

Shape legend: T frames, H height, W width; uint8 unless stated otherwise; S crop size, C = 3
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vtcli.video.interpolation import (
    opencv_bilinear,
    pillow_resize,
    tensorflow_bilinear,
    torch_bilinear,
    torchvision_bilinear,
)

Size: TypeAlias = tuple[int, int]
"""Height and width, in pixels."""

BILINEAR = Image.Resampling.BILINEAR
OTHER_FILTERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
)
GRAY_WEIGHTS = (19595, 38470, 7471)
"""Luma of ITU-R BT.601 in 1/65536 of a gray level, as Pillow converts RGB to gray."""

# --- sizes: the short side is given, the rules differ in the long one -----------------------------


def long_side_of_float_ratio(height: int, width: int, short_side: int) -> Size:
    """The long side is the float ratio of the sides, times the short side, rounded down.

    Frames that already have this short side keep their size, which the float ratio may miss by one.
    """
    if min(height, width) == short_side:
        return height, width
    long = math.floor(max(height, width) / min(height, width) * short_side)
    return _oriented(height, width, short_side, long)


def long_side_of_integers(height: int, width: int, short_side: int) -> Size:
    """The long side is the exact quotient, rounded down."""
    long = short_side * max(height, width) // min(height, width)
    return _oriented(height, width, short_side, long)


def long_side_to_nearest(height: int, width: int, short_side: int) -> Size:
    """Both sides times one float factor, halves rounded up."""
    factor = short_side / min(height, width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _oriented(height: int, width: int, short: int, long: int) -> Size:
    return (long, short) if height > width else (short, long)


# --- channels -------------------------------------------------------------------------------------


def in_channel_order(frames_THWC: Tensor, order: str) -> Tensor:
    """uint8 RGB frames as RGB, as BGR, or as three equal gray channels."""
    if order == "gray":
        return gray(frames_THWC)
    return frames_THWC.flip(-1) if order == "bgr" else frames_THWC


def gray(frames_THWC: Tensor) -> Tensor:
    """Image.convert("L"), to the byte, repeated in three channels."""
    weighted = (frames_THWC[..., c].int() * weight for c, weight in enumerate(GRAY_WEIGHTS))
    luma_THW = (sum(weighted, start=torch.tensor(1 << 15, dtype=torch.int32)) >> 16).to(torch.uint8)
    return luma_THW[..., None].expand(-1, -1, -1, 3).contiguous()


# --- resize rules ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResizeRule:
    """A resize rule: the new size from (height, width, short side), and the interpolation: frames,
    height, width and box (optional) to the box of the resized frames.

    `normalized_first`: frames are normalized before they are resized, else after the crop.
    `on_devices`: `pixels` takes the device of the frames, and gives the same bytes on each, or the
    same float32 values within rounding.
    """

    size: Callable[[int, int, int], Size]
    pixels: Callable[..., Tensor]
    normalized_first: bool = False
    on_devices: bool = False


RESIZE_RULES: Mapping[str, ResizeRule] = {
    "normalized_bilinear": ResizeRule(long_side_of_float_ratio, torch_bilinear, True, True),
    "opencv_bilinear": ResizeRule(long_side_to_nearest, opencv_bilinear, on_devices=True),
    "tensorflow_bilinear": ResizeRule(long_side_of_integers, tensorflow_bilinear, on_devices=True),
    **{
        f"pillow_{filter.name.lower()}": ResizeRule(
            long_side_of_integers, partial(pillow_resize, filter=filter)
        )
        for filter in (BILINEAR, *OTHER_FILTERS)
    },
    "torchvision_bilinear": ResizeRule(long_side_of_integers, torchvision_bilinear),
}

# --- crops ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CropRule:
    """Offsets of crops along an axis with `slack` pixels left: of a single crop, and of three."""

    single: Callable[[int], int]
    three: Callable[[int], tuple[int, int, int]]


def _floor_half(slack: int) -> int:
    return slack // 2


def _ceil_half(slack: int) -> int:
    return -(-slack // 2)


def _round_half(slack: int) -> int:
    return round(slack / 2)


CROP_RULES: Mapping[str, CropRule] = {
    "ceil": CropRule(_ceil_half, lambda slack: (0, _ceil_half(slack), slack)),
    # mmaction's last crop is at twice the offset of the middle one: an odd slack leaves one pixel.
    "floor": CropRule(_floor_half, lambda slack: (0, _floor_half(slack), 2 * _floor_half(slack))),
    "round": CropRule(_round_half, lambda slack: (0, _round_half(slack), slack)),
    # scenic rounds the middle of three crops up and a single center crop down.
    "ceil_of_three": CropRule(_floor_half, lambda slack: (0, _ceil_half(slack), slack)),
}
CROP_ORDERS: Mapping[str, tuple[int, int, int]] = {
    "first_middle_last": (0, 1, 2),
    "first_last_middle": (0, 2, 1),
}


def crop_corners(
    size: Size, crop_size: int, rule: str, order: str, num_crops: int
) -> list[tuple[int, int]]:
    """Top and left of each crop in the published order: one in the center, or three.

    Three are next to each other in a landscape or square frame, below each other in a portrait one.
    """
    slack_y, slack_x = size[0] - crop_size, size[1] - crop_size
    if num_crops == 1:
        return [(CROP_RULES[rule].single(slack_y), CROP_RULES[rule].single(slack_x))]
    tops, lefts = CROP_RULES[rule].three(slack_y), CROP_RULES[rule].three(slack_x)
    portrait = size[0] > size[1]
    corners = [(top, lefts[1]) for top in tops] if portrait else [(tops[1], left) for left in lefts]
    return [corners[position] for position in CROP_ORDERS[order]]


# --- normalization: float32, in each upstream's order of operations -------------------------------


def _scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return pixels.div_(255).sub_(mean).div_(std)


def _raw(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return pixels.sub_(mean).div_(std)


def _raw_reciprocal(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return pixels.sub_(mean).double().mul_(1 / std.double()).float()


def _signed(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return pixels.mul_(2 / 255).sub_(1).sub_(mean).div_(std)


NORMALIZE_RULES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "scaled": _scaled,  # gray levels to 0..1, then mean and std
    "raw": _raw,  # mean and std of gray levels
    "raw_reciprocal": _raw_reciprocal,  # the same as in OpenCV: times 1/std in float64
    "signed": _signed,  # gray levels to -1..1, then mean and std
}


def normalize_frames(
    frames_THWC: Tensor, rule: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalize uint8 frames [T, H, W, 3] to float32 of the same shape."""
    width = frames_THWC.shape[2]
    # Flattened rows and a repeated mean: four times as fast as broadcasting over three channels.
    device = str(frames_THWC.device)
    row_mean, row_std = (_row(tuple(values), width, device) for values in (mean, std))
    flat = NORMALIZE_RULES[rule](frames_THWC.flatten(2).float(), row_mean, row_std)
    return flat.view(frames_THWC.shape)


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], width: int, device: str) -> Tensor:
    return torch.tensor(values, device=device).repeat(width)


def normalize_clip(
    clip_TSSC: Tensor, rule: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalize a uint8 clip [T, S, S, 3] to float32 [3, T, S, S]."""
    levels_CTSS = clip_TSSC.permute(3, 0, 1, 2)
    return normalize_levels(levels_CTSS, range(len(clip_TSSC)), rule, mean, std)


def normalize_levels(
    levels_CNSS: Tensor, rows: Sequence[int], rule: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalize these frames of uint8 planes [3, N, S, S] on the CPU: float32 [3, len(rows), S, S].

    The values of 256 gray levels are looked up, which is faster than any rule's arithmetic.
    """
    tables_CL = _level_tables(rule, tuple(mean), tuple(std))
    clip_CTSS = np.empty((3, len(rows), *levels_CNSS.shape[2:]), np.float32)
    channels = zip(tables_CL, levels_CNSS.numpy(), clip_CTSS, strict=True)
    for table_L, levels_NSS, clip_TSS in channels:
        for row, frame_SS in zip(rows, clip_TSS, strict=True):
            # By default, "raise", the result would be copied.
            np.take(table_L, levels_NSS[row], out=frame_SS, mode="wrap")
    return torch.from_numpy(clip_CTSS)


def normalize_planes(
    clip_CTSS: Tensor, rule: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalize gray levels in float32 [..., 3, T, S, S], in place where the rule can, on the
    device where they are.
    """
    mean_C111, std_C111 = (_planes(tuple(v), str(clip_CTSS.device)) for v in (mean, std))
    return NORMALIZE_RULES[rule](clip_CTSS, mean_C111, std_C111)


@lru_cache(maxsize=64)
def _level_tables(
    rule: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """What each gray level of each channel is normalized to, in the rule's arithmetic: [3, 256]."""
    levels_C1L1 = torch.arange(256.0).expand(3, 1, 256)[..., None].clone()
    table: npt.NDArray[np.float32] = normalize_planes(levels_C1L1, rule, mean, std).numpy()
    return table.reshape(3, 256)


@lru_cache(maxsize=64)
def _planes(values: tuple[float, ...], device: str) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1, 1)
