"""Events of a stream while it runs: those of `find_events` of which no coming window can change
anything.

Shape legend: W windows, K classes, I intervals as in `vtcli.inference.events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vtcli.inference.events import EventRule, Moments, background_class, smooth
from vtcli.inference.windows import SHORTEST, Segment, Window
from vtcli.video import TIME_EPS

MAX_SECONDS = 600.0
"""An event that lasts longer is reported in parts: memory stays bounded."""


class LiveEvents:
    """The events of one stream; windows are added in the order of their starts.

    A window changes no score before its own start, less the reach of the rule: up to that moment of
    the last window, scores are settled, and are kept in place of the windows. An event is final if
    another one follows it there. The last one is final once it ended, if whatever comes is farther
    away than the rule's gap, and than both may grow. Raises `UsageError` as `find_events` does.
    """

    def __init__(self, rule: EventRule, labels: Sequence[str]) -> None:
        background_class(labels, rule)
        self.rule, self.labels = rule, labels
        self._windows: list[Window] = []
        self._scores: list[NDArray[np.float64]] = []
        # The least duration is asked for at the end: a short event may still grow or be merged.
        self._grown = replace(rule, min=0.0)
        self._bare = replace(self._grown, grow=0.0)
        # By this rule, whatever may still become an event is one.
        self._possible = replace(self._bare, on=rule.off, classes={}, margin=0.0, gap=0.0)
        self._settled = Moments(np.empty(0), np.empty((0, len(labels))), np.empty(0))
        self._decided = 0.0  # what begins earlier was reported, or cannot become an event

    @property
    def decided(self) -> float:
        """No event that `add` or `finish` still returns begins earlier, in seconds."""
        return self._decided

    def add(self, window: Window, score_K: NDArray[np.float64]) -> list[Segment]:
        """The events that are final with this window and its probabilities [K]."""
        self._windows.append(window)
        self._scores.append(score_K)
        center = (window.start + window.end) / 2
        self._settled = replace(self._settled, centers=np.append(self._settled.centers, center))
        self._settle(window.start - self.rule.reach)
        return self._final() if len(self._settled.scores) else []

    def finish(self) -> list[Segment]:
        """The remaining events, of a stream that has ended."""
        if not self._windows:
            return []
        self._settle(float("inf"))
        return self._long_enough(self._events())

    def _settle(self, horizon: float) -> None:
        """Keep the scores before `horizon`, and of the windows those that others depend on."""
        windows, rule, settled = self._windows, self.rule, self._settled
        score_WK = np.stack(self._scores)
        if rule.activity is not None:
            score_WK = score_WK * rule.activity.probability(windows, score_WK)[:, None]
        times, score_IK = smooth(windows, score_WK, rule.smooth)
        # Times that are this close to another one are not kept: none comes before the horizon.
        stop = int(np.searchsorted(times[:-1], horizon - SHORTEST / 2 - TIME_EPS))
        first = int(np.searchsorted(times, settled.end - TIME_EPS)) if len(settled.times) else 0
        if stop > first:
            known = settled.times if len(settled.times) else times[:1]
            self._settled = replace(
                settled,
                times=np.concatenate([known, times[first + 1 : stop + 1]]),
                scores=np.concatenate([settled.scores, score_IK[first:stop]]),
            )
        last = windows[-1]
        since = min(horizon, last.start) - rule.reach - 2 * (last.end - last.start)
        past = 0
        while past + 1 < len(windows) and windows[past + 1].end < since:
            past += 1
        del windows[:past], self._scores[:past]

    def _final(self) -> list[Segment]:
        """The events that are final with the scores that are settled."""
        settled, final = self._settled, self._events()
        last, pending = self._last(self._bare), self._last(self._possible)
        if pending is not None and not self._is_open(pending):
            pending = None
        begins = settled.end if pending is None else pending.start
        decided = begins - self.rule.grow
        if final and last is not None and not self._is_final(last, pending):
            event = final.pop()
            decided = event.start
            if settled.end - event.start > MAX_SECONDS and self._is_open(last):
                final.append(replace(event, end=settled.end))
                decided = settled.end
                self._settled = replace(settled, begun=decided)
        self._forget(max(self._decided, decided))
        return self._long_enough(final)

    def _is_final(self, last: Segment, pending: Segment | None) -> bool:
        """Whether nothing can change the last event; `pending` may still become the next one."""
        if self._is_open(last):
            return False
        end = self._settled.end
        begins = end if pending is None else pending.start
        resumes = begins if pending is None or pending.index == last.index else end
        apart, grown = last.end + self.rule.gap, last.end + 2 * self.rule.grow
        return resumes > apart + TIME_EPS and begins > grown - TIME_EPS

    def _is_open(self, event: Segment) -> bool:
        """Whether an event lasts as long as scores are settled."""
        return event.end > self._settled.end - TIME_EPS

    def _last(self, rule: EventRule) -> Segment | None:
        events = self._settled.events(self.labels, rule)
        return events[-1] if events else None

    def _events(self) -> list[Segment]:
        """Events in the settled scores, from what is decided on."""
        settled, decided = self._settled, self._decided
        return [
            settled.event(max(event.start, decided), event.end, event.index, self.labels)
            for event in settled.events(self.labels, self._grown)
            if event.end > decided + TIME_EPS
        ]

    def _long_enough(self, events: Sequence[Segment]) -> list[Segment]:
        return [e for e in events if e.end - e.start >= self.rule.min - TIME_EPS]

    def _forget(self, decided: float) -> None:
        """Drop the scores before `decided`, but for those that decide what is merged there."""
        self._decided = decided
        settled, since = self._settled, decided - self.rule.gap - 2 * self.rule.grow - TIME_EPS
        past = min(int(np.searchsorted(settled.times[1:], since)), len(settled.scores) - 1)
        self._settled = replace(
            settled,
            times=settled.times[past:],
            scores=settled.scores[past:],
            centers=settled.centers[settled.centers >= since],
        )


class OverlappingLiveEvents:
    """As `LiveEvents`, for classes that do not exclude each other: each has events of its own."""

    def __init__(self, rule: EventRule, labels: Sequence[str]) -> None:
        background_class(labels, rule)
        classes = [k for k, label in enumerate(labels) if label != rule.background]
        self._of_class = {
            k: LiveEvents(
                replace(
                    rule,
                    on=rule.classes.get(labels[k], rule.on),
                    classes={},
                    background=None,
                    overlap=False,
                ),
                (labels[k],),
            )
            for k in classes
        }

    @property
    def decided(self) -> float:
        """As `LiveEvents.decided`, of all classes."""
        return min((one.decided for one in self._of_class.values()), default=0.0)

    def add(self, window: Window, score_K: NDArray[np.float64]) -> list[Segment]:
        """As `LiveEvents.add`, sorted by class."""
        found = {k: one.add(window, score_K[k : k + 1]) for k, one in self._of_class.items()}
        return [replace(event, index=k) for k, events in found.items() for event in events]

    def finish(self) -> list[Segment]:
        """As `LiveEvents.finish`, sorted by class."""
        found = {k: one.finish() for k, one in self._of_class.items()}
        return [replace(event, index=k) for k, events in found.items() for event in events]


def live_events(rule: EventRule, labels: Sequence[str]) -> LiveEvents | OverlappingLiveEvents:
    """The events of one stream by a rule."""
    return (OverlappingLiveEvents if rule.overlap else LiveEvents)(rule, labels)
