"""A live source in the process that decodes it: its frames become windows, and of these only the
frames that clips sample leave the process. Imports no PyTorch.

Shape legend: T frames of a clip, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.inference.auto_windows import clip_seconds, windows_note
from vtcli.inference.rolling import RollingWindows
from vtcli.inference.timeline import frames_of_window
from vtcli.inference.windows import Window
from vtcli.runtime.worker_process import heartbeat
from vtcli.video import TIME_EPS
from vtcli.video.limits import DEFAULT_LIMITS
from vtcli.video.pipeline import Pipeline
from vtcli.video.recorder import Recorder, Recording

if TYPE_CHECKING:
    from vtcli.video.live_source import Connection, LiveFrame, Opening

# Of a decoded frame (4:2:0).
_BYTES_PER_PIXEL = 1.5


@dataclass(frozen=True)
class LivePlan:
    """Which windows of a source to decode, in seconds, and what their clips sample; where it
    `records`, its packets leave the process as well.

    With `shortest`, windows are as long as a clip at the frame rate of the source, but at least so
    many seconds. `descriptor` and `growth` as in `vtcli.video.live_source.Opening`.
    """

    source: str
    pipeline: Pipeline
    window: float
    stride: float
    growth: float
    descriptor: int | None = None
    records: bool = False
    shortest: float | None = None

    def at_rate(self, fps: float) -> LivePlan:
        """The plan for a source of so many frames a second."""
        if self.shortest is None:
            return self
        window = max(clip_seconds(self.pipeline, fps), self.shortest)
        return replace(self, window=window, stride=window * self.stride / self.window)


@dataclass(frozen=True)
class Opened:
    """The first frame of a connection was decoded, at `arrived` (`time.monotonic`); `note` is a
    sentence on its windows, where they depend on its frame rate.
    """

    arrived: float
    note: str = ""


@dataclass(frozen=True)
class Decoded:
    """A window whose frames were decoded: `row` are the frames [T] of its clip by their numbers in
    the connection, `frames` those of them, RGB [H,W,3], that no earlier window had.

    `shown` is the time of the last frame so far, `arrived` the `time.monotonic` at which it was
    decoded and `count` its number, from 1.
    """

    window: Window
    row: list[int]
    frames: dict[int, NDArray[np.uint8]]
    shown: float
    arrived: float
    count: int


@dataclass(frozen=True)
class Closed:
    """The end of a connection: its frames, the time `end` of the last one, whether the source has
    ended with it, and the error that ended it.
    """

    count: int
    end: float
    arrived: float
    is_end: bool
    error: VideoDecodeError | None


LivePart: TypeAlias = Opened | Decoded | Closed | Recording


def decode_here(plan: LivePlan) -> Iterator[LivePart]:
    """`decode_live` in a worker process, which shows that it waits for the source and not hangs."""
    from vtcli.video.decode_worker import inject_fault
    from vtcli.video.live_source import Opening

    inject_fault(plan.source)
    return decode_live(
        plan, Opening(on_wait=heartbeat, descriptor=plan.descriptor, growth=plan.growth)
    )


def decode_live(plan: LivePlan, opening: Opening) -> Generator[LivePart, None, None]:
    """The parts of one connection to a source, as they come.

    Raises `VideoDecodeError` where it cannot be opened.
    """
    from vtcli.video.live_source import Connection

    with closing(Connection(plan.source, opening)) as connection:
        yield from _Decoding(plan, connection).parts()


@dataclass
class _Decoding:
    plan: LivePlan
    connection: Connection
    rolling: RollingWindows[LiveFrame] = field(init=False)
    sent: set[int] = field(default_factory=set)
    arrived: float = 0.0
    shown: float = 0.0

    def __post_init__(self) -> None:
        self.plan = self.plan.at_rate(self.connection.fps)
        self.rolling = RollingWindows(self.plan.window, self.plan.stride)

    def parts(self) -> Iterator[LivePart]:
        connection, recorder = self.connection, None
        if self.plan.records:
            recorder = Recorder(connection.stream)
            connection.on_packet = recorder.add
        broken: VideoDecodeError | None = None
        try:
            for frame in connection:
                if self.rolling.count == 0:
                    self._check_memory()
                    yield Opened(frame.arrived, self._note())
                self.arrived, self.shown = frame.arrived, frame.time
                for window in self.rolling.add(frame.time, frame):
                    yield self._decoded(window)
                self.rolling.forget()
                if recorder is not None:
                    yield from recorder.take()
        except VideoDecodeError as error:
            if error.reason == "limit":
                raise
            broken = error
        is_end = broken is None and connection.complete
        yield from self._rest(is_end)
        if recorder is not None:
            yield from recorder.finish()
        end = connection.end
        yield Closed(self.rolling.count, end, self.arrived or time.monotonic(), is_end, broken)

    def _note(self) -> str:
        plan = self.plan
        if plan.shortest is None or plan.window == plan.shortest:
            return ""
        return windows_note(plan.pipeline, self.connection.fps, plan.window, plan.stride)

    def _rest(self, is_end: bool) -> Iterator[Decoded]:
        """The remaining windows; a shorter one only where the source has ended."""
        for window in self.rolling.finish(self.connection.end):
            if is_end or window.end - window.start >= self.rolling.window - TIME_EPS:
                yield self._decoded(window)

    def _decoded(self, window: Window) -> Decoded:
        frames = self.rolling.frames_of(window)
        row = frames_of_window(self.plan.source, self.plan.pipeline, window, self.connection.fps)
        new = sorted(set(row) - self.sent)
        rgb = {i: self._rgb(frames, i - window.first) for i in new}
        # No later window begins before this one.
        self.sent = {i for i in self.sent | set(new) if i >= window.first}
        return Decoded(window, row, rgb, self.shown, self.arrived, self.rolling.count)

    def _rgb(self, frames: Sequence[LiveFrame], number: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.connection.rgb(frames[number].frame))

    def _check_memory(self) -> None:
        """Raise `VideoDecodeError` (`limit`) where the frames of a window do not fit."""
        plan = self.plan
        width, height = self.connection.size or (0, 0)
        rate = self.connection.fps or 25.0
        size = int(_BYTES_PER_PIXEL * width * height * rate * (plan.window + plan.stride))
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                plan.source,
                "limit",
                f"windows of {plan.window:g} s every {plan.stride:g} s hold frames of "
                f"{size / 2**30:.1f} GiB, more than {DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; "
                "use a shorter --window or --stride",
            )
