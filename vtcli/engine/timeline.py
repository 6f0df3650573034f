"""What happens when in a long video: the model looks through a window that moves along, and
neighbouring windows with the same best class become one segment.

Each window is sampled like a video of its own, one clip by the model's own rule. The file is read
once from its beginning to its end; a frame is brought to the model's size when it comes and
dropped after the last window that shows it, so that the length of the video costs no memory.

Shape legend: W windows, F frames, T frames of a clip, S crop size.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtcli.engine.predictor import Failure, Prediction, Predictor, video_table
from vtcli.engine.scoring import Answer, rank_heads, score_clips
from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.video import SAME_TIME
from vtcli.video.pipeline import Pipeline, plan_views

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.decode import VideoInfo

SCHEMA = 1
"""Of a timeline as JSON."""

SHORTEST = 0.01
"""Seconds of the shortest window and stride."""

MOST_WINDOWS = 100_000
"""Per video; a stride of half a second reaches it after 14 hours."""

# Frames decoded while the model works.
_AHEAD = 8
# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Part of a video: `start` to `end` in seconds, and its `frames` from number `first` on."""

    start: float
    end: float
    first: int
    frames: int


@dataclass(frozen=True)
class WindowAnswer:
    """What a model says of one window: one ranking per head."""

    window: Window
    heads: Mapping[str, tuple[Answer, ...]]

    @property
    def best(self) -> Answer:
        """The best class of the first (or only) head."""
        return next(iter(self.heads.values()))[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `heads` only where there are several."""
        answers = {name: [vars(a) for a in ranking] for name, ranking in self.heads.items()}
        table = {
            "start": round(self.window.start, 3),
            "end": round(self.window.end, 3),
            "predictions": next(iter(answers.values())),
        }
        return table | ({"heads": answers} if len(answers) > 1 else {})


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one class; `score` is the mean probability over its `windows`."""

    start: float
    end: float
    index: int
    label: str
    score: float
    windows: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, times to the millisecond."""
        return {**vars(self), "start": round(self.start, 3), "end": round(self.end, 3)}


@dataclass(frozen=True)
class Timeline:
    """The segments of one file, and what was said of each window; `note` is for the user."""

    path: str
    info: VideoInfo
    windows: tuple[WindowAnswer, ...]
    segments: tuple[Segment, ...]
    seconds: float
    note: str = ""
    failed: ClassVar[bool] = False

    @property
    def error(self) -> None:
        """A timeline has none; see `Failure`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **video_table(self.path, self.info),
            "segments": [segment.to_dict() for segment in self.segments],
            "windows": [answer.to_dict() for answer in self.windows],
            "seconds": round(self.seconds, 3),
        }


def parse_duration(text: str, option: str) -> float:
    """Seconds of `2s`, `500ms`, `1.5`, `1:30` or `00:01:30`.

    Raises `UsageError` naming the option for anything else and for less than `SHORTEST`.
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    simple = re.fullmatch(rf"{number}(ms|s)?", text.strip(), re.ASCII)
    clock = re.fullmatch(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d+)?)", text.strip(), re.ASCII)
    if simple:
        seconds = float(simple[1]) / (1000 if simple[2] == "ms" else 1)
    elif clock:
        seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    else:
        raise UsageError(f"{option} is a time such as 2s, 500ms, 1.5 or 00:01:30, not '{text}'")
    if seconds < SHORTEST:
        raise UsageError(f"{option} is {text}, and {1000 * SHORTEST:.0f}ms is the least")
    return seconds


def plan_windows(times: NDArray[np.float64], window: float, stride: float) -> list[Window]:
    """Windows of `window` seconds every `stride` seconds; the last one ends with the video.

    `times` are those of `frame_times`. A video that is no longer than the window is one. A window
    in which no frame appears has the one that is still shown.
    """
    starts_F, duration = times[:-1], float(times[-1])
    room = duration - window
    if room <= SAME_TIME:
        return [Window(0.0, duration, 0, len(starts_F))]
    starts = stride * np.arange(int(room / stride + SAME_TIME) + 1)
    if room - starts[-1] > SHORTEST / 2:
        starts = np.append(starts, room)
    ends = np.append(starts[:-1] + window, duration)
    first = np.searchsorted(starts_F, starts - SAME_TIME)
    stop = np.searchsorted(starts_F, ends - SAME_TIME)
    first = np.minimum(first, stop - 1)
    table = zip(starts.tolist(), ends.tolist(), first.tolist(), stop.tolist(), strict=True)
    return [Window(start, end, one, past - one) for start, end, one, past in table]


def turns(windows: Sequence[Window]) -> list[tuple[float, float]]:
    """The stretch that each window speaks for, so that every moment has one answer.

    Two windows that overlap meet in the middle of what both see.
    """
    starts, ends = [w.start for w in windows], [w.end for w in windows]
    for number, (one, other) in enumerate(pairwise(windows)):
        if other.start <= one.end + SAME_TIME:
            ends[number] = starts[number + 1] = (one.end + other.start) / 2
    return list(zip(starts, ends, strict=True))


def merge_windows(answers: Sequence[WindowAnswer], min_score: float) -> list[Segment]:
    """Segments of neighbouring windows with the same best class, in the order of time.

    A window whose best class has less than `min_score` leaves a gap, as does time that no window
    sees.
    """
    runs: list[list[tuple[float, float, Answer]]] = []
    for answer, (start, end) in zip(answers, turns([a.window for a in answers]), strict=True):
        if answer.best.score < min_score:
            continue
        if runs and runs[-1][-1][1] == start and runs[-1][-1][2].index == answer.best.index:
            runs[-1].append((start, end, answer.best))
        else:
            runs.append([(start, end, answer.best)])
    return [
        Segment(
            start=run[0][0],
            end=run[-1][1],
            index=run[0][2].index,
            label=run[0][2].label,
            score=fmean(best.score for _, _, best in run),
            windows=len(run),
        )
        for run in runs
    ]


def whole_segment(prediction: Prediction) -> Segment:
    """The best class of a whole video as its only segment, which has no end."""
    best = prediction.predictions[0]
    return Segment(0.0, math.inf, best.index, best.label, best.score, 1)


class TimelinePredictor(Predictor):
    """A model that answers for windows of `window` seconds, one every `stride` seconds.

    Windows whose best class has less than `min_score` are in no segment. `settings` are those of
    `Predictor`; there is one view per window, and only PyAV reads. `on_window` hears of progress:
    the file, the windows whose frames were read, and how many there are.
    """

    def __init__(
        self,
        model: str | Path,
        window: float,
        stride: float | None = None,
        min_score: float = 0.0,
        on_window: Callable[[str, int, int], None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        if (self.clips, self.crops) != (1, 1):
            raise UsageError("a window is looked at once, in one view; leave out --views")
        if self.decoder == "decord":
            raise UsageError("a timeline is read with PyAV; leave out --decoder")
        self.window, self.min_score, self.on_window = window, min_score, on_window
        self.stride = window if stride is None else stride
        self.header = {
            **self.header,
            "schema": SCHEMA,
            "kind": "timeline",
            "window": self.window,
            "stride": self.stride,
            "min_score": min_score,
        }

    def timelines(self, paths: Sequence[str]) -> Iterator[Timeline | Failure]:
        """One outcome per path, in order; raises as `start` does."""
        if any(os.path.exists(path) for path in paths):
            self._load()
        return map(self._timeline, paths)

    def _timeline(self, path: str) -> Timeline | Failure:
        from vtcli.video.decode import probe
        from vtcli.video.stream import frame_times

        _return_large_buffers()
        begin = time.perf_counter()
        try:
            info = probe(path)
            windows = self._plan(info, frame_times(info))
            logits = score_clips(self.net, self._clips(info, windows), self.batch_size)
        except VideoDecodeError as error:
            return Failure(path, error)
        heads, rule = self.net.card.heads, self.pipeline.score
        answers = []
        for number, window in enumerate(windows):
            own = {name: rows[number : number + 1] for name, rows in logits.items()}
            answers.append(WindowAnswer(window, rank_heads(own, heads, rule, self.topk)))
        segments = merge_windows(answers, self.min_score)
        seconds = time.perf_counter() - begin
        note = self._note(path, windows)
        return Timeline(path, info, tuple(answers), tuple(segments), seconds, note)

    def _plan(self, info: VideoInfo, times: NDArray[np.float64]) -> list[Window]:
        if times[-1] / self.stride > MOST_WINDOWS:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"lasts {times[-1]:.0f} s, which makes over {MOST_WINDOWS} windows; take a longer "
                "--stride",
            )
        return plan_windows(times, self.window, self.stride)

    def _note(self, path: str, windows: Sequence[Window]) -> str:
        """What somebody might not expect of these windows."""
        length = windows[-1].end
        if len(windows) == 1 and length < self.window - SHORTEST:
            return (
                f"{path}: lasts {length:.2f} s, less than the window of {self.window:g} s, and is "
                "one segment"
            )
        if self.stride > self.window and len(windows) > 1:
            return (
                f"{path}: {self.stride - self.window:g} s of every {self.stride:g} s lie between "
                "the windows and are not looked at"
            )
        return ""

    def _clips(self, info: VideoInfo, windows: Sequence[Window]) -> Iterator[Tensor]:
        """Each window's clip [3,T,S,S], as soon as its last frame has come."""
        import torch

        from vtcli.video.stream import stream_frames
        from vtcli.video.views import clip_tensors

        shown = [_frames_of(info, self.pipeline, window) for window in windows]
        last_shown = {index: number for number, row in enumerate(shown) for index in row}
        self._check_memory(info, shown, last_shown)
        coming = _ahead(stream_frames(info, last_shown, self.workers))
        held: dict[int, Tensor] = {}
        for number, row in enumerate(shown):
            while not held.keys() >= set(row):
                index, frame = next(coming)
                held[index] = clip_tensors(frame[None], self.pipeline, [0], 1)[0]
            yield torch.cat([held[index] for index in row], dim=1)
            for index in set(row):
                if last_shown[index] == number:
                    del held[index]
            if self.on_window:
                self.on_window(str(info.path), number + 1, len(windows))

    def _check_memory(
        self, info: VideoInfo, shown: Sequence[Sequence[int]], last_shown: Mapping[int, int]
    ) -> None:
        """Refuse windows that share more frames than fit into memory (reason `limit`)."""
        from vtcli.video.decode import DEFAULT_LIMITS

        latest_W = np.maximum.accumulate([max(row) for row in shown])
        come_W = np.searchsorted(sorted(last_shown), latest_W, side="right")
        gone_W = np.searchsorted(sorted(last_shown.values()), np.arange(len(shown)))
        size = int((come_W - gone_W).max()) * 3 * self.pipeline.crop_size**2 * 4
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"windows of {self.window:g} s every {self.stride:g} s share frames of "
                f"{size / 2**30:.1f} GiB, more than {DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; "
                "take a shorter --window or a longer --stride",
            )


def _frames_of(info: VideoInfo, pipeline: Pipeline, window: Window) -> list[int]:
    """The frames of a window's clip, numbered as the video's: [T]."""
    try:
        (view,) = plan_views(pipeline, window.frames, info.fps, 1, 1)
    except InputError as error:
        raise VideoDecodeError(info.path, "unsupported", str(error)) from error
    return [window.first + index for index in view.frame_indices]


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next few while the caller works on one."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


def _return_large_buffers() -> None:
    """Have glibc give the buffers of a large frame back to the system, as it does at first.

    It would learn to keep them, and small things that lie between them would make the heap grow by
    gigabytes over a long video in full HD.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 16 << 20)
