"""TODO-HEAD"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from vtcli.video.sampling import SAMPLERS

if TYPE_CHECKING:
    pass

Indices: TypeAlias = npt.NDArray[np.int64]


WINDOWS = 64  # a sampling rule that goes by time gives so many windows to choose from


def random_in_segments(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """One random frame of each of L equal segments, both ends of a segment included.

    UniFormerV2; Something-Something in Video Swin and X-ViT.
    """
    edges = np.round((frames - 1) / length * np.arange(length + 1)).astype(np.int64)
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def random_strided_loop(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """L frames s apart from a random one on; short videos start at 0 and begin again at their end.

    Video Swin and ViViT on Kinetics.
    """
    room = max(frames - length * stride + 1, 1)
    return (rng.integers(room) + stride * np.arange(length, dtype=np.int64)) % frames


def random_clamped(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """L frames spread over L*s from a random place on; the last frame repeats. X-ViT, Kinetics."""
    start = rng.uniform(0, max(frames - length * stride, 0))
    places = np.linspace(start, start + length * stride - 1, length)
    return np.clip(places, 0, frames - 1).astype(np.int64)


def random_window(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """One of many windows of the video at 15 frames a second. Video Swin in torchvision."""
    windows = SAMPLERS["resampled_windows_looped"](frames, length, stride, WINDOWS, fps)
    return windows[rng.integers(WINDOWS)]


TRAINING_SAMPLERS: Mapping[str, Callable[[int, int, int, float, Generator], Indices]] = {
    "uniform_segments": random_in_segments,
    "segment_positions": random_in_segments,
    "uniform_linspace": random_in_segments,
    "dense_loop_segment_centers": random_strided_loop,
    "dense_loop_endpoints": random_strided_loop,
    "dense_loop_linspace": random_strided_loop,
    "dense_clamped": random_clamped,
    "resampled_windows_looped": random_window,
}
"""For each rule of testing its counterpart in training."""
