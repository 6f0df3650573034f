"""TODO-HEAD"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.inference.results import VideoPrediction, video_table
from vtcli.inference.scoring import ClassPrediction
from vtcli.video import TIME_EPS

if TYPE_CHECKING:
    from vtcli.video.decode import VideoInfo

SHORTEST = 0.01
"""Seconds of the shortest window and stride."""


@dataclass(frozen=True)
class Window:
    """Part of a video: `start` to `end` in seconds, and its `frames` from number `first` on."""

    start: float
    end: float
    first: int
    frames: int


@dataclass(frozen=True)
class WindowPrediction:
    """What a model says of one window: one ranking per head."""

    window: Window
    heads: Mapping[str, tuple[ClassPrediction, ...]]

    @property
    def best(self) -> ClassPrediction:
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
    windows: tuple[WindowPrediction, ...]
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
    if room <= TIME_EPS:
        return [Window(0.0, duration, 0, len(starts_F))]
    starts = stride * np.arange(int(room / stride + TIME_EPS) + 1)
    if room - starts[-1] > SHORTEST / 2:
        starts = np.append(starts, room)
    ends = np.append(starts[:-1] + window, duration)
    first = np.searchsorted(starts_F, starts - TIME_EPS)
    stop = np.searchsorted(starts_F, ends - TIME_EPS)
    first = np.minimum(first, stop - 1)
    table = zip(starts.tolist(), ends.tolist(), first.tolist(), stop.tolist(), strict=True)
    return [Window(start, end, one, past - one) for start, end, one, past in table]


def window_territories(windows: Sequence[Window]) -> list[tuple[float, float]]:
    """The stretch that each window speaks for, so that every moment has one answer.

    Two windows that overlap meet in the middle of what both see.
    """
    starts, ends = [w.start for w in windows], [w.end for w in windows]
    for number, (one, other) in enumerate(pairwise(windows)):
        if other.start <= one.end + TIME_EPS:
            ends[number] = starts[number + 1] = (one.end + other.start) / 2
    return list(zip(starts, ends, strict=True))


def merge_windows(answers: Sequence[WindowPrediction], min_score: float) -> list[Segment]:
    """Segments of neighboring windows with the same best class, in the order of time.

    A window whose best class has less than `min_score` leaves a gap, as does time that no window
    sees.
    """
    runs: list[list[tuple[float, float, ClassPrediction]]] = []
    for answer, (start, end) in zip(
        answers, window_territories([a.window for a in answers]), strict=True
    ):
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


def full_video_segment(prediction: VideoPrediction) -> Segment:
    """The best class of a whole video as its only segment, which has no end."""
    best = prediction.predictions[0]
    return Segment(0.0, math.inf, best.index, best.label, best.score, 1)
