"""Events that are reported while a stream runs are those of the whole timeline."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vtcli.inference import live_events
from vtcli.inference.background import Activity
from vtcli.inference.events import EventRule, find_events
from vtcli.inference.live_events import LiveEvents
from vtcli.inference.windows import Segment, plan_windows

LABELS = ("run", "jump", "nothing")
ACTIVITY = Activity(0.4, 0.3, tuple(np.random.RandomState(1).randn(7 * 6).tolist()))
RULES = (
    EventRule(),
    EventRule(on=0.7, off=0.4),
    EventRule(on=0.6, off=0.35, gap=1.5, min=1.0),
    EventRule(on=0.5, off=0.3, margin=0.2, background="nothing", gap=0.5),
    EventRule(on=0.6, off=0.4, smooth=0.4, grow=0.7, min=1.0, classes={"run": 0.5, "jump": 0.9}),
    EventRule(on=0.3, off=0.2, grow=0.3, gap=0.4, activity=ACTIVITY),
)


def streamed(events: Any, windows: list, score_WK: np.ndarray) -> list[Segment]:
    pairs = zip(windows, score_WK, strict=True)
    return [event for w, s in pairs for event in events.add(w, s)] + events.finish()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stride", [0.5, 1.0, 2.0, 3.0])
def test_events_of_a_stream_are_those_of_its_timeline(rule: EventRule, stride: float) -> None:
    for seed in range(6):
        windows = plan_windows(np.arange(1051) / 25, 2.0, stride)
        random = np.random.RandomState(seed)
        # Scores that change slowly, so that there are long and short events.
        steps = random.randn(len(windows), 3).cumsum(0) * 1.2
        score_WK = np.exp(steps) / np.exp(steps).sum(1, keepdims=True)
        expected = find_events(windows, score_WK, LABELS, rule)
        found = streamed(LiveEvents(rule, LABELS), windows, score_WK)
        assert [(e.label, e.windows) for e in found] == [(e.label, e.windows) for e in expected]
        for one, other in zip(found, expected, strict=True):
            times = (one.start, one.end, one.score)
            assert times == pytest.approx((other.start, other.end, other.score))


def test_an_event_is_reported_as_soon_as_it_cannot_change() -> None:
    windows = plan_windows(np.arange(501) / 25, 2.0, 1.0)
    score_WK = np.full((len(windows), 3), 0.1)
    score_WK[4:7, 0] = 0.8  # windows from 4 s to 8 s
    events = LiveEvents(EventRule(), LABELS)
    number = next(n for n, w in enumerate(windows) if events.add(w, score_WK[n]))
    assert windows[number].start <= 9.0


def test_a_long_event_is_reported_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "MAX_SECONDS", 30.0)
    windows = plan_windows(np.arange(2501) / 25, 2.0, 1.0)
    events = LiveEvents(EventRule(), LABELS)
    most, found = 0, []
    for window in windows:
        found += events.add(window, np.array([0.9, 0.05, 0.05]))
        most = max(most, len(events._windows))
    found += events.finish()
    assert most < 40
    assert [e.start for e in found[1:]] == pytest.approx([e.end for e in found[:-1]])
    assert (found[0].start, found[-1].end) == pytest.approx((0, 100))


def test_overlapping_events_of_a_stream_are_those_of_its_timeline() -> None:
    rule = EventRule(
        on=0.7,
        off=0.4,
        gap=0.6,
        grow=0.2,
        background="nothing",
        classes={"jump": 0.8},
        overlap=True,
    )
    windows = plan_windows(np.arange(1051) / 25, 2.0, 0.5)
    steps = np.random.RandomState(5).randn(len(windows), 3).cumsum(0)
    score_WK = 1 / (1 + np.exp(-steps))
    expected = find_events(windows, score_WK, LABELS, rule)
    found = streamed(live_events.live_events(rule, LABELS), windows, score_WK)
    found.sort(key=lambda e: (e.start, e.index))
    assert {e.label for e in found} == {"run", "jump"}
    assert any(a.end > b.start for a, b in pairwise(found))
    assert [(e.label, e.index) for e in found] == [(e.label, e.index) for e in expected]
    assert [e.end for e in found] == pytest.approx([e.end for e in expected])


def delays(rule: EventRule, of_class_W: list[int], high: float = 0.8) -> dict[str, float]:
    """Seconds from the end of each event to its line; windows of 2 s, one a second."""
    windows = plan_windows(np.arange((len(of_class_W) + 1) * 25 + 1) / 25, 2.0, 1.0)
    events, found = LiveEvents(rule, LABELS), {}
    for window, index in zip(windows, of_class_W, strict=True):
        score_K = np.full(3, (1 - high) / 2)
        score_K[index] = high
        found |= {e.label: window.end - e.end for e in events.add(window, score_K)}
    return found


def test_an_event_is_reported_at_once_although_another_one_follows_it() -> None:
    of_class_W = [0] * 10 + [1] * 10
    # Windows of 2 s of which one begins after the end of the event.
    assert delays(EventRule(), of_class_W) == {"run": 3.0}
    assert delays(EventRule(grow=1.0, gap=5.0), of_class_W) == {"run": 3.0}
    # Another one may become an event, which decides how far this one grows.
    unsure = EventRule(on=0.9, off=0.3, classes={"run": 0.5}, grow=1.5)
    assert delays(unsure, of_class_W) == {}
    assert delays(replace(unsure, grow=0.0), of_class_W) == {"run": 3.0}


@pytest.mark.parametrize(("window", "stride"), [(1.097, 0.1), (1.103, 0.4), (0.5, 0.7)])
def test_windows_that_fit_no_stride_give_the_events_of_the_timeline(
    window: float, stride: float
) -> None:
    for rule in RULES[3:]:
        windows = plan_windows(np.arange(187) / 25, window, stride)
        steps = np.random.RandomState(3).randn(len(windows), 3).cumsum(0) * 0.7
        score_WK = np.exp(steps) / np.exp(steps).sum(1, keepdims=True)
        expected = find_events(windows, score_WK, LABELS, rule)
        found = streamed(LiveEvents(rule, LABELS), windows, score_WK)
        assert [(e.label, e.windows) for e in found] == [(e.label, e.windows) for e in expected]
        for one, other in zip(found, expected, strict=True):
            assert (one.start, one.end) == pytest.approx((other.start, other.end))


def test_the_later_parts_of_a_long_event_need_not_reach_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "MAX_SECONDS", 20.0)
    windows = plan_windows(np.arange(1251) / 25, 2.0, 1.0)
    score_WK = np.full((len(windows), 3), 0.1)
    score_WK[:, 0] = 0.4
    score_WK[3:5, 0] = 0.9
    (whole,) = find_events(windows, score_WK, LABELS, EventRule(on=0.6))
    found = streamed(LiveEvents(EventRule(on=0.6), LABELS), windows, score_WK)
    assert len(found) > 1
    assert (found[0].start, found[-1].end) == pytest.approx((whole.start, whole.end))
    assert [e.start for e in found[1:]] == pytest.approx([e.end for e in found[:-1]])
