"""Transforms: how each upstream resizes, crops and normalizes decoded frames, with its rounding.

The rules differ in number format (float32, OpenCV's and Pillow's fixed point, TensorFlow's
truncation) and in how the long side is rounded; test-time pipelines of the four specifications.

Shape legend: T frames, H height, W width in, h height, w width out; uint8 unless stated otherwise;
S crop size, C = 3 channels, R rows that are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Size: TypeAlias = tuple[int, int]
"""Height and width, in pixels."""
Pair: TypeAlias = tuple[Tensor, Tensor]

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
PILLOW_BYTES = 2**25
"""Bytes of frames that Pillow resizes at a time."""

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


# --- interpolation --------------------------------------------------------------------------------


def torch_bilinear(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Two taps per axis in float32, no antialiasing. Takes and returns float32."""
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2)
    resized_TCHW = interpolate(
        frames_TCHW, size=(height, width), mode="bilinear", align_corners=False
    )
    return resized_TCHW.permute(0, 2, 3, 1)


def torchvision_bilinear(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """`torch_bilinear` of the gray levels, rounded half to even."""
    return torch_bilinear(frames_THWC.float(), height, width).round_().to(torch.uint8)


def opencv_bilinear(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """cv2.resize with INTER_LINEAR on uint8, to the byte: weights of 11 bits, two truncations.

    Columns are weighted first and 4 of their 11 extra bits dropped; of the rows, each product is
    truncated by itself before the sum is rounded.
    """
    (left_w, right_w), (left_weight_w, right_weight_w) = _opencv_taps(frames_THWC.shape[2], width)
    (top_h, bottom_h), (top_weight_h, bottom_weight_h) = _opencv_taps(frames_THWC.shape[1], height)
    frames_TRWC, top_h, bottom_h = _rows_used(frames_THWC, top_h, bottom_h)
    across = _columns(frames_TRWC, left_w) * left_weight_w.repeat_interleave(3)
    across += _columns(frames_TRWC, right_w) * right_weight_w.repeat_interleave(3)
    across >>= 4
    above = across.index_select(1, top_h).mul_(top_weight_h[:, None]) >> 16
    below = across.index_select(1, bottom_h).mul_(bottom_weight_h[:, None]) >> 16
    resized = above.add_(below).add_(2) >> 2
    return resized.to(torch.uint8).view(-1, height, width, 3)


@lru_cache(maxsize=64)
def _opencv_taps(source: int, target: int) -> tuple[Pair, Pair]:
    """Per output pixel the two source pixels and their weights in 1/2048 (int32)."""
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    weights = np.rint(np.stack([1 - fraction, fraction]) * 2048).astype(np.int32)
    return _neighbors(first, source), (torch.from_numpy(weights[0]), torch.from_numpy(weights[1]))


def tensorflow_bilinear(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """tf.image.resize of uint8 without antialiasing, its float result truncated to uint8."""
    (left_w, right_w), weight_w = _tensorflow_taps(frames_THWC.shape[2], width)
    (top_h, bottom_h), weight_h = _tensorflow_taps(frames_THWC.shape[1], height)
    frames_TRWC, top_h, bottom_h = _rows_used(frames_THWC, top_h, bottom_h)
    left = _columns(frames_TRWC, left_w).float()
    across = (_columns(frames_TRWC, right_w) - left).mul_(weight_w.repeat_interleave(3)).add_(left)
    above = across.index_select(1, top_h)
    resized = (across.index_select(1, bottom_h) - above).mul_(weight_h[:, None]).add_(above)
    return resized.to(torch.uint8).view(-1, height, width, 3)


@lru_cache(maxsize=64)
def _tensorflow_taps(source: int, target: int) -> tuple[Pair, Tensor]:
    """Per output pixel the two source pixels and the second one's float32 weight."""
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5)
    position = (np.arange(target, dtype=np.float32) + half) * scale - half
    first = np.floor(position)
    return _neighbors(first, source), torch.from_numpy(position - first)


def pillow_resize(frames_THWC: Tensor, height: int, width: int, filter: Image.Resampling) -> Tensor:
    """PIL.Image.resize on uint8: antialiased except NEAREST, each axis rounded to uint8.

    Columns first, as Pillow did when the models were released (newer ones begin with the rows of
    very tall images).
    """
    together = max(1, PILLOW_BYTES // frames_THWC[0].numel())
    parts = [
        _pillow_resize(part.numpy(), height, width, filter) for part in frames_THWC.split(together)
    ]
    return torch.from_numpy(np.concatenate(parts))


def _pillow_resize(
    frames_THWC: npt.NDArray[np.uint8], h: int, w: int, filter: Image.Resampling
) -> npt.NDArray[np.uint8]:
    """Frames are stacked vertically to resize columns and horizontally to resize rows: two calls
    for all frames, in which Pillow cannot choose the order of the axes.
    """
    T, H, _, _ = frames_THWC.shape
    stacked = Image.fromarray(frames_THWC.reshape(T * H, -1, 3))
    across_THwC = np.asarray(stacked.resize((w, T * H), filter)).reshape(T, H, w, 3)
    in_row = Image.fromarray(across_THwC.swapaxes(0, 1).reshape(H, T * w, 3))
    return np.asarray(in_row.resize((T * w, h), filter)).reshape(h, T, w, 3).swapaxes(0, 1)


pillow_bilinear = partial(pillow_resize, filter=BILINEAR)


def _neighbors(first: npt.NDArray[np.floating[Any]], source: int) -> Pair:
    """The first tap and the next one, clamped to the border pixels."""
    return (
        torch.from_numpy(np.clip(first, 0, source - 1).astype(np.int64)),
        torch.from_numpy(np.clip(first + 1, 0, source - 1).astype(np.int64)),
    )


def _rows_used(
    frames_THWC: Tensor, top_h: Tensor, bottom_h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Only the rows that two-tap interpolation reads, and the positions of its taps among them."""
    rows_R, positions = torch.unique(torch.cat([top_h, bottom_h]), return_inverse=True)
    return frames_THWC.index_select(1, rows_R), positions[: len(top_h)], positions[len(top_h) :]


def _columns(frames_THWC: Tensor, columns_w: Tensor) -> Tensor:
    """The given columns, rows flattened to [T, H, w*3]: arithmetic on long rows is faster."""
    return frames_THWC.index_select(2, columns_w).flatten(2)


@dataclass(frozen=True)
class ResizeRule:
    """A resize rule: the new size from (height, width, short side), and the interpolation.

    `normalized_first`: frames are normalized before they are resized, else after the crop.
    """

    size: Callable[[int, int, int], Size]
    pixels: Callable[[Tensor, int, int], Tensor]
    normalized_first: bool = False


RESIZE_RULES: Mapping[str, ResizeRule] = {
    "normalized_bilinear": ResizeRule(long_side_of_float_ratio, torch_bilinear, True),
    "opencv_bilinear": ResizeRule(long_side_to_nearest, opencv_bilinear),
    "tensorflow_bilinear": ResizeRule(long_side_of_integers, tensorflow_bilinear),
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
    row_mean, row_std = (torch.tensor(list(values)).repeat(width) for values in (mean, std))
    flat = NORMALIZE_RULES[rule](frames_THWC.flatten(2).float(), row_mean, row_std)
    return flat.view(frames_THWC.shape)


def normalize_clip(
    clip_TSSC: Tensor, rule: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalize a uint8 clip [T, S, S, 3] to float32 [3, T, S, S]."""
    clip_CTSS = clip_TSSC.permute(3, 0, 1, 2).contiguous().float()
    mean_C111, std_C111 = (torch.tensor(list(values)).view(3, 1, 1, 1) for values in (mean, std))
    return NORMALIZE_RULES[rule](clip_CTSS, mean_C111, std_C111)
