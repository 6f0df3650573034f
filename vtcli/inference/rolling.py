"""The windows of a stream whose end is not known yet: `plan_windows`, frame by frame, and the
frames that coming windows need.

Shape legend: F frames.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

from vtcli.inference.windows import SHORTEST, Window
from vtcli.video import TIME_EPS

Frame = TypeVar("Frame")


class RollingWindows(Generic[Frame]):
    """Windows of `window` seconds every `stride` seconds, and the frames that are kept for them.

    The windows are those of `plan_windows` for the same times; each is returned once its end
    cannot change any more, which is `SHORTEST` / 2 after it.
    """

    def __init__(self, window: float, stride: float) -> None:
        self.window, self.stride = window, stride
        self.count = 0
        """Frames so far."""
        self._times: list[float] = []
        self._frames: list[Frame] = []
        self._planned = 0

    def add(self, time: float, frame: Frame) -> list[Window]:
        """The windows that are complete now that `frame` is shown from `time` on."""
        self._times.append(time)
        self._frames.append(frame)
        self.count += 1
        complete = []
        while time >= self._planned * self.stride + self.window + SHORTEST / 2:
            start = self._planned * self.stride
            complete.append(self._between(start, start + self.window))
            self._planned += 1
        return complete

    def finish(self, end: float) -> list[Window]:
        """The remaining windows of a stream that ends at `end`."""
        slack = end - self.window
        if not self.count or (slack <= TIME_EPS and self._planned):
            return []
        if slack <= TIME_EPS:
            return [Window(0.0, end, 0, self.count)]
        starts = []
        while self._planned * self.stride <= slack + TIME_EPS * self.stride:
            starts.append(self._planned * self.stride)
            self._planned += 1
        if slack - (self._planned - 1) * self.stride > SHORTEST / 2:
            starts.append(slack)
        ends = [*(start + self.window for start in starts[:-1]), end][: len(starts)]
        return [self._between(*times) for times in zip(starts, ends, strict=True)]

    def frames_of(self, window: Window) -> list[Frame]:
        """The frames of a window that was returned last."""
        first = window.first - self._forgotten
        return self._frames[first : first + window.frames]

    def forget(self) -> None:
        """Let go of the frames that no coming window has."""
        if not self._times:
            return
        last_start = (self._planned - 1) * self.stride
        since = min(self._planned * self.stride, max(last_start, self._times[-1] - self.window))
        # One more: a window without a new frame has the frame that is still shown.
        past = max(0, bisect_left(self._times, since - TIME_EPS) - 1)
        del self._times[:past], self._frames[:past]

    @property
    def _forgotten(self) -> int:
        return self.count - len(self._times)

    def _between(self, start: float, end: float) -> Window:
        first = bisect_left(self._times, start - TIME_EPS)
        stop = bisect_left(self._times, end - TIME_EPS)
        first = min(first, stop - 1)
        return Window(start, end, first + self._forgotten, stop - first)
