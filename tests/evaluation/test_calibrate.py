"""`vt eval calibrate` stores its fit in a copy with the same tensors; reading checks its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tests.evaluation.harness import evaluated, model_file, vt_here
from vtcli.errors import WeightsError
from vtcli.evaluation.aggregate import load_run_scores
from vtcli.evaluation.run_directory import RunDirectory
from vtcli.weights.checkpoint import (
    CARD_KEY,
    open_tensors,
    read_card,
    tensor_digest,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    model, run, _ = evaluated(folder)
    done = vt_here("eval", "calibrate", run, "-m", model, "-o", folder / "c.safetensors")
    assert done.returncode == 0, done.stderr
    assert "ECE before" in done.stdout
    return folder


def test_the_copy_has_the_same_tensors_and_a_temperature_of_lower_nll(made: Path):
    before, after = made / "tiny.safetensors", made / "c.safetensors"
    assert tensor_digest(open_tensors(before)) == tensor_digest(open_tensors(after))
    card = read_card(after)
    assert replace(card, calibration={}) == read_card(before)
    entry = card.calibration["action"]
    assert entry["samples"] == 16
    assert entry["abstain"]["0.05"] is None  # 16 videos cannot prove 5 %
    scores = load_run_scores(RunDirectory(made / "run"))
    p, label = scores.probabilities["action"], [t[0] for t in scores.target("action")]
    scaled = p ** (1 / entry["temperature"])
    scaled /= scaled.sum(1, keepdims=True)
    assert log_loss(label, scaled, labels=range(8)) < log_loss(label, p, labels=range(8))
    # Rank ceil(17 * 0.9) = 16 of 16, and more than 16 for 0.95.
    worst = (1 - p[np.arange(16), label]).max()
    assert entry["coverage"]["0.90"] == pytest.approx(worst)
    assert entry["coverage"]["0.95"] == 1


def test_a_card_without_calibration_does_not_mention_it(made: Path):
    assert "calibration" not in json.loads(read_card(made / "tiny.safetensors").to_json())


def test_a_run_of_other_weights_is_refused(made: Path, tmp_path: Path):
    other = model_file(tmp_path / "other.safetensors", seed=1)
    done = vt_here("eval", "calibrate", made / "run", "-m", other, "-o", tmp_path / "c.safetensors")
    assert done.returncode == 7
    assert "a run of other weights" in done.stderr
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"samples": "many"},
        {"abstain": {"0.05": 2.0}},
        {"abstain": {"5": 0.5}},
        {"coverage": {"0.95": None}},
        {"more": 1},
    ],
)
def test_a_calibration_out_of_bounds_is_refused_on_reading(made: Path, tmp_path: Path, change):
    card = read_card(made / "c.safetensors")
    damaged = replace(card, calibration={"action": {**card.calibration["action"], **change}})
    path = tmp_path / "damaged.safetensors"
    tensors = open_tensors(made / "c.safetensors")
    write_checkpoint(path, tensors, {CARD_KEY: damaged.to_json()})
    with pytest.raises(WeightsError, match="its calibration"):
        read_card(path)
