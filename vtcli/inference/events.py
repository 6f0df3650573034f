"""Events of a video, from the scores of its windows: what happens when, and where nothing does.

Overlapping windows are averaged for every moment; a moment belongs to the best class there, or to
none. An event begins where the score of its class reaches `on` and lasts, in both directions, while
it is at least `off` (hysteresis thresholding as in Canny, 1986, section VIII, along time). Classes
that do not exclude each other have events of their own, which may overlap. No model and no video
here.

Shape legend: W windows, K classes, I intervals between the times at which any window begins or
ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.inference.background import Activity
from vtcli.inference.windows import SHORTEST, Segment, Window, parse_duration
from vtcli.video import TIME_EPS

Floats = NDArray[np.float64]

_LEAST_WEIGHT = 0.05
"""Of a window at its ends, relative to its center."""

BACKGROUND_NAMES = ("background", "none", "no_action", "no action", "nothing")
"""Names of classes that stand for nothing, unless a rule says otherwise."""

_LOWEST = {"on": 0.0, "off": 0.0, "margin": 0.0, "smooth": 0.1}


@dataclass(frozen=True)
class EventRule:
    """When a class is an event; raises `UsageError` for values that cannot be.

    on: score that an event reaches at least once. off: score that it keeps all the time, at most
    `on`. margin: lead over the second class where `on` is reached. background: class that stands
    for nothing. min: seconds that an event lasts at least. gap: events of one class that are at
    most so many seconds apart, with no other between them, are one. smooth: how far windows are
    averaged, 1 is over all that cover a moment. grow: seconds by which an event is longer at each
    end, at most up to the middle between it and the next.

    What only a calibration sets: `classes` has the `on` of single classes, not below `off`, and
    `activity` lowers the scores of windows in which nothing happens. overlap: every class has
    events of its own.
    """

    on: float = 0.5
    off: float = 0.3
    margin: float = 0.0
    background: str | None = None
    min: float = 0.0
    gap: float = 0.0
    smooth: float = 1.0
    grow: float = 0.0
    classes: Mapping[str, float] = field(default_factory=dict)
    activity: Activity | None = None
    overlap: bool = False

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            if not lowest <= getattr(self, name) <= 1:
                raise UsageError(
                    f"{name} of --event-rule is a number from {lowest:g} to 1, not "
                    f"{getattr(self, name):g}"
                )
        if self.off > self.on:
            raise UsageError(
                f"an event of --event-rule cannot end at a score above the one at which it begins; "
                f"use off={self.on:g} or less"
            )

    @property
    def reach(self) -> float:
        """Seconds from the start of a window back to the first moment that it may change."""
        return self.activity.reach if self.activity else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; without what it does not use."""
        table = {**vars(self), "activity": self.activity.to_dict() if self.activity else None}
        return {k: v for k, v in table.items() if v or k not in ("classes", "activity", "overlap")}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> EventRule:
        """Read the JSON form."""
        activity = table.get("activity")
        return cls(**{**table, "activity": Activity.from_dict(activity) if activity else None})


WRITTEN = ("on", "off", "margin", "background", "min", "gap", "smooth", "grow")
"""What a user can write in a rule."""


def parse_event_rule(text: str | None, base: EventRule | None = None) -> EventRule:
    """The rule of `on=0.6,off=0.4,margin=0.1,background=nothing,min=1s,gap=500ms`, in any order.

    What it does not say is as in `base`, by default that of an event rule; `on` alone lowers an
    `off` above it. Raises `UsageError`.
    """
    base = base or EventRule()
    values: dict[str, Any] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in WRITTEN or not equals or name in values:
            raise UsageError(
                f"--event-rule takes {', '.join(WRITTEN[:-1])} and {WRITTEN[-1]} once each, such "
                f"as on=0.6,off=0.4,min=1s, not '{part.strip()}'"
            )
        values[name] = _value(name, value)
    if "on" in values:
        values["classes"] = {}
        if "off" not in values:
            values["off"] = min(values["on"], base.off)
    return replace(base, **values)


def _value(name: str, text: str) -> str | float:
    if name == "background":
        return text
    if name in ("min", "gap", "grow"):
        return 0.0 if text in ("0", "0s") else parse_duration(text, f"{name} of --event-rule")
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} of --event-rule is a score from 0 to 1, not '{text}'") from None


def find_events(
    windows: Sequence[Window], score_WK: Floats, labels: Sequence[str], rule: EventRule
) -> list[Segment]:
    """The events of a video in temporal order; no two overlap, unless the rule says so.

    `score_WK` are probabilities; the score of an event is the mean of its class over its duration.
    Raises `UsageError` for a background class that the model does not have.
    """
    if rule.activity is not None:
        score_WK = score_WK * rule.activity.probability(windows, score_WK)[:, None]
    return Moments.of(windows, score_WK, rule.smooth).events(labels, rule)


@dataclass(frozen=True, eq=False)
class Moments:
    """Times [I+1], the scores [I,K] between them, and the centers [W] of the windows.

    What lasts at the time `begun` and ends later has reached its `on`, whatever the scores.
    """

    times: Floats
    scores: Floats
    centers: Floats
    begun: float | None = None

    @property
    def end(self) -> float:
        """The last time."""
        return float(self.times[-1])

    @classmethod
    def of(cls, windows: Sequence[Window], score_WK: Floats, smoothing: float) -> Moments:
        """See `smooth`."""
        centers = np.array([(w.start + w.end) / 2 for w in windows])
        return cls(*smooth(windows, score_WK, smoothing), centers)

    def events(self, labels: Sequence[str], rule: EventRule) -> list[Segment]:
        """The events by a rule, whose `smooth` and `activity` were applied; see `find_events`."""
        background = background_class(labels, rule)
        if rule.overlap:
            columns = [k for k in range(len(labels)) if k != background]
            runs = [_runs(self, labels, rule, None, k) for k in columns]
        else:
            runs = [_runs(self, labels, rule, background)]
        events = [
            self.event(start, end, index, labels)
            for of_class in runs
            for start, end, index in self._chain(of_class, rule)
            if end - start >= rule.min - TIME_EPS
        ]
        return sorted(events, key=lambda e: (e.start, e.index))

    def _chain(
        self, runs: Iterator[tuple[int, int, int]], rule: EventRule
    ) -> list[tuple[float, float, int]]:
        """Start, end and class of events, after gaps are closed and events have grown."""
        merged: list[tuple[float, float, int]] = []
        for first, last, index in runs:
            start, end = float(self.times[first]), float(self.times[last + 1])
            if merged and merged[-1][2] == index and start - merged[-1][1] <= rule.gap + TIME_EPS:
                start = merged.pop()[0]
            merged.append((start, end, index))
        if not (rule.grow and merged):
            return merged
        # Events that touch meet where they did; others at most in the middle between them.
        before = [self.times[0], *((a[1] + b[0]) / 2 for a, b in pairwise(merged))]
        after = [*before[1:], self.times[-1]]
        return [
            (max(start - rule.grow, low), min(end + rule.grow, high), index)
            for (start, end, index), low, high in zip(merged, before, after, strict=True)
        ]

    def event(self, start: float, end: float, index: int, labels: Sequence[str]) -> Segment:
        """A class between two times, with its mean score."""
        center_I = (self.times[:-1] + self.times[1:]) / 2
        inside = slice(*np.searchsorted(center_I, [start, end]))
        weight_I = np.diff(self.times)[inside]
        score = float(np.average(self.scores[inside, index], weights=weight_I))
        covered = (self.centers >= start - TIME_EPS) & (self.centers <= end + TIME_EPS)
        return Segment(float(start), float(end), index, labels[index], score, int(covered.sum()))


def background_class(labels: Sequence[str], rule: EventRule) -> int | None:
    """The index of a rule's background class; raises `UsageError` for one that is not there."""
    if rule.background is None:
        return None
    if rule.background not in labels:
        raise UsageError(
            f"the model has no class '{rule.background}' for the background of --event-rule; "
            "`vt models show` lists its classes"
        )
    return labels.index(rule.background)


def smooth(
    windows: Sequence[Window], score_WK: Floats, smoothing: float = 1.0
) -> tuple[Floats, Floats]:
    """Times [I+1] at which a window begins or ends, and the scores [I,K] between them.

    A moment has the mean of the windows that cover it, weighted by how close it is to the center
    of each: 1 at the center, towards 0 at its ends, or at this fraction of the way to them. Where
    there is no window, scores are 0.
    """
    starts_W = np.array([w.start for w in windows])
    ends_W = np.array([w.end for w in windows])
    times = np.unique(np.concatenate([starts_W, ends_W]))
    times = times[np.concatenate([[True], np.diff(times) > SHORTEST / 2])]
    center_I = (times[:-1] + times[1:]) / 2
    # Windows that cover a moment are neighbors: starts and ends grow together.
    first_I = np.searchsorted(ends_W, center_I, side="right")
    stop_I = np.searchsorted(starts_W, center_I, side="right")
    score_IK = np.zeros((len(center_I), score_WK.shape[1]))
    for number, (center, first, stop) in enumerate(zip(center_I, first_I, stop_I, strict=True)):
        if first < stop:
            half_W = (ends_W[first:stop] - starts_W[first:stop]) / 2
            away_W = np.abs(center - starts_W[first:stop] - half_W) / half_W
            weight_W = np.maximum(1 - away_W, _LEAST_WEIGHT)
            if smoothing < 1:
                weight_W = np.maximum(1 - away_W / smoothing, 0)
                weight_W[away_W.argmin()] = max(weight_W[away_W.argmin()], _LEAST_WEIGHT)
            score_IK[number] = weight_W @ score_WK[first:stop] / weight_W.sum()
    return times, score_IK


def _runs(
    moments: Moments,
    labels: Sequence[str],
    rule: EventRule,
    background: int | None,
    only: int | None = None,
) -> Iterator[tuple[int, int, int]]:
    """First and last interval of each event, and its class: the best one, or `only` this one."""
    score_IK = moments.scores
    if rule.margin and only is None and score_IK.shape[1] > 1:
        second_I = np.partition(score_IK, -2, axis=1)[:, -2]
    else:
        second_I = np.zeros(len(score_IK))
    best_I = score_IK.argmax(1) if only is None else np.full(len(score_IK), only)
    top_I = score_IK[np.arange(len(score_IK)), best_I]
    on_K = np.array([rule.classes.get(label, rule.on) for label in labels])
    class_I = np.where((top_I >= rule.off) & (top_I > 0), best_I, -1)
    begins_I = (top_I >= on_K[best_I]) & (top_I - second_I >= rule.margin)
    if moments.begun is not None:
        before = int(np.searchsorted(moments.times, moments.begun - TIME_EPS))
        begins_I[max(0, before - 1) : before] = True
    edges = [0, *(np.flatnonzero(np.diff(class_I)) + 1).tolist(), len(class_I)]
    for first, past in pairwise(edges):
        index = int(class_I[first])
        if index not in (-1, background) and begins_I[first:past].any():
            yield first, past - 1, index
