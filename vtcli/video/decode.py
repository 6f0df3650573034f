"""Decoding: the properties of a video file (`probe`) and its frames by number (`read_frames`).

Follows the decoding specification, section 5. The index that `probe` builds defines which frame a
number refers to, for every decoder: any sequence of numbers, in any order, returns exactly those
frames or raises.

Shape legend: N requested frames, H height, W width.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.backends_decord import read_with_decord
from vtcli.video.backends_pyav import FramesRepeatedWarning, Missing, read_with_pyav
from vtcli.video.probe import DEFAULT_LIMITS, Limits, VideoInfo, probe

__all__ = [
    "DEFAULT_LIMITS",
    "FramesRepeatedWarning",
    "Limits",
    "VideoInfo",
    "probe",
    "read_frames",
]

Backend = Literal["auto", "decord", "pyav"]


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
    try:
        if backend == "decord":
            return read_with_decord(info, requested, threads)
        return read_with_pyav(info, requested, threads, missing)
    except (VideoDecodeError, MemoryError):
        raise
    except Exception as error:
        raise VideoDecodeError(
            info.path,
            "corrupt",
            f"cannot be decoded ({error}); copy or download it again",
            [f"pyav: {error}"],
        ) from error
