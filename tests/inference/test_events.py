"""Events begin, last and end by their rule; where nothing happens there are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny
from vtcli.cli import run
from vtcli.errors import EXIT_OK, EXIT_USAGE, UsageError, WeightsError
from vtcli.inference.event_rule import rule_of_model
from vtcli.inference.events import EventRule, find_events, parse_event_rule, smooth
from vtcli.inference.windows import Window

LABELS = ("a", "b", "nothing")
MODEL = "uniformerv2-nano.motion8"


def in_a_row(*scores: float, other: float = 0.0) -> tuple[list[Window], NDArray[np.float64]]:
    """Windows of one second, one after the other: the scores of `a`, of `b`, and the rest."""
    windows = [Window(float(n), n + 1.0, n, 1) for n in range(len(scores))]
    return windows, np.array([(s, other, max(0.0, 1 - s - other)) for s in scores])


def times(
    windows: list[Window], score_WK: NDArray[np.float64], rule: EventRule
) -> list[tuple[str, float, float]]:
    return [(e.label, e.start, e.end) for e in find_events(windows, score_WK, LABELS, rule)]


def test_an_event_lasts_while_its_score_is_above_the_lower_threshold() -> None:
    windows, score_WK = in_a_row(0.1, 0.4, 0.8, 0.5, 0.1, 0.5, 0.1)
    rule = EventRule(on=0.7, off=0.35, background="nothing")
    # From 0.4, below the threshold at which it begins, until 0.5; the other 0.5 begins nothing.
    score_WK[1] = (0.4, 0.3, 0.3)
    assert times(windows, score_WK, rule) == [("a", 1.0, 4.0)]
    (event,) = find_events(windows, score_WK, LABELS, rule)
    assert event.score == pytest.approx((0.4 + 0.8 + 0.5) / 3)
    assert event.windows == 3


def test_the_background_class_is_no_event() -> None:
    windows, score_WK = in_a_row(0.1, 0.9, 0.1)
    everything = times(windows, score_WK, EventRule())
    assert [label for label, _, _ in everything] == ["nothing", "a", "nothing"]
    assert times(windows, score_WK, EventRule(background="nothing")) == [("a", 1.0, 2.0)]
    with pytest.raises(UsageError, match="no class 'silence'"):
        find_events(windows, score_WK, LABELS, EventRule(background="silence"))


def test_a_lead_over_the_second_class_is_needed_to_begin() -> None:
    windows, score_WK = in_a_row(0.55, 0.55, other=0.45)
    assert times(windows, score_WK, EventRule(margin=0.2)) == []
    score_WK[1] = (0.7, 0.2, 0.1)
    assert times(windows, score_WK, EventRule(margin=0.2)) == [("a", 0.0, 2.0)]


def test_short_events_are_dropped_after_gaps_are_closed() -> None:
    windows, score_WK = in_a_row(0.9, 0.1, 0.9, 0.1, 0.1, 0.9)
    rule = EventRule(background="nothing", gap=1.0, min=2.0)
    assert times(windows, score_WK, rule) == [("a", 0.0, 3.0)]
    score_WK[1] = (0.1, 0.9, 0.0)  # another event between them: nothing to close
    assert times(windows, score_WK, EventRule(background="nothing", gap=1.0)) == [
        *(("a", 0.0, 1.0), ("b", 1.0, 2.0), ("a", 2.0, 3.0), ("a", 5.0, 6.0)),
    ]


def test_overlapping_windows_are_averaged_by_their_distance() -> None:
    windows = [Window(0.0, 2.0, 0, 1), Window(1.0, 3.0, 0, 1), Window(2.0, 4.0, 0, 1)]
    at, score_I1 = smooth(windows, np.array([[0.0], [1.0], [0.0]]))
    assert at.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    # Halfway between two centers both count the same; the outer parts have one window.
    assert score_I1[:, 0] == pytest.approx([0.0, 0.5, 0.5, 0.0])
    apart, score_I1 = smooth([windows[0], Window(5.0, 6.0, 0, 1)], np.array([[1.0], [1.0]]))
    assert apart.tolist() == [0.0, 2.0, 5.0, 6.0]
    assert score_I1[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_events_of_classes_that_do_not_exclude_each_other_overlap() -> None:
    windows, score_WK = in_a_row(0.9, 0.9, 0.9, 0.1, 0.1)
    score_WK[1:4, 1] = 0.8
    found = times(windows, score_WK, EventRule(background="nothing", overlap=True))
    assert found == [("a", 0.0, 3.0), ("b", 1.0, 4.0)]


def test_events_grow_up_to_the_middle_between_them() -> None:
    windows, score_WK = in_a_row(0.1, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1)
    rule = EventRule(background="nothing", grow=0.8)
    found = times(windows, score_WK, rule)
    assert [t for _, *t in found] == [pytest.approx([0.2, 2.5]), pytest.approx([2.5, 4.8])]


def test_a_class_may_have_a_threshold_of_its_own() -> None:
    windows, score_WK = in_a_row(0.6, 0.1)
    assert (
        times(windows, score_WK, EventRule(on=0.5, classes={"a": 0.7}, background="nothing")) == []
    )
    assert times(windows, score_WK, EventRule(on=0.7, classes={"a": 0.5}, background="nothing"))


def test_the_rule_of_a_model_is_its_calibration_or_its_background_class() -> None:
    head = SimpleNamespace(labels=("a", "Background"))
    card = SimpleNamespace(heads=(head,), pipeline=SimpleNamespace(multi_label=False), events={})
    assert rule_of_model(card, "", 1.0, 0.5).background == "Background"
    assert rule_of_model(card, "background=a", 1.0, 0.5).background == "a"
    fitted = EventRule(on=0.4, off=0.2, classes={"a": 0.5})
    card.events = {"window": 1.0, "stride": 0.5, "rule": fitted.to_dict()}
    assert rule_of_model(card, "", 1.0, 0.5) == fitted
    assert rule_of_model(card, "min=1s", 1.0, 0.5) == replace(fitted, min=1.0)
    assert rule_of_model(card, "on=0.6", 2.0, 0.5).on == 0.6
    with pytest.raises(UsageError, match=r"--window 1s --stride 0\.5s"):
        rule_of_model(card, "", 2.0, 0.5)
    card.events["rule"] = {"on": "high"}
    with pytest.raises(WeightsError, match="make another"):
        rule_of_model(card, "", 1.0, 0.5)


def test_a_rule_is_read_from_text() -> None:
    text = "on=0.6, off=0.4,margin=.1,background=doing nothing,min=500ms,gap=1s"
    assert parse_event_rule(text) == EventRule(0.6, 0.4, 0.1, "doing nothing", 0.5, 1.0)
    assert parse_event_rule(None) == EventRule()
    assert parse_event_rule("on=0.2").off == 0.2
    for wrong in (
        "on",
        "on=",
        "on=2",
        "on=nan",
        "high=1",
        "on=0.1,on=0.2",
        "on=0.2,off=0.3",
        "min=x",
    ):
        with pytest.raises(UsageError):
            parse_event_rule(wrong)


def test_events_replace_the_segments_of_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tiny.video(tmp_path / "clip.mp4", 40)
    command = ["predict", str(clip), "-m", MODEL, "--window", "0.8s", "--stride", "0.2s"]
    rule = ["--events", "--event-rule", "on=0.4,min=400ms"]
    out = tmp_path / "events.json"
    assert run([*command, *rule, "-o", str(out)]) == EXIT_OK
    table = json.loads(out.read_text())
    assert table["events"]["on"] == 0.4
    segments = table["results"][0]["segments"]
    for suffix, word in ((".srt", "-->"), (".vtt", "-->"), (".activitynet", '"segment"')):
        path = out.with_suffix(suffix)
        assert run([*command, *rule, "-o", str(path)]) == EXIT_OK
        assert path.read_text().count(word) == len(segments)
    nothing = ["--events", "--event-rule", "on=1,off=1"]
    assert run([*command, *nothing]) == EXIT_OK
    assert "no window reaches a score of 1" in capsys.readouterr().out
    wrong = ["--event-rule", "on=0.5", "--window", "1s"]
    assert run(["predict", str(clip), "-m", MODEL, *wrong]) == EXIT_USAGE
    assert run([*command, "--events", "--min-score", "0.5"]) == EXIT_USAGE
