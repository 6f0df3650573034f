"""Windows of a video and the segments that their predictions are merged into: the bookkeeping of
temporal localization, without a model.

Shape legend: F frames, W windows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.inference.decision import Decision
from vtcli.inference.results import VideoPrediction, html_table, ranking_table, video_table
from vtcli.inference.scoring import ClassPrediction
from vtcli.video import TIME_EPS

if TYPE_CHECKING:
    from vtcli.video.decode import VideoInfo

SHORTEST = 0.01
"""Shortest window and stride, in seconds."""


@dataclass(frozen=True)
class Window:
    """Part of a video: `start` to `end` in seconds, and `frames` frames from frame `first` on."""

    start: float
    end: float
    first: int
    frames: int


@dataclass(frozen=True)
class WindowPrediction:
    """The prediction for one window: per head, the best classes, best first.

    `decision`: the classes of a model whose classes do not exclude each other.
    """

    window: Window
    heads: Mapping[str, tuple[ClassPrediction, ...]]
    decision: Decision | None = None

    @property
    def best(self) -> ClassPrediction:
        """The top-1 class of the first (or only) head."""
        return next(iter(self.heads.values()))[0]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, times rounded to milliseconds; `heads` only where there are several."""
        return {
            "start": round(self.window.start, 3),
            "end": round(self.window.end, 3),
            **ranking_table(self.heads),
            **(self.decision.to_dict() if self.decision else {}),
        }


@dataclass(frozen=True)
class Segment:
    """Part of a video with one class; `score` is its mean probability over the `windows`."""

    start: float
    end: float
    index: int
    label: str
    score: float
    windows: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, times rounded to milliseconds."""
        return {**vars(self), "start": round(self.start, 3), "end": round(self.end, 3)}


@dataclass(frozen=True)
class Timeline:
    """The segments and the windows of one file; iterating and indexing are over the segments.

    `seconds`: time of decoding and the forward passes. `notice`: what a user may not expect of the
    windows; may be empty. `warnings`: signs of damage in the file.
    """

    path: str
    info: VideoInfo
    windows: tuple[WindowPrediction, ...]
    segments: tuple[Segment, ...]
    seconds: float
    notice: str = ""
    warnings: tuple[str, ...] = ()
    failed: ClassVar[bool] = False

    @property
    def error(self) -> None:
        """Always None; see `Failure`."""

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __getitem__(self, number: int) -> Segment:
        return self.segments[number]

    def __str__(self) -> str:
        """The path, and a line per segment."""
        lines = (f"  {s.start:8.2f} – {s.end:.2f} s  {s.score:6.1%}  {s.label}" for s in self)
        return "\n".join([self.path, *lines])

    def _repr_html_(self) -> str:
        """The segments as a table, in a notebook."""
        return html_table(
            (f"{s.start:.2f}", f"{s.end:.2f}", s.label, f"{s.score:.1%}") for s in self
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **video_table(self.path, self.info),
            "segments": [segment.to_dict() for segment in self.segments],
            "windows": [window.to_dict() for window in self.windows],
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
        }


def parse_windows(window: str, stride: str | None, prefix: str = "--") -> tuple[float, float]:
    """The length of windows and the time between their starts in seconds; by default, the length.

    Raises `UsageError` as `parse_duration` does, for `prefix` + `window` or `stride`.
    """
    length = parse_duration(window, f"{prefix}window")
    return length, length if stride is None else parse_duration(stride, f"{prefix}stride")


def check_windows(window: float, stride: float | None) -> None:
    """Raise `UsageError` for a window or stride, in seconds, of less than `SHORTEST`."""
    for name, value in (("window", window), ("stride", stride)):
        if value is not None and not SHORTEST <= value < math.inf:
            raise UsageError(f"{name} is a number of seconds of at least {SHORTEST}, not {value}")


def parse_duration(text: str, option: str, least: float = SHORTEST) -> float:
    """The seconds of `2s`, `500ms`, `1.5`, `1:30` or `00:01:30`.

    Raises `UsageError` naming the option for anything else and for less than `least`.
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    simple = re.fullmatch(rf"{number}(ms|s)?", text.strip(), re.ASCII)
    clock = re.fullmatch(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d+)?)", text.strip(), re.ASCII)
    if simple:
        seconds = float(simple[1]) / (1000 if simple[2] == "ms" else 1)
    elif clock:
        seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    else:
        raise UsageError(f"{option} takes a time such as 2s, 500ms, 1.5 or 00:01:30, not '{text}'")
    if seconds < least:
        raise UsageError(f"{option} must be at least {1000 * least:.0f}ms, not {text}")
    return seconds


def plan_windows(times: NDArray[np.float64], window: float, stride: float) -> list[Window]:
    """Windows of `window` seconds every `stride` seconds; the last one ends with the video.

    `times` [F+1] as returned by `frame_times`. A video no longer than the window is a single one. A
    window in which no new frame appears has the frame that is still shown.
    """
    starts_F, duration = times[:-1], float(times[-1])
    slack = duration - window
    if slack <= TIME_EPS:
        return [Window(0.0, duration, 0, len(starts_F))]
    starts = stride * np.arange(int(slack / stride + TIME_EPS) + 1)
    if slack - starts[-1] > SHORTEST / 2:
        starts = np.append(starts, slack)
    ends = np.append(starts[:-1] + window, duration)
    first = np.searchsorted(starts_F, starts - TIME_EPS)
    stop = np.searchsorted(starts_F, ends - TIME_EPS)
    first = np.minimum(first, stop - 1)
    rows = zip(starts.tolist(), ends.tolist(), first.tolist(), stop.tolist(), strict=True)
    return [Window(start, end, begin, past - begin) for start, end, begin, past in rows]


def window_territories(windows: Sequence[Window]) -> list[tuple[float, float]]:
    """Start and end of the part of each window in which it determines the class.

    Two windows that overlap are divided in the middle of their overlap, so that every moment has
    one prediction.
    """
    starts, ends = [w.start for w in windows], [w.end for w in windows]
    for number, (one, other) in enumerate(pairwise(windows)):
        if other.start <= one.end + TIME_EPS:
            ends[number] = starts[number + 1] = (one.end + other.start) / 2
    return list(zip(starts, ends, strict=True))


def merge_windows(predictions: Sequence[WindowPrediction], min_score: float) -> list[Segment]:
    """Segments of neighboring windows with the same top-1 class, in temporal order.

    A window whose top-1 probability is less than `min_score` leaves a gap, as does time that no
    window covers.
    """
    runs: list[list[tuple[float, float, ClassPrediction]]] = []
    territories = window_territories([p.window for p in predictions])
    for prediction, (start, end) in zip(predictions, territories, strict=True):
        best = prediction.best
        if best.score < min_score:
            continue
        if runs and runs[-1][-1][1] == start and runs[-1][-1][2].index == best.index:
            runs[-1].append((start, end, best))
        else:
            runs.append([(start, end, best)])
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


def full_video_segment(prediction: VideoPrediction) -> Segment:
    """The top-1 class of a whole video as its only segment, which has no end."""
    best = prediction.predictions[0]
    return Segment(0.0, math.inf, best.index, best.label, best.score, 1)
