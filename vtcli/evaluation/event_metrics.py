"""Metrics of temporal detection: mean average precision and segment F1 at thresholds of temporal
intersection over union (tIoU), as ActivityNet's evaluation defines them (Caba Heilbron et al.,
2015), and F1 as in Lea et al., 2017, section 4.1.

Shape legend: P predicted events, N labeled events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Event:
    """A part of a video with one class; times in seconds. A labeled event has the score 1."""

    video: str
    start: float
    end: float
    label: str
    score: float = 1.0


@dataclass(frozen=True)
class ClassMetrics:
    """One class: its labeled and predicted events; AP and F1 by threshold, None without labeled."""

    label: str
    labeled: int
    predicted: int
    ap: Mapping[float, float | None]
    f1: Mapping[float, float | None]


@dataclass(frozen=True)
class EventMetrics:
    """Metrics by threshold: `map` is the mean over classes with labeled events, the others count
    the events of all classes together.
    """

    map: Mapping[float, float]
    f1: Mapping[float, float]
    precision: Mapping[float, float]
    recall: Mapping[float, float]
    classes: tuple[ClassMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; thresholds become text."""

        def named(values: Mapping[float, float | None]) -> dict[str, float | None]:
            return {f"{threshold:g}": value for threshold, value in values.items()}

        summary = {n: named(dict(getattr(self, n))) for n in ("map", "f1", "precision", "recall")}
        classes = [{**vars(one), "ap": named(one.ap), "f1": named(one.f1)} for one in self.classes]
        return {"mean_map": fmean(self.map.values()), **summary, "classes": classes}


def score_events(
    predicted: Sequence[Event], labeled: Sequence[Event], thresholds: Sequence[float] = THRESHOLDS
) -> EventMetrics:
    """Compare predicted with labeled events; there must be a labeled one."""
    by_class = {
        label: (
            sorted((e for e in predicted if e.label == label), key=lambda e: -e.score),
            [e for e in labeled if e.label == label],
        )
        for label in sorted({e.label for e in (*predicted, *labeled)})
    }
    classes = []
    hits = dict.fromkeys(thresholds, 0)
    for label, (found, true) in by_class.items():
        ap: dict[float, float | None] = {}
        f1: dict[float, float | None] = {}
        for threshold in thresholds:
            hit_P = match(found, true, threshold)
            hits[threshold] += sum(hit_P)
            ap[threshold] = average_precision(hit_P, len(true)) if true else None
            f1[threshold] = 2 * sum(hit_P) / (len(found) + len(true)) if true else None
        classes.append(ClassMetrics(label, len(true), len(found), ap, f1))
    with_events = [one for one in classes if one.labeled]
    return EventMetrics(
        {t: fmean(one.ap[t] or 0.0 for one in with_events) for t in thresholds},
        {t: 2 * hits[t] / (len(predicted) + len(labeled)) for t in thresholds},
        {t: hits[t] / len(predicted) if predicted else 0.0 for t in thresholds},
        {t: hits[t] / len(labeled) for t in thresholds},
        tuple(classes),
    )


def background_seconds(labeled: Sequence[Event], lengths: Mapping[str, float]) -> float:
    """The seconds of videos, of these lengths, in which there is no labeled event."""
    return sum(length - covered(Event(v, 0, length, ""), labeled) for v, length in lengths.items())


def false_events(predicted: Sequence[Event], labeled: Sequence[Event]) -> int:
    """How many predicted events lie by more than half of their length outside labeled ones."""
    return sum(covered(one, labeled) < (one.end - one.start) / 2 for one in predicted)


def covered(one: Event, labeled: Sequence[Event]) -> float:
    """The seconds of an event during which its video has a labeled one, of any class."""
    seconds, last = 0.0, one.start
    for other in sorted((e for e in labeled if e.video == one.video), key=lambda e: e.start):
        seconds += max(0.0, min(one.end, other.end) - max(last, other.start))
        last = max(last, min(one.end, other.end))
    return seconds


def tiou(one: Event, other: Event) -> float:
    """Intersection over union of two events of one video, along time."""
    common = min(one.end, other.end) - max(one.start, other.start)
    union = max(one.end, other.end) - min(one.start, other.start)
    return max(0.0, common) / union if union > 0 else 0.0


def match(found: Sequence[Event], true: Sequence[Event], threshold: float) -> list[bool]:
    """Whether each predicted event [P], best score first, is a hit.

    It takes the labeled event of its video with the highest tIoU among those that no better one
    took; a tIoU below the threshold does not count.
    """
    free = set(range(len(true)))
    hits = []
    for event in found:
        near = [(tiou(event, true[n]), -n) for n in free if true[n].video == event.video]
        best, number = max(near, default=(0.0, 0))
        hits.append(best >= threshold)
        if hits[-1]:
            free.discard(-number)
    return hits


def average_precision(hit_P: Sequence[bool], labeled: int) -> float:
    """Area under the precision-recall curve, with the highest precision at any higher recall."""
    if not hit_P:
        return 0.0
    true_P = np.cumsum(hit_P)
    precision_P = true_P / np.arange(1, len(hit_P) + 1)
    envelope_P = np.maximum.accumulate(precision_P[::-1])[::-1]
    return float(envelope_P[np.asarray(hit_P, bool)].sum() / labeled)
