"""Metrics of events equal those of a scorer that is written from their definition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from vtcli.cli import run
from vtcli.errors import EXIT_DATA, EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE
from vtcli.evaluation.event_metrics import THRESHOLDS, Event, score_events
from vtcli.inference.timeline import TimelinePredictor

MODEL = "uniformerv2-nano.motion8"


def random_events(rng: np.random.Generator, count: int) -> list[Event]:
    starts, lengths = rng.uniform(0, 20, count), rng.uniform(0.5, 6, count)
    return [
        Event(f"{rng.integers(3)}.mp4", start, start + length, "abc"[rng.integers(3)], score)
        for start, length, score in zip(starts, lengths, rng.random(count), strict=True)
    ]


def by_definition(
    found: Sequence[Event], true: Sequence[Event], threshold: float
) -> tuple[float, int]:
    """AP of one class: for every recall that is reached, the best precision at it or above; and
    the number of hits. One by one from the best score on, a prediction takes the labeled event of
    its video that it overlaps most and that is not taken.
    """
    taken: set[int] = set()
    points = []
    for rank, one in enumerate(sorted(found, key=lambda e: e.score, reverse=True), 1):
        overlaps = []
        for number, other in enumerate(true):
            if other.video == one.video and number not in taken:
                common = min(one.end, other.end) - max(one.start, other.start)
                if common > 0:
                    whole = (one.end - one.start) + (other.end - other.start) - common
                    overlaps.append((common / whole, number))
        if overlaps and max(overlaps)[0] >= threshold:
            taken.add(max(overlaps)[1])
        points.append((len(taken) / len(true), len(taken) / rank))
    area = 0.0
    for hit in range(1, len(taken) + 1):
        recall = hit / len(true)
        area += max(p for r, p in points if r >= recall - 1e-12) / len(true)
    return area, len(taken)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, true = random_events(rng, 60), random_events(rng, 40)
    found += [  # near misses, so that high thresholds are reached as well
        Event(e.video, e.start + rng.normal(0, 0.3), e.end + 0.2, e.label, rng.random())
        for e in true[:25]
    ]
    metrics = score_events(found, true)
    for threshold in THRESHOLDS:
        rows = []
        for label in "abc":
            of_label = [e for e in found if e.label == label]
            rows.append(by_definition(of_label, [e for e in true if e.label == label], threshold))
        hits = sum(hit for _, hit in rows)
        assert metrics.map[threshold] == pytest.approx(np.mean([ap for ap, _ in rows]))
        precision, recall = hits / len(found), hits / len(true)
        assert metrics.f1[threshold] == pytest.approx(2 * precision * recall / (precision + recall))
        assert [one.ap[threshold] for one in metrics.classes] == pytest.approx([a for a, _ in rows])


def test_known_cases() -> None:
    true = [Event("v", 0, 10, "a"), Event("v", 20, 30, "a")]
    perfect = score_events(true, true)
    assert set(perfect.map.values()) == set(perfect.f1.values()) == {1.0}
    nothing = score_events([], true)
    assert set(nothing.map.values()) == set(nothing.f1.values()) == {0.0}
    # The second detection of one event is wrong, and so is one in another video.
    twice = [Event("v", 0, 10, "a", 0.9), Event("v", 0, 9, "a", 0.8), Event("w", 0, 10, "a", 0.7)]
    metrics = score_events(twice, true)
    assert metrics.map[0.5] == 0.5
    assert metrics.precision[0.5] == pytest.approx(1 / 3)
    assert metrics.recall[0.5] == 0.5
    extra = score_events([*true, Event("v", 12, 14, "b", 0.9)], true)
    assert extra.map[0.5] == 1.0
    assert extra.f1[0.5] == 0.8
    assert [(c.label, c.ap[0.5]) for c in extra.classes] == [("a", 1.0), ("b", None)]


def test_the_command_scores_again_without_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.video(tmp_path / "clip.mp4", 40)
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label,start,end\nclip.mp4,right,0.2,1.0\nclip.mp4,left,1.0,1.6\n")
    command = ["eval", "--events", "--dataset", str(labels), "-m", MODEL, "--window", "0.8s"]
    command += ["--stride", "0.2s", "-o", str(tmp_path / "run"), "-j", "0", "--format", "json"]
    assert run([*command, "--event-rule", "on=0.9"]) == EXIT_OK
    first = json.loads(capsys.readouterr().out)
    assert (first["videos"], first["rule"]["on"]) == (1, 0.9)
    assert {one["label"] for one in first["classes"]} >= {"left", "right"}
    monkeypatch.setattr(TimelinePredictor, "score_windows", None)
    assert run([*command, "--event-rule", "on=0.9"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == first
    assert run([*command, "--event-rule", "on=0.1,off=0"]) == EXIT_OK
    capsys.readouterr()
    assert run([*command[:-2], "--event-rule", "on=0.9"]) == EXIT_OK
    assert "mean mAP" in capsys.readouterr().out
    assert run([*command, "--stride", "0.4s"]) == EXIT_DATA
    assert "name another folder" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.video(tmp_path / "clip.mp4", 40)
    labels = tmp_path / "labels.csv"
    command = ["eval", "--events", "--dataset", str(labels), "-j", "0"]
    labels.write_text("path,label,start,end\nclip.mp4,jump,0.2,1.0\n")
    assert run([*command, "-m", MODEL, "--window", "1s"]) == EXIT_DATA
    assert "no class 'jump'" in capsys.readouterr().err
    assert run([*command, "-m", MODEL]) == EXIT_USAGE
    assert run([*command, "--window", "1s"]) == EXIT_USAGE
    assert run(["eval", "--dataset", str(labels), "--window", "1s"]) == EXIT_USAGE
    labels.write_text("path,label\nclip.mp4,right\n")
    assert run([*command, "-m", MODEL, "--window", "1s"]) == EXIT_DATA
    labels.write_text("path,label,start,end\nclip.mp4,right,0,1\ngone.mp4,left,0,1\n")
    assert run([*command, "-m", MODEL, "--window", "1s"]) == EXIT_SOME_FAILED


def test_segments_of_activitynet_are_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.video(tmp_path / "v_one.mp4", 40)
    segments = [{"label": "right", "segment": [0.2, 1.0]}, {"label": "up", "segment": [1.1, 1.5]}]
    entry = {"subset": "validation", "duration": 1.6, "annotations": segments}
    path = tmp_path / "activity_net.json"
    path.write_text(json.dumps({"version": "1.3", "database": {"one": entry}}))
    command = ["eval", "--events", "--dataset", str(path), "-m", MODEL, "--window", "0.8s"]
    assert run([*command, "-j", "0", "--format", "json"]) == EXIT_OK
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert {one["label"] for one in classes if one["labeled"]} == {"right", "up"}
