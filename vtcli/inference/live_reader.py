"""One live source over all its connections: windows that wait for the network, what is dropped, and
when a source that broke off, or whose decoder died, is opened again.

Shape legend: T frames of a clip, H height, W width.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, VideoDecodeError
from vtcli.inference.live_clips import LiveClips
from vtcli.inference.live_decode import Closed, Decoded, LivePart, LivePlan, Opened
from vtcli.inference.windows import Window
from vtcli.runtime.worker_pool import WorkerFailedError
from vtcli.video.live_source import kind_of, open_pipe
from vtcli.video.recorder import Recording

MAX_WAITING = 2
"""Windows of a source that wait for the network."""

FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds before a source that broke off is opened again: doubled from the one to the other."""

POLL_SECONDS = 0.2

_FAILED = {
    "crashed": "the decoder crashed ({0}); use another codec, such as H.264",
    "timeout": "the decoder does not respond; use another codec, such as H.264",
    "limit": "the decoder {0}; scale the stream down first",
}


@dataclass(frozen=True)
class Reading:
    """What all readers share: how a connection is decoded, where clips are made, and who is told.

    `changed` guards and announces the windows that wait.
    """

    decode: Callable[[LivePlan], Generator[LivePart, None, None]]
    clips: Callable[[str], LiveClips]
    on_note: Callable[[str], None]
    on_recording: Callable[[str, Recording], None]
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)


@dataclass(frozen=True)
class Ready:
    """A window whose frames were decoded; `frames` are those of its clip by their numbers."""

    reader: LiveReader
    clips: LiveClips
    window: Window
    row: Sequence[int]
    frames: dict[int, NDArray[np.uint8]]
    arrived: float


class LiveReader(threading.Thread):
    """Has one source decoded, over all its connections, and keeps the windows that wait.

    `began` is the `time.time` at which the first frame was decoded, once there is one.
    """

    def __init__(self, plan: LivePlan, reading: Reading) -> None:
        super().__init__(name=f"live {plan.source}", daemon=True)
        self.plan, self.reading = plan, reading
        self.source, self.kind = plan.source, kind_of(plan.source)
        self.waiting: deque[Ready] = deque()
        self.error: VideoDecodeError | None = None
        self.began: float | None = None
        self.frames = self.dropped = self.windows = self.skipped = 0
        self._crash: BaseException | None = None
        self._covered = 0  # frames before this one are in a scored window, or counted
        self._lost: list[Window] = []
        self._connections = 0
        self._description = b""
        self._offset = 0.0  # of the present connection, seconds after the first frame of all
        self._next_offset = self._last_arrived = 0.0
        self._anchor = -float("inf")

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes any more."""
        stopped = self.reading.stop.is_set()
        return stopped or (self.ident is not None and not self.is_alive() and not self.waiting)

    def conclude(self) -> None:
        """Count what is left at the end; raises what the thread did not expect."""
        if self._crash is not None:
            raise self._crash
        self._count_lost(self.frames)

    def close(self) -> None:
        """Close the pipe that is read, once the thread has ended."""
        if self.plan.descriptor is not None and not self.is_alive():
            os.close(self.plan.descriptor)

    def fail(self, error: InputError) -> None:
        """End the source with this error."""
        message = getattr(error, "message", str(error))
        self.error = VideoDecodeError(self.source, "unsupported", message)

    def run(self) -> None:
        """The thread."""
        try:
            self._read_all()
        except VideoDecodeError as error:
            self.error = None if self.reading.stop.is_set() else error
        except CancelledError:
            pass  # stopped
        except BaseException as error:
            self._crash = error
        finally:
            with self.reading.changed:
                self.reading.changed.notify_all()

    def count_scored(self, ready: Ready) -> int:
        """Count a window that was scored; the frames dropped so far."""
        self.windows += 1
        with self.reading.changed:
            self._count_lost(ready.window.first)
            self._covered = max(self._covered, ready.window.first + ready.window.frames)
        return self.dropped

    def _read_all(self) -> None:
        if self.kind == "pipe":
            # Here, so that the pipe outlives a decoder that dies.
            self.plan = replace(self.plan, descriptor=open_pipe(self.source))
        delay = FIRST_RETRY
        while not self.reading.stop.is_set():
            before, why = self.frames, "the stream ended"
            try:
                if self._read_connection():
                    return
            except VideoDecodeError as error:
                if not self._can_come_back(error):
                    raise
                why = error.message.partition(";")[0]
            if self.error is not None:
                return
            delay = FIRST_RETRY if self.frames > before else min(2 * delay, LAST_RETRY)
            self.reading.on_note(f"{self.source}: {why}; trying again in {delay:g} s")
            self.reading.stop.wait(delay)

    def _can_come_back(self, error: VideoDecodeError) -> bool:
        if not self._connections or error.reason == "limit":
            return False
        has_died = error.reason in ("crashed", "timeout")
        return self.kind in ("network", "camera") or (has_died and self.kind == "pipe")

    def _read_connection(self) -> bool:
        """Read until the connection ends; whether the source has ended with it."""
        clips = self.reading.clips(self.source)
        clips.first = self.frames
        try:
            with closing(self.reading.decode(self.plan)) as parts:
                for part in parts:
                    if isinstance(part, Opened):
                        self._opened(part)
                    elif isinstance(part, Decoded):
                        self._decoded(part, clips)
                    elif isinstance(part, Recording):
                        self._recorded(part)
                    else:
                        return self._closed(part, clips)
                    if self.error is not None:
                        return True
        except WorkerFailedError as error:
            reason = error.failure.reason
            message = _FAILED[reason].format(error.failure.detail)
            raise VideoDecodeError(self.source, reason, message) from error
        return True

    def _opened(self, part: Opened) -> None:
        if self._connections:
            gone = part.arrived - self._last_arrived
            self._offset = self._next_offset + max(0.0, gone)
            self.reading.on_note(f"{self.source}: the stream is back")
        else:
            self.began = time.time() - (time.monotonic() - part.arrived)
            if part.note:
                self.reading.on_note(f"{self.source}: {part.note}")
        self._connections += 1

    def _decoded(self, part: Decoded, clips: LiveClips) -> None:
        self.frames = clips.first + part.count
        self._next_offset, self._last_arrived = self._offset + part.shown, part.arrived
        if not self.waiting:
            self._anchor = max(self._anchor, part.arrived - self._offset - part.shown)
        window = part.window
        absolute = replace(
            window,
            start=window.start + self._offset,
            end=window.end + self._offset,
            first=window.first + clips.first,
        )
        frames = clips.hold(part)
        self._put(Ready(self, clips, absolute, part.row, frames, part.arrived))

    def _recorded(self, piece: Recording) -> None:
        self._description = piece.description or self._description
        moved = piece.moved(self._offset, self._connections, self._description)
        self.reading.on_recording(self.source, moved)

    def _closed(self, part: Closed, clips: LiveClips) -> bool:
        self.frames = clips.first + part.count
        if part.count:
            self._next_offset, self._last_arrived = self._offset + part.end, part.arrived
        if part.error is not None:
            raise part.error
        return part.is_end or self.reading.stop.is_set()

    def _put(self, ready: Ready) -> None:
        """Have a window wait for the network; in place of an older one where too many wait and the
        source is not ahead of the clock.
        """
        changed, stop = self.reading.changed, self.reading.stop
        with changed:
            while len(self.waiting) >= MAX_WAITING and not stop.is_set():
                ahead = ready.window.end - (time.monotonic() - self._anchor)
                if ahead > 0:
                    changed.wait(min(ahead, POLL_SECONDS))
                else:
                    self._lost.append(self.waiting.popleft().window)
                    self.skipped += 1
            self.waiting.append(ready)
            changed.notify_all()

    def _count_lost(self, before: int) -> None:
        """Count the frames before this one that only windows have which were dropped."""
        for window in self._lost:
            past = min(window.first + window.frames, before)
            self.dropped += max(0, past - max(window.first, self._covered))
            self._covered = max(self._covered, past)
        self._lost = [w for w in self._lost if w.first + w.frames > before]
