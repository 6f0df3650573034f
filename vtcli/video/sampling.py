"""Frame sampling: the frame indices of each clip, one small function per upstream rule.

Each is the test-time rule of one source of checkpoints (pipeline sections of the four
specifications), with upstream's rounding: half-to-even, truncation, float32 linspace.

Shape legend: K clips, L frames per clip; every rule returns int64 [K, L], indices from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vtcli.errors import InputError, UsageError

Indices: TypeAlias = npt.NDArray[np.int64]
Sampler: TypeAlias = Callable[[int, int, int, int, float], Indices]

RESAMPLED_FPS = 15.0
"""Frame rate at which torchvision's video models were trained and tested."""


def uniform_segments(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """One frame from each of L equal segments, clip k shifted by (k+1)/(K+1) of a segment.

    UniFormerV2, official and mmaction2: the official clamp to the last frame never has an effect.
    """
    segment = (num_frames - 1) / clip_length
    starts_L = np.round(segment * np.arange(clip_length))
    shifts_K = np.floor(segment / (num_clips + 1) * np.arange(1, num_clips + 1))
    return _integers(starts_L[None] + shifts_K[:, None])


def segment_positions(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """The middle, then the start, then the end of each of L equal segments: at most three clips.

    Something-Something: Video Swin official (the middle only) and X-ViT.
    """
    _require_at_most(3, num_clips, "segment_positions")
    edges = np.round((num_frames - 1) / clip_length * np.arange(clip_length + 1))
    starts_L, ends_L = edges[:-1], edges[1:]
    positions = np.stack([(starts_L + ends_L) // 2, starts_L, ends_L])
    return _integers(positions[:num_clips])


def dense_loop_segment_centers(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """Strided clips that start at the centers of K equal parts of the slack; short videos loop.

    Video Swin official on Kinetics.
    """
    slack = num_frames - clip_length * stride + 1
    part = slack / num_clips
    offsets_K = np.arange(num_clips) * part + part / 2 if slack > 0 else np.zeros(num_clips)
    return _strided_loop(_integers(offsets_K), num_frames, clip_length, stride)


def dense_loop_endpoints(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """Strided clips from the first to the last start, a single one centered; short videos loop.

    Video Swin mmaction2.
    """
    slack = max(num_frames - ((clip_length - 1) * stride + 1), 0)
    if num_clips == 1:
        offsets_K = np.array([slack // 2], dtype=np.int64)
    else:
        offsets_K = _integers(np.round(np.arange(num_clips) * (slack / (num_clips - 1))))
    return _strided_loop(offsets_K, num_frames, clip_length, stride)


def dense_loop_linspace(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """`dense_loop_endpoints` for clips of L*stride frames, offsets truncated, not rounded.

    ViViT scenic. TensorFlow's float32 linspace: each value is a product, the last one the end.
    """
    slack = max(num_frames - clip_length * stride, 0)
    if num_clips == 1:
        offsets_K = np.array([slack // 2], dtype=np.int64)
    else:
        step = np.float32(slack) / np.float32(num_clips - 1)
        offsets_K = _integers(step * np.arange(num_clips, dtype=np.float32))
        offsets_K[-1] = slack
    return _strided_loop(offsets_K, num_frames, clip_length, stride)


def dense_clamped(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """L frames spread over L*stride frames, clip k from k/K of the slack; the last frame repeats.

    X-ViT on Kinetics: a single clip starts at frame 0, the last of several does not reach the end.
    """
    span = clip_length * stride
    slack = max(num_frames - span, 0)
    clips = []
    for k in range(num_clips):
        start = np.float32(slack * k) / np.float32(num_clips)
        end = start + np.float32(span) - np.float32(1)
        clips.append(_linspace_float32(start, end, clip_length))
    return _integers(np.clip(np.stack(clips), 0, num_frames - 1))


def resampled_windows_looped(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """L consecutive frames of the video at 15 fps: K windows spread evenly, a single one centered.

    Video Swin torchvision. Upstream skips a video with fewer than L resampled frames; here its only
    window repeats the resampled frames from the start, as mmaction2 does.
    Raises `InputError` where the frame rate is unknown.
    """
    resampled_N = _resample(num_frames, fps)
    windows = len(resampled_N) - clip_length + 1
    if windows < 1:
        starts_K = np.zeros(num_clips, dtype=np.int64)
    elif num_clips == 1:
        starts_K = np.array([(windows - 1) // 2], dtype=np.int64)
    else:
        starts_K = _integers(_linspace_float32(np.float32(0), np.float32(windows - 1), num_clips))
    return resampled_N[_strided_loop(starts_K, len(resampled_N), clip_length, 1)]


def uniform_linspace(
    num_frames: int, clip_length: int, stride: int, num_clips: int, fps: float
) -> Indices:
    """L frames evenly from the first to the last; one clip.

    ViViT in the Hugging Face layout, whose processor does not sample frames.
    """
    _require_at_most(1, num_clips, "uniform_linspace")
    return _integers(np.round(np.linspace(0, num_frames - 1, clip_length))[None])


SAMPLERS: Mapping[str, Sampler] = {
    rule.__name__: rule
    for rule in (
        uniform_segments,
        segment_positions,
        dense_loop_segment_centers,
        dense_loop_endpoints,
        dense_loop_linspace,
        dense_clamped,
        resampled_windows_looped,
        uniform_linspace,
    )
}


def _strided_loop(offsets_K: Indices, num_frames: int, clip_length: int, stride: int) -> Indices:
    return (offsets_K[:, None] + stride * np.arange(clip_length, dtype=np.int64)) % num_frames


def _resample(num_frames: int, fps: float) -> Indices:
    """The frames torchvision selects at 15 fps: every n-th if n is whole, else floor(i*fps/15)."""
    if not 0 < fps < float("inf"):
        raise InputError(
            f"the frame rate is {fps}, and the model's sampling ('resampled_windows_looped') needs "
            "it; use a file that states its frame rate or another model"
        )
    ratio = fps / RESAMPLED_FPS
    if ratio.is_integer():
        return np.arange(0, num_frames, int(ratio), dtype=np.int64)
    count = max(int(num_frames * RESAMPLED_FPS / fps), 1)
    indices = _integers(np.floor(np.arange(count, dtype=np.float32) * np.float32(ratio)))
    return np.minimum(indices, num_frames - 1)


def _linspace_float32(start: np.float32, end: np.float32, count: int) -> npt.NDArray[np.float32]:
    """torch.linspace in float32: from the nearer end, each product and sum rounded once (fused)."""
    if count == 1:
        return np.array([start], dtype=np.float32)
    step = np.float64((end - start) / np.float32(count - 1))
    index = np.arange(count)
    from_start = np.float64(start) + step * index
    from_end = np.float64(end) - step * (count - 1 - index)
    return np.where(index < count // 2, from_start, from_end).astype(np.float32)


def _require_at_most(most: int, num_clips: int, rule: str) -> None:
    if num_clips > most:
        raise UsageError(
            f"the model's sampling ('{rule}') has at most {most} clips per video, not {num_clips}; "
            "use fewer views"
        )


def _integers(values: npt.NDArray[np.floating]) -> Indices:
    """Truncated toward zero, as in every upstream."""
    return values.astype(np.int64)
