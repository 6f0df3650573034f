"""Interpolation: frames of another size, to the byte as each upstream's library computes them.

Each function takes frames [T, H, W, 3], the new height and width, and the box of the result that is
wanted: only the pixels that this box depends on are read. Two-tap kernels go through a frame in
bands of rows, so that intermediate results stay in the cache; `device` is where frames are that are
to be computed all at once instead, as suits a GPU, with the same result.

Shape legend: T frames, H height, W width in, h height, w width of the box out, R rows that are
read, B rows of a band, C = 3 channels; rows are flattened to W*3 values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Box: TypeAlias = tuple[slice, slice]
"""Rows and columns, both with a start and a stop."""
Taps: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Tensor, Tensor]
"""Per output pixel the two source pixels and their weights."""

BAND_VALUES = 2**18
"""Source values of a band, a megabyte in float32: larger ones leave the cache, and memory for them
is returned to the system and fetched again.
"""
NOISE_BYTES = 65_521
"""Bytes of noise that is repeated to a frame: a prime, so that rows differ."""
PILLOW_BYTES = 2**25
"""Bytes of frames that Pillow resizes at a time."""

# --- PyTorch: two taps per axis in float32 --------------------------------------------------------


def torch_bilinear(
    frames_THWC: Tensor,
    height: int,
    width: int,
    box: Box | None = None,
    device: str | None = None,
) -> Tensor:
    """Two taps per axis in float32, no antialiasing. Takes and returns float32.

    PyTorch's kernels for other devices may round the last bit otherwise.
    """
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2)
    resized_TCHW = interpolate(
        frames_TCHW, size=(height, width), mode="bilinear", align_corners=False
    )
    return _boxed(resized_TCHW.permute(0, 2, 3, 1), box)


def torchvision_bilinear(
    frames_THWC: Tensor, height: int, width: int, box: Box | None = None
) -> Tensor:
    """`torch_bilinear` of the gray levels, rounded half to even."""
    return torch_bilinear(frames_THWC.float(), height, width, box).round().to(torch.uint8)


# --- two taps per axis with other arithmetic ------------------------------------------------------


@dataclass(frozen=True)
class _Band:
    """Rows of the box, the source rows that they read, and the taps [B] among these, with their
    weights [B, 1].
    """

    rows: slice
    source: Tensor
    top: Tensor
    bottom: Tensor
    top_weight: Tensor
    bottom_weight: Tensor


@dataclass(frozen=True)
class _Plan:
    """Two-tap interpolation of a box: the source columns, their taps, and bands of rows."""

    columns: slice
    left_w3: Tensor
    right_w3: Tensor
    left_weight_w3: Tensor
    right_weight_w3: Tensor
    bands: tuple[_Band, ...]


def _plan(down: Taps, across: Taps, device: str | None) -> _Plan:
    left, right, left_weight, right_weight = across
    columns = slice(int(left.min()), int(right.max()) + 1)
    top, bottom, top_weight, bottom_weight = down
    length = max(1, BAND_VALUES // (6 * max(len(left), columns.stop - columns.start)))
    if device is not None:
        length = len(top)
    bands = []
    for start in range(0, len(top), length):
        part = slice(start, start + length)
        taps = np.concatenate([top[part], bottom[part]])
        rows_R, positions = (torch.from_numpy(a) for a in np.unique(taps, return_inverse=True))
        top_B, bottom_B = positions.chunk(2)
        tensors = rows_R, top_B, bottom_B, top_weight[part, None], bottom_weight[part, None]
        bands.append(_Band(part, *(tensor.to(device) for tensor in tensors)))
    return _Plan(
        columns,
        _values(left - columns.start).to(device),
        _values(right - columns.start).to(device),
        left_weight.repeat_interleave(3).to(device),
        right_weight.repeat_interleave(3).to(device),
        tuple(bands),
    )


def _values(columns_w: npt.NDArray[np.int64]) -> Tensor:
    """The positions of all channels of these columns in a flattened row."""
    return torch.from_numpy((columns_w[:, None] * 3 + np.arange(3)).ravel())


def _two_taps(
    frames_THWC: Tensor,
    plan: _Plan,
    band_pixels: Callable[[Tensor, _Plan, _Band], Tensor],
    device: str | None,
) -> Tensor:
    """Each band of each frame by `band_pixels`, which takes its source rows as float32 [R, W*3], or
    of all frames [T, R, W*3] at once.
    """
    height, width3 = sum(len(band.top) for band in plan.bands), len(plan.left_w3)
    resized = frames_THWC.new_empty((len(frames_THWC), height, width3))
    one_by_one = zip(frames_THWC, resized, strict=True)
    for frames_HWC, resized_hw3 in one_by_one if device is None else [(frames_THWC, resized)]:
        source_HWC = frames_HWC[..., plan.columns, :]
        for band in plan.bands:
            values = source_HWC.index_select(-3, band.source).float().flatten(-2)
            resized_hw3[..., band.rows, :] = band_pixels(values, plan, band)
    return resized.unflatten(2, (-1, 3))


def opencv_bilinear(
    frames_THWC: Tensor,
    height: int,
    width: int,
    box: Box | None = None,
    device: str | None = None,
) -> Tensor:
    """cv2.resize with INTER_LINEAR on uint8, to the byte: weights of 11 bits, two truncations.

    Columns are weighted first and 4 of their 11 extra bits dropped; of the rows, each product is
    truncated by itself before the sum is rounded. The sums over columns are exact in float32.
    On the CPU OpenCV itself does it, in a tenth of the time, where it is installed and agrees.
    """
    if device is None and _opencv_agrees((*frames_THWC.shape[1:3], height, width)):
        return _by_opencv(frames_THWC, height, width, box or _whole(height, width))
    plan = _opencv_plan_of(*_axes(frames_THWC, height, width, box), device)
    return _two_taps(frames_THWC, plan, _opencv_band, device)


def _by_opencv(frames_THWC: Tensor, height: int, width: int, box: Box) -> Tensor:
    import cv2

    resized = [
        cv2.resize(frame_HWC, (width, height), interpolation=cv2.INTER_LINEAR)[box]
        for frame_HWC in frames_THWC.numpy()
    ]
    return torch.from_numpy(np.stack(resized))


@lru_cache(maxsize=4096)
def _opencv_agrees(sizes: tuple[int, int, int, int]) -> bool:
    """Whether OpenCV is there and resizes noise to the same bytes: height and width, in and out.

    What it computes is not documented, so a build or version may differ.
    """
    H, W, height, width = sizes
    box = _whole(height, width)
    try:
        import cv2  # noqa: F401  # before noise is made for nothing

        noise = np.random.default_rng(0).integers(0, 256, NOISE_BYTES, dtype=np.uint8)
        frame_1HWC = torch.from_numpy(np.resize(noise, (1, H, W, 3)))
        by_opencv = _by_opencv(frame_1HWC, height, width, box)
    except Exception:  # not installed, without its libraries, or a size that it refuses
        return False
    plan = _opencv_plan_of(*_axes(frame_1HWC, height, width, box), None)
    return torch.equal(by_opencv, _two_taps(frame_1HWC, plan, _opencv_band, None))


def _opencv_band(source: Tensor, plan: _Plan, band: _Band) -> Tensor:
    across = source.index_select(-1, plan.left_w3).mul_(plan.left_weight_w3)
    across.addcmul_(source.index_select(-1, plan.right_w3), plan.right_weight_w3)
    truncated = across.int()
    above = truncated.index_select(-2, band.top).mul_(band.top_weight)
    below = truncated.index_select(-2, band.bottom).mul_(band.bottom_weight)
    above.bitwise_right_shift_(16).add_(below.bitwise_right_shift_(16))
    return above.add_(2).bitwise_right_shift_(2)


def _axes(
    frames_THWC: Tensor, height: int, width: int, box: Box | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size in, size out, start and stop of the box: down and across."""
    rows, columns = box or _whole(height, width)
    return (
        (frames_THWC.shape[1], height, rows.start, rows.stop),
        (frames_THWC.shape[2], width, columns.start, columns.stop),
    )


@lru_cache(maxsize=64)
def _opencv_plan_of(down: tuple[int, ...], across: tuple[int, ...], device: str | None) -> _Plan:
    left, right, *weights = _opencv_taps(*across)
    # 1/16 is exact in float32: 4 bits are dropped with the fraction.
    left_weight, right_weight = (weight.float() / 16 for weight in weights)
    return _plan(_opencv_taps(*down), (left, right, left_weight, right_weight), device)


def _opencv_taps(source: int, target: int, start: int, stop: int) -> Taps:
    """Weights in 1/2048 (int32)."""
    scale = 1.0 / (target / source)
    position = ((np.arange(start, stop) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    weights = np.rint(np.stack([1 - fraction, fraction]) * 2048).astype(np.int32)
    return *_neighbors(first, source), torch.from_numpy(weights[0]), torch.from_numpy(weights[1])


def tensorflow_bilinear(
    frames_THWC: Tensor,
    height: int,
    width: int,
    box: Box | None = None,
    device: str | None = None,
) -> Tensor:
    """tf.image.resize of uint8 without antialiasing, its float result truncated to uint8."""
    plan = _tensorflow_plan_of(*_axes(frames_THWC, height, width, box), device)
    return _two_taps(frames_THWC, plan, _tensorflow_band, device)


def _tensorflow_band(source: Tensor, plan: _Plan, band: _Band) -> Tensor:
    left = source.index_select(-1, plan.left_w3)
    across = source.index_select(-1, plan.right_w3)
    across.sub_(left).mul_(plan.right_weight_w3).add_(left)
    above = across.index_select(-2, band.top)
    below = across.index_select(-2, band.bottom)
    return below.sub_(above).mul_(band.bottom_weight).add_(above).int()


@lru_cache(maxsize=64)
def _tensorflow_plan_of(
    down: tuple[int, ...], across: tuple[int, ...], device: str | None
) -> _Plan:
    return _plan(_tensorflow_taps(*down), _tensorflow_taps(*across), device)


def _tensorflow_taps(source: int, target: int, start: int, stop: int) -> Taps:
    """The second pixel's weight in float32; the first one's is not used."""
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5)
    position = (np.arange(start, stop, dtype=np.float32) + half) * scale - half
    first = np.floor(position)
    weight = torch.from_numpy(position - first)
    return *_neighbors(first, source), 1 - weight, weight


def _neighbors(
    first: npt.NDArray[np.floating[Any]], source: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first tap and the next one, clamped to the border pixels."""
    return (
        np.clip(first, 0, source - 1).astype(np.int64),
        np.clip(first + 1, 0, source - 1).astype(np.int64),
    )


# --- Pillow ---------------------------------------------------------------------------------------


def pillow_resize(
    frames_THWC: Tensor,
    height: int,
    width: int,
    box: Box | None = None,
    *,
    filter: Image.Resampling,
) -> Tensor:
    """PIL.Image.resize on uint8: antialiased except NEAREST, each axis rounded to uint8.

    Columns first, as Pillow did when the models were released (newer ones begin with the rows of
    very tall images).
    """
    together = max(1, PILLOW_BYTES // frames_THWC[0].numel())
    parts = [
        _pillow_resize(part.numpy(), height, width, filter) for part in frames_THWC.split(together)
    ]
    return _boxed(torch.from_numpy(np.concatenate(parts)), box)


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


pillow_bilinear = partial(pillow_resize, filter=Image.Resampling.BILINEAR)


def _whole(height: int, width: int) -> Box:
    return slice(0, height), slice(0, width)


def _boxed(resized_THWC: Tensor, box: Box | None) -> Tensor:
    return resized_THWC if box is None else resized_THWC[:, box[0], box[1]]
