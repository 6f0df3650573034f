"""Decoding: the properties of a video file (`probe`) and its frames by number (`read_frames`).

Follows the decoding specification, section 5. The index that `probe` builds defines which frame a
number refers to, for every decoder: any sequence of numbers, in any order, returns exactly those
frames or raises. `read_parts` reads frames that need not fit into memory together.

Shape legend: N requested frames, n frames of a part, H height, W width.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.backends_decord import read_with_decord
from vtcli.video.backends_pyav import FramesRepeatedWarning, Missing, frames_with_pyav
from vtcli.video.probe import DEFAULT_LIMITS, Limits, VideoInfo, probe

__all__ = [
    "DEFAULT_LIMITS",
    "FramesRepeatedWarning",
    "Limits",
    "VideoInfo",
    "probe",
    "read_frames",
    "read_parts",
]

Backend = Literal["auto", "decord", "pyav"]

FramePart: TypeAlias = tuple[Sequence[int], NDArray[np.uint8]]
"""Some of the requested frames: their places among the requested ones, and RGB [n, H, W, 3]."""

FrameParts: TypeAlias = Generator[FramePart, None, None]
"""Requested frames in parts. Exhaust or close it in the thread that began it."""

PART_BYTES = 4 << 20
"""Bytes of the frames that are decoded together: what is done with them finds them in the cache,
and the next ones get their memory."""


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int] | NDArray[np.integer[Any]],
    *,
    threads: int = 1,
    backend: Backend = "auto",
    missing: Missing = "strict",
    info: VideoInfo | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Frames `indices` of a video as uint8 RGB [N, H, W, 3], upright, in the requested order.

    Numbers may repeat and may be in any order. `info`, the result of `probe` for the same file,
    avoids probing it again. `backend="auto"` is PyAV, the faster one; `"decord"` reads only files
    that decord decodes correctly. `missing="nearest"` (PyAV only) repeats the last intact frame for
    up to a tenth of the frames, with a FramesRepeatedWarning.
    Raises IndexError for a number outside 0..frames-1, and VideoDecodeError (see `probe`; also
    `missing_frames`) for a file from which these frames cannot be decoded.
    """
    if info is None or info.index is None:
        info = probe(path, limits=limits)
    requested = [operator.index(index) for index in indices]
    outside = next((index for index in requested if not 0 <= index < info.frames), None)
    if outside is not None:
        raise IndexError(f"{path}: has no frame {outside}; its frames are 0 to {info.frames - 1}")
    size = len(requested) * info.height * info.width * 3
    if size > limits.max_bytes:
        raise VideoDecodeError(
            info.path,
            "limit",
            f"{len(requested)} frames of {info.width}x{info.height} need {size / 2**30:.1f} GiB, "
            f"more than {limits.max_bytes / 2**30:.1f} GiB; use fewer views or a smaller video",
        )
    if not requested:
        return np.empty((0, info.height, info.width, 3), dtype=np.uint8)
    with _failures_named(info):
        if backend == "decord":
            return read_with_decord(info, requested, threads)
        frames_NHWC = np.empty((len(requested), info.height, info.width, 3), dtype=np.uint8)
        for rows, frame_HWC in frames_with_pyav(info, requested, threads, missing):
            for row in rows:
                frames_NHWC[row] = frame_HWC
        return frames_NHWC


def read_parts(
    info: VideoInfo, indices: Sequence[int], part_bytes: int, backend: Backend = "auto"
) -> FrameParts:
    """Frames `indices` of a probed video in parts of at most `part_bytes`, or of one frame.

    The file is decoded once, as by `read_frames`; frames come in the order in which they are
    decoded, each place at least once. Raises `VideoDecodeError` as `read_frames` does, but for no
    number of frames.
    """
    count = max(1, part_bytes // (info.width * info.height * 3))
    if backend == "decord":
        yield from in_turn(
            indices, count, lambda part: read_frames(info.path, part, backend=backend, info=info)
        )
        return
    rows: list[int] = []
    left = len(indices)
    frames_NHWC = np.empty((0, info.height, info.width, 3), dtype=np.uint8)
    with _failures_named(info):
        for own, frame_HWC in frames_with_pyav(info, indices, 1, "strict"):
            if count == 1:
                yield from (([row], frame_HWC[None]) for row in own)
                continue
            for row in own:
                if not rows:
                    frames_NHWC = np.empty((min(count, left), *frame_HWC.shape), dtype=np.uint8)
                # Copied at once: the next frame then gets the memory that this one leaves.
                frames_NHWC[len(rows)] = frame_HWC
                rows.append(row)
                if len(rows) == len(frames_NHWC):
                    yield rows, frames_NHWC
                    rows, left = [], left - len(rows)
            del frame_HWC
    if rows:
        yield rows, frames_NHWC[: len(rows)]


def in_turn(
    indices: Sequence[int], count: int, read: Callable[[Sequence[int]], NDArray[np.uint8]]
) -> FrameParts:
    """Frames `indices`, at most `count` at a time, where any of them can be read by itself."""
    for start in range(0, len(indices), count):
        part = indices[start : start + count]
        yield range(start, start + len(part)), read(part)


@contextmanager
def _failures_named(info: VideoInfo) -> Iterator[None]:
    """Whatever else a decoder raises is a `VideoDecodeError` with the reason `corrupt`."""
    try:
        yield
    except (VideoDecodeError, MemoryError):
        raise
    except Exception as error:
        raise VideoDecodeError(
            info.path,
            "corrupt",
            f"cannot be decoded ({error}); copy or download it again",
            [f"pyav: {error}"],
        ) from error
