"""Random frame sampling for training: for each test-time rule of `video/sampling.py` the rule that
its upstream trains with.

Shape legend: L frames of a clip, s stride; every rule returns int64 [L], indices from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from vtcli.video.sampling import SAMPLERS

Indices: TypeAlias = npt.NDArray[np.int64]


WINDOWS = 64
"""Number of windows from which `random_window` chooses."""


def random_in_segments(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """One random frame from each of L equal segments, both ends of a segment included.

    UniFormerV2; Something-Something in Video Swin and X-ViT.
    """
    edges = np.round((frames - 1) / length * np.arange(length + 1)).astype(np.int64)
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def random_strided_loop(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """L frames, s apart, from a random start; short videos start at frame 0 and loop.

    Video Swin and ViViT on Kinetics.
    """
    starts = max(frames - length * stride + 1, 1)
    return (rng.integers(starts) + stride * np.arange(length, dtype=np.int64)) % frames


def random_clamped(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """L frames spread over L*s frames from a random start; the last frame is repeated.

    X-ViT on Kinetics.
    """
    start = rng.uniform(0, max(frames - length * stride, 0))
    positions = np.linspace(start, start + length * stride - 1, length)
    return np.clip(positions, 0, frames - 1).astype(np.int64)


def random_window(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """L consecutive frames of the video at 15 fps, from one of `WINDOWS` evenly spaced starts.

    Video Swin in torchvision. Raises `InputError` where the frame rate is unknown.
    """
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
"""The training rule of each test-time rule."""
