"""Decoding in worker processes: a decoder that crashes, hangs or eats memory costs one video.

The processes import no PyTorch, start while the weights load, and are replaced where they die.
Frames come back through shared memory. What is opened here is a `FrameSource` like any other; its
frames are read by whichever process is free.

Shape legend: N frames, H height, W width.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError, VideoDecodeError, VideoReason
from vtcli.runtime.worker_pool import WorkerFailedError, WorkerFailure, WorkerPool
from vtcli.video import TIMEOUT_SECONDS, decode_worker
from vtcli.video.decode import Backend, FrameParts, VideoInfo
from vtcli.video.decode_worker import (
    MEMORY_BYTES,
    open_and_read,
    read,
    read_parts,
    remote_path,
    remotely,
    remotely_in_parts,
)
from vtcli.video.frame_source import ChooseFrames, FrameRange, FrameSource, VideoFile
from vtcli.video.remote import is_url

T = TypeVar("T")

PART_BYTES = 64 << 20
"""Bytes of frames that are read in one call; more of them come in the source's own parts."""

_SENTENCES = {
    "timeout": "was not decoded within {0.timeout:g} s; convert it to H.264 in MP4, or raise "
    "--timeout-per-file",
    "crashed": "crashes the decoder ({1}); convert it to H.264 in MP4",
    "limit": "{1}; scale it down first",
}


class DecodePool:
    """Processes that open videos and read their frames, for any thread of this one.

    `timeout` is in seconds per call. With no `workers`, this process does it itself, without any
    protection. Close it, or use it as a context manager.
    """

    def __init__(self, workers: int, timeout: float = TIMEOUT_SECONDS) -> None:
        if not timeout > 0:
            raise UsageError(f"--timeout-per-file is a number of seconds above 0, not {timeout:g}")
        self.workers, self.timeout = workers, timeout
        self._pool = (
            WorkerPool(workers, timeout, MEMORY_BYTES, preload=decode_worker.__name__)
            if workers
            else None
        )
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes now."""
        if self._pool is not None:
            self._pool.start()

    def close(self) -> None:
        """Kill the processes; what is under way is lost."""
        if self._pool is not None:
            self._pool.close()
        with self._lock:
            if self._spool is not None:
                self._spool.cleanup()
                self._spool = None

    def open(
        self,
        path: str | os.PathLike[str],
        seconds: tuple[float | None, float | None] = (None, None),
        numbers: tuple[int | None, int | None] = (None, None),
        frame_rate: float | None = None,
        decoder: Backend = "auto",
        stated_frames: int | None = None,
        choose: ChooseFrames | None = None,
    ) -> FrameSource:
        """`open_frame_source` in a process, which at once reads the frames that `choose` names.

        Raises `VideoDecodeError`, also with the reasons `crashed`, `timeout` and `limit`.
        """
        name = os.fspath(path)
        arguments = (seconds, numbers, frame_rate, decoder, stated_frames)
        opened, frames = self.call(name, open_and_read, name, arguments, choose, PART_BYTES)
        source: FrameSource = opened
        if self._pool is not None or frames is not None:
            source = IsolatedSource(self, name, opened, ahead=[] if frames is None else [frames])
        path_of = remote_path(source)
        if path_of is not None and path_of.spooled:
            weakref.finalize(source, _remove, path_of.spooled)
        return source

    def call(self, path: str, function: Callable[..., T], *args: Any) -> T:
        """A function of a video in a process; raises what it raises, and as `open` does."""
        if is_url(path):
            function, args = remotely, (self._spool_folder(), function, *args)
        if self._pool is None:
            return function(*args)
        try:
            return self._pool.submit(function, *args).result()
        except WorkerFailedError as error:
            raise self._failure(path, error.failure) from error

    def read(
        self, path: str, source: FrameSource, indices: Sequence[int]
    ) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Frames of an opened source [N, H, W, 3], and its warnings; raises as `open` does."""
        frames_NHWC, warnings, transferred = self.call(path, read, source, list(indices))
        _note_transfer(source, transferred)
        return frames_NHWC, warnings

    def stream(
        self, path: str, function: Callable[..., Iterator[T]], *args: Any
    ) -> Generator[T, None, None]:
        """What a generator function yields in a process; raises as `open` does."""
        if is_url(path):
            function, args = remotely_in_parts, (self._spool_folder(), function, *args)
        if self._pool is None:
            yield from function(*args)
            return
        try:
            yield from self._pool.stream(function, *args)
        except WorkerFailedError as error:
            raise self._failure(path, error.failure) from error

    def _spool_folder(self) -> str:
        with self._lock:
            if self._spool is None:
                self._spool = tempfile.TemporaryDirectory(
                    prefix="vt-remote-", ignore_cleanup_errors=True
                )
            return self._spool.name

    def _failure(self, path: str, failure: WorkerFailure) -> VideoDecodeError:
        reason: VideoReason = failure.reason
        return VideoDecodeError(path, reason, _SENTENCES[reason].format(self, failure.detail))


@dataclass(frozen=True)
class IsolatedSource:
    """A source whose frames are read in a process of the pool.

    `ahead` has frames, and their numbers, that were read when it was opened: until they are asked
    for.
    """

    pool: DecodePool
    path: str
    source: FrameSource
    heard: list[str] = field(default_factory=list, compare=False, repr=False)
    ahead: list[tuple[list[int], NDArray[np.uint8]]] = field(
        default_factory=list, compare=False, repr=False
    )

    @property
    def frames(self) -> int:
        return self.source.frames

    @property
    def fps(self) -> float:
        return self.source.fps

    @property
    def frame_bytes(self) -> int:
        return self.source.frame_bytes

    @property
    def times(self) -> NDArray[np.float64]:
        return self.source.times

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.source.warnings, *self.heard]))

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        if self.ahead:
            numbers, frames = self.ahead.pop()
            if numbers == list(indices):
                return frames
        frames, warnings = self.pool.read(self.path, self.source, indices)
        self.heard.extend(warnings)
        return frames

    def parts(self, indices: Sequence[int]) -> FrameParts:
        if len(indices) * self.frame_bytes <= PART_BYTES:
            yield range(len(indices)), self.read(indices)
            return
        stream = self.pool.stream(self.path, read_parts, self.source, list(indices))
        with closing(stream) as parts:
            for rows, frames_NHWC, warnings, transferred in parts:
                self.heard.extend(warnings)
                _note_transfer(self.source, transferred)
                if rows:
                    yield rows, frames_NHWC


def source_info(source: FrameSource) -> VideoInfo:
    """What is known of the video file that a source reads."""
    while not isinstance(source, VideoFile):
        assert isinstance(source, IsolatedSource | FrameRange)
        source = source.source
    return source.info


def _note_transfer(source: FrameSource, transferred: int) -> None:
    path = remote_path(source)
    if path is not None:
        path.bytes_read = transferred


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
