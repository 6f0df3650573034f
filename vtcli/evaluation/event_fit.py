"""Fits the rule of events to videos with labeled events, from the scores of their windows.

A background is tried in two forms: thresholds on the scores alone, and scores times the probability
that anything happens (`vtcli.inference.background`). That regression is judged on parts of the
videos that it was not fitted to; the form and the thresholds with the best F1 are kept.

Shape legend: W windows, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.evaluation.event_metrics import (
    Event,
    EventMetrics,
    background_seconds,
    false_events,
    score_events,
)
from vtcli.inference.background import Activity, fit_activity, values_around
from vtcli.inference.events import EventRule, Moments
from vtcli.inference.windows import Window

Floats = NDArray[np.float64]

FOLDS = 4
INSIDE = 0.85
"""A window shows an event where so much of it, or of a shorter event, is in the other."""
_THRESHOLDS = (0.3, 0.5, 0.7)
_FALSE_COST = 0.02  # in F1, of a false event per minute of background
_SCORES = tuple(round(0.05 * n, 2) for n in range(1, 19))
_LEAST_EVENTS = 8  # of a class that gets a threshold of its own


@dataclass(frozen=True, eq=False)
class ScoredVideo:
    """The windows of a video, their probabilities [W,K], and its labeled events."""

    path: str
    windows: Sequence[Window]
    scores: Floats
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Judged:
    """The metrics of a rule on some videos, and its false events per minute of background."""

    metrics: EventMetrics
    false_per_minute: float | None


@dataclass(frozen=True)
class EventFit:
    """The fitted rule, and how a rule did before and does now; `now` has scores of the regression
    for parts of the videos that it was not fitted to.
    """

    rule: EventRule
    before: Judged
    now: Judged


def fit_events(
    videos: Sequence[ScoredVideo], labels: Sequence[str], start: EventRule, window: float
) -> EventFit:
    """The best rule for these videos, beginning with `start`; windows are `window` seconds long."""
    plain = _Scored(videos, [v.scores for v in videos], labels)
    fits: list[tuple[_Scored, EventRule, Activity | None]] = [
        (plain, _sweep(plain, start, window), None)
    ]
    if not start.overlap:
        step = max(window / 6, _stride(videos))
        held_out, fitted = _activities(videos, step)
        scored = _Scored(videos, held_out, labels)
        fits.append((scored, _sweep(scored, start, window), fitted))
    scored, rule, activity = max(fits, key=lambda fit: fit[0].objective(fit[1]))
    rule = _by_class(scored, rule)
    before, now = plain.judge(start), scored.judge(rule)
    return EventFit(replace(rule, activity=activity), before, now)


def _stride(videos: Sequence[ScoredVideo]) -> float:
    return min(
        (float(np.diff([w.start for w in v.windows]).max()) for v in videos if len(v.windows) > 1),
        default=0.0,
    )


def _activities(videos: Sequence[ScoredVideo], step: float) -> tuple[list[Floats], Activity]:
    """The scores of each video times a probability of the regression that was fitted to other parts
    of the videos; and the regression that was fitted to all.
    """
    values = [values_around(v.windows, v.scores, step) for v in videos]
    inside = [is_inside(v) for v in videos]
    folds = [np.arange(len(v)) * FOLDS // len(v) for v in values]
    every, target, fold = np.vstack(values), np.concatenate(inside), np.concatenate(folds)
    p_W = np.zeros(len(every))
    for number in range(FOLDS):
        others = fold != number
        if others.any():
            one = fit_activity(every[others], target[others], step)
            p_W[~others] = one.of_values(every[~others])
    parts = np.split(p_W, np.cumsum([len(v) for v in values])[:-1])
    scores = [v.scores * part[:, None] for v, part in zip(videos, parts, strict=True)]
    return scores, fit_activity(every, target, step)


def is_inside(video: ScoredVideo) -> NDArray[np.bool_]:
    """Whether each window [W] shows one event, as `INSIDE` defines it."""
    start_W = np.array([w.start for w in video.windows])
    end_W = np.array([w.end for w in video.windows])
    part_W = np.zeros(len(start_W))
    for event in video.events:
        common_W = np.minimum(end_W, event.end) - np.maximum(start_W, event.start)
        shorter_W = np.minimum(end_W - start_W, max(event.end - event.start, 1e-9))
        part_W = np.maximum(part_W, common_W / shorter_W)
    return np.asarray(part_W >= INSIDE)


class _Scored:
    """Videos with scores, for which rules are judged."""

    def __init__(
        self, videos: Sequence[ScoredVideo], scores: Sequence[Floats], labels: Sequence[str]
    ) -> None:
        self.videos, self.scores, self.labels = videos, scores, labels
        self.labeled = [event for video in videos for event in video.events]
        self.background = background_seconds(self.labeled, lengths_of(videos)) / 60
        self._moments: dict[float, list[Moments]] = {}

    def moments(self, smooth: float) -> list[Moments]:
        """Of each video."""
        if smooth not in self._moments:
            self._moments[smooth] = [
                Moments.of(video.windows, score_WK, smooth)
                for video, score_WK in zip(self.videos, self.scores, strict=True)
            ]
        return self._moments[smooth]

    def found(self, rule: EventRule) -> list[Event]:
        """The events by a rule, of all videos."""
        pairs = zip(self.videos, self.moments(rule.smooth), strict=True)
        return [
            Event(video.path, e.start, e.end, e.label, e.score)
            for video, moments in pairs
            for e in moments.events(self.labels, rule)
        ]

    def judge(self, rule: EventRule) -> Judged:
        found = self.found(rule)
        wrong = false_events(found, self.labeled)
        rate = wrong / self.background if self.background else None
        return Judged(score_events(found, self.labeled), rate)

    def objective(self, rule: EventRule) -> float:
        """F1 at tIoU 0.5, those at 0.3 and 0.7 a quarter each, less what false events cost."""
        found = self.found(rule)
        low, middle, high = score_events(found, self.labeled, _THRESHOLDS).f1.values()
        rate = false_events(found, self.labeled) / max(self.background, 1 / 60)
        return middle + (low + high) / 4 - _FALSE_COST * rate


def _sweep(scored: _Scored, start: EventRule, window: float) -> EventRule:
    """The best rule of a coordinate search: coarse for each `smooth`, then fine for the best."""
    coarse = {
        "on": _SCORES[1::2],
        "off": _SCORES[::2],
        "grow": tuple(window * part for part in (0, 0.1, 0.2, 0.3, 0.4)),
        "min": tuple(window * part for part in (0, 0.25, 0.5, 0.75, 1, 1.25)),
        "gap": (0.0, 0.2 * window, 0.5 * window),
        "margin": (0.0, 0.1, 0.2),
    }
    rules = [
        _coordinates(scored, replace(start, smooth=value), coarse) for value in (0.3, 0.6, 1.0)
    ]
    best = max(rules, key=scored.objective)
    return _coordinates(scored, best, {**coarse, "on": _SCORES, "off": _SCORES})


def _coordinates(
    scored: _Scored, rule: EventRule, grids: Mapping[str, Sequence[float]]
) -> EventRule:
    """The rule after each value was set to the best of its grid, one after the other."""
    best = scored.objective(rule)
    for name, grid in grids.items():
        for value in grid:
            values: dict[str, Any] = {name: value}
            if name == "on":
                values["off"] = min(rule.off, value)
            elif name == "off" and value > rule.on:
                continue
            other = replace(rule, **values)
            if (objective := scored.objective(other)) > best + 1e-9:
                best, rule = objective, other
    return rule


def _by_class(scored: _Scored, rule: EventRule) -> EventRule:
    """The rule with the `on` of classes that gain at least one event by one of their own."""
    best = scored.objective(rule)
    least = 1 / max(1, len(scored.labeled))
    for label in scored.labels:
        if sum(e.label == label for e in scored.labeled) < _LEAST_EVENTS:
            continue
        for value in _SCORES[1::2]:
            if value < rule.off:
                continue
            other = replace(rule, classes={**rule.classes, label: value})
            if (objective := scored.objective(other)) > best + least:
                best, rule = objective, other
    return rule


def lengths_of(videos: Sequence[ScoredVideo]) -> dict[str, float]:
    """The seconds that the windows of each video cover."""
    return {video.path: video.windows[-1].end for video in videos}
