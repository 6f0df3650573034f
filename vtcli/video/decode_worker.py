"""What the processes of a `DecodePool` run: open a video, read its frames, whole or in parts.

Imports no more than decoding needs: every process waits for it at its start.

Shape legend: N frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, UsageError
from vtcli.runtime import worker_process
from vtcli.video import remote
from vtcli.video.frame_source import ChooseFrames, FrameSource, VideoFile, open_frame_source
from vtcli.video.held import opened_once
from vtcli.video.limits import DEFAULT_LIMITS
from vtcli.video.remote import RemotePath

T = TypeVar("T")
Frames = NDArray[np.uint8]

MEMORY_BYTES = 2 * DEFAULT_LIMITS.max_bytes + (8 << 30)
"""Address space of a worker: the largest decoded video twice, libraries, reference frames."""


def open_and_read(
    path: str, arguments: tuple[Any, ...], choose: ChooseFrames | None, max_bytes: int
) -> tuple[FrameSource, tuple[list[int], Frames] | None]:
    """`open_frame_source`, and the frames [N, H, W, 3] that `choose` names, with their numbers.

    None in place of frames of more than `max_bytes`, and where `choose` cannot name any.
    """
    inject_fault(path)
    if choose is None:
        return open_frame_source(path, *arguments), None
    with opened_once():
        source = open_frame_source(path, *arguments)
        indices: list[int] = []
        with suppress(InputError, UsageError):  # whoever opens the video will find out, too
            indices = choose(source.frames, source.fps)
        if not indices or len(indices) * source.frame_bytes > max_bytes:
            return source, None
        worker_process.heartbeat()  # opening and reading may each take as long as a call
        return source, (indices, np.ascontiguousarray(source.read(indices)))


def read(source: FrameSource, indices: list[int]) -> tuple[Frames, tuple[str, ...], int]:
    """The frames, the warnings, and the bytes that a remote source has transferred so far."""
    frames_NHWC = np.ascontiguousarray(source.read(indices))
    return frames_NHWC, source.warnings, _transferred(source)


def read_parts(
    source: FrameSource, indices: list[int]
) -> Iterator[tuple[Sequence[int], Frames, tuple[str, ...], int]]:
    """As `read`, part by part; the last one has no frames, only what was heard until the end."""
    for rows, frames_NHWC in source.parts(indices):
        yield rows, np.ascontiguousarray(frames_NHWC), source.warnings, _transferred(source)
    yield (), np.empty((0, 0, 0, 3), np.uint8), source.warnings, _transferred(source)


def remote_path(source: object) -> RemotePath | None:
    """The URL of the video that a source reads; None for a local one."""
    while source is not None and not isinstance(source, VideoFile):
        source = getattr(source, "source", None)
    path = None if source is None else source.info.path
    return path if isinstance(path, RemotePath) else None


def remotely(spool: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function that may download to this folder."""
    remote.spool_folder = spool
    return function(*args)


def remotely_in_parts(spool: str, function: Callable[..., Iterator[T]], *args: Any) -> Iterator[T]:
    """`remotely` for a generator function."""
    remote.spool_folder = spool
    return function(*args)


def inject_fault(path: str) -> None:
    """For tests: what the variable asks for, at files that are named so."""
    fault = os.environ.get("VT_TEST_DECODER_FAULTS")
    if not fault:
        return
    name = os.path.basename(path)
    if "CRASH" in name:
        os.kill(os.getpid(), 11)
    if "HANG" in name or "SLOW" in name:
        import time

        time.sleep(3600 if "HANG" in name else 2)
    if "MEMORY" in name:
        np.ones(MEMORY_BYTES, np.uint8)


def _transferred(source: FrameSource) -> int:
    path = remote_path(source)
    return 0 if path is None else path.bytes_read
