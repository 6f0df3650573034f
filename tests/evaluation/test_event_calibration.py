"""A rule that was fitted to one film finds the events of another."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vtcli.cli import run
from vtcli.errors import EXIT_DATA, EXIT_OK, EXIT_USAGE
from vtcli.evaluation.event_fit import ScoredVideo, fit_events, is_inside
from vtcli.evaluation.event_metrics import Event
from vtcli.inference.background import fit_activity, values_around
from vtcli.inference.events import EventRule
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import plan_windows
from vtcli.synthetic.film import write_film
from vtcli.weights.checkpoint import open_tensors, read_card, tensor_digest
from vtcli.weights.resolve import resolve

MODEL = "vivit-nano.motion8"
WINDOWS = ["--window", "1.1s", "--stride", "0.1s"]
Interval = tuple[float, float, str]


def by_definition(
    found: Sequence[tuple[float, Interval]], true: Sequence[Interval], seconds: float
) -> tuple[float, float]:
    """F1 at tIoU 0.5: from the best score on, an event is right if a labeled one of its class, that
    no other took, has at least half of their union in common with it. And false events per minute
    without a labeled event: those of which more than half is there.
    """
    free, hits, wrong = list(true), 0, 0
    for _, (start, end, label) in sorted(found, reverse=True):
        common = {t: min(end, t[1]) - max(start, t[0]) for t in free if t[2] == label}
        union = {t: max(end, t[1]) - min(start, t[0]) for t in common}
        best = max(common, key=lambda t: common[t] / union[t], default=None)
        if best is not None and common[best] >= union[best] / 2:
            free.remove(best)
            hits += 1
    for _, (start, end, _) in found:
        grid = np.linspace(start, end, 2001)
        outside = np.all([(grid < a) | (grid > b) for a, b, _ in true], axis=0)
        wrong += outside.mean() > 0.5
    background = seconds - sum(b - a for a, b, _ in true)
    return 2 * hits / (len(found) + len(true)), wrong / (background / 60)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two films, a run on one, and the model that was calibrated on it."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder, "fit", 64, split="val", seed=1)
    write_film(folder, "other", 24, split="test", seed=2)
    command = ["eval", "--events", "--dataset", str(folder / "fit.csv"), "-m", MODEL, *WINDOWS]
    assert run([*command, "-j", "0", "-o", str(folder / "run")]) == EXIT_OK
    output = str(folder / "calibrated.safetensors")
    assert run(["eval", "calibrate", str(folder / "run"), "-o", output]) == EXIT_OK
    return folder


@pytest.mark.slow
def test_events_of_another_film_are_found(
    calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["-m", str(calibrated / "calibrated.safetensors"), "-j", "0", "--format", "json"]
    other = calibrated / "other.csv"
    assert run(["eval", "--events", "--dataset", str(other), *model]) == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    film = calibrated / "other.mp4"
    assert run(["predict", str(film), "--events", *model]) == EXIT_OK
    (result,) = json.loads(capsys.readouterr().out)["results"]
    with other.open(encoding="utf-8") as file:
        true = [(float(r["start"]), float(r["end"]), r["label"]) for r in csv.DictReader(file)]
    found = [(s["score"], (s["start"], s["end"], s["label"])) for s in result["segments"]]
    f1, false = by_definition(found, true, 60 * report["minutes"])
    assert report["f1"]["0.5"] == pytest.approx(f1)
    assert report["false_per_minute"] == pytest.approx(false, rel=1e-3)
    assert f1 >= 0.9
    assert false <= 1


@pytest.mark.slow
def test_the_calibration_is_in_the_card_of_the_same_tensors(
    calibrated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = calibrated / "calibrated.safetensors"
    card = read_card(path)
    assert (card.events["samples"], card.events["window"], card.events["stride"]) == (64, 1.1, 0.1)
    original = open_tensors(resolve(MODEL).path)
    assert tensor_digest(open_tensors(path)) == tensor_digest(original)
    # Other windows need a rule of their own.
    film = str(calibrated / "other.mp4")
    command = ["predict", film, "-m", str(path), "--events", "--window", "2s"]
    assert run(command) == EXIT_USAGE
    assert "calibrated with --window 1.1s --stride 0.1s" in capsys.readouterr().err
    # Fitting needs neither the network nor the videos, and prints what it changes.
    monkeypatch.setattr(TimelinePredictor, "score_windows", None)
    assert run(["eval", "calibrate", str(calibrated / "run"), "-m", str(path), "-o", "x"]) == (
        EXIT_DATA
    )
    assert "a run of other weights" in capsys.readouterr().err


def random_run(seed: int) -> ScoredVideo:
    """Scores of a model that is sure of some class everywhere, but less so where nothing is."""
    rng = np.random.default_rng(seed)
    windows = plan_windows(np.arange(3001) / 25, 1.0, 0.2)
    events = [Event("v", s, s + 3.0, "ab"[n % 2]) for n, s in enumerate(range(4, 110, 7))]
    center_W = np.array([(w.start + w.end) / 2 for w in windows])
    score_WK = np.empty((len(windows), 2))
    for row, center in enumerate(center_W):
        here = [e for e in events if e.start <= center < e.end]
        sure = rng.uniform(0.85, 0.99) if here else rng.uniform(0.55, 0.9)
        first = here[0].label == "a" if here else rng.random() < 0.5
        score_WK[row] = (sure, 1 - sure) if first else (1 - sure, sure)
    return ScoredVideo("v", windows, score_WK, tuple(events))


def test_a_fitted_rule_is_better_than_the_default() -> None:
    video = random_run(0)
    fit = fit_events([video], ("a", "b"), EventRule(), 1.0)
    assert fit.before.metrics.f1[0.5] < 0.6
    assert fit.now.metrics.f1[0.5] > 0.9
    assert EventRule.from_dict(json.loads(json.dumps(fit.rule.to_dict()))) == fit.rule


def test_activity_is_told_from_the_windows_around() -> None:
    video, other = random_run(0), random_run(1)
    activity = fit_activity(values_around(video.windows, video.scores, 0.2), is_inside(video), 0.2)
    p_W = activity.probability(other.windows, other.scores)
    inside_W = is_inside(other)
    assert p_W[inside_W].mean() > 0.7
    assert p_W[~inside_W].mean() < 0.25


def test_a_run_without_labels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.json").write_text("{}")
    assert run(["eval", "calibrate", str(tmp_path), "-o", str(tmp_path / "x.safetensors")]) == (
        EXIT_DATA
    )
    assert "has no labeled events" in capsys.readouterr().err
