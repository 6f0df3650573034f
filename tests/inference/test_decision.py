"""A calibrated model abstains and gives sets of classes as its card promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.harness import class_folders, model_file
from vtcli.cli import run
from vtcli.errors import EXIT_OK, EXIT_USAGE, UsageError
from vtcli.inference.decision import apply_temperature, conformal_sets, decision_rule
from vtcli.inference.predictor import Predictor
from vtcli.weights.checkpoint import CARD_KEY, open_tensors, read_card, write_checkpoint

TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, its calibrated copy, and a video."""
    folder = tmp_path_factory.mktemp("decision")
    model = model_file(folder / "tiny.safetensors")
    video = next(class_folders(folder / "videos", per_class=1).rglob("*.mp4"))
    entry = {
        "samples": 100,
        "temperature": TEMPERATURE,
        "delta": 0.05,
        "abstain": {"0.05": None, "0.10": 0.999999, "0.15": 0.5, "0.20": -1.0},
        "coverage": {"0.90": 0.9, "0.95": 1.0},
    }
    card = replace(read_card(model), calibration={"action": entry})
    calibrated = folder / "calibrated.safetensors"
    write_checkpoint(calibrated, open_tensors(model), {CARD_KEY: card.to_json()})
    return model, calibrated, video


def predicted(model: Path, video: Path, *options: str, capsys: Any) -> dict[str, Any]:
    words = ["predict", str(video), "-m", str(model), "--device", "cpu", "--precision", "fp32"]
    assert run([*words, "--format", "json", "-k", "99", *options]) == EXIT_OK
    return json.loads(capsys.readouterr().out)["results"][0]


@pytest.mark.parametrize(
    ("rate", "is_answered"), [("0.1", False), ("0.12", False), ("0.2", True), ("0.5", True)]
)
def test_it_abstains_below_the_threshold_of_the_stricter_level(
    made: tuple[Path, Path, Path], rate: str, is_answered: bool, capsys: Any
) -> None:
    _, calibrated, video = made
    found = predicted(calibrated, video, "--abstain", rate, capsys=capsys)
    assert found["answer"] == (found["predictions"][0]["label"] if is_answered else "unknown")
    assert "classes" not in found


def test_scores_are_tempered_and_sets_are_those_of_the_definition(
    made: tuple[Path, Path, Path], capsys: Any
) -> None:
    model, calibrated, video = made
    before = predicted(model, video, capsys=capsys)["predictions"]
    after = predicted(calibrated, video, "--coverage", "0.9", capsys=capsys)
    p_K = np.array([row["score"] for row in before])
    scores = [row["score"] for row in after["predictions"]]
    assert np.allclose(scores, apply_temperature(p_K[None], TEMPERATURE)[0], atol=1e-6)
    assert [row["label"] for row in before] == [row["label"] for row in after["predictions"]]
    inside = conformal_sets(p_K[None], 0.9)[0]
    assert after["classes"] == [
        row["label"] for row, is_in in zip(before, inside, strict=True) if is_in
    ]
    wider = predicted(calibrated, video, "--coverage", "0.91", capsys=capsys)["classes"]
    assert wider == [row["label"] for row in before]  # a quantile of 1 admits every class


def test_the_threshold_is_compared_with_the_probability_before_the_temperature(
    made: tuple[Path, Path, Path],
) -> None:
    rule = decision_rule(read_card(made[1]), 0.15, None)
    assert rule is not None
    sure = torch.zeros(1, len(rule.labels))
    sure[0, 3] = 3.0  # p = 0.74 of 8 classes; 0.39 after the temperature
    assert rule.decide(sure, "mean_softmax").answer == rule.labels[3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--abstain", "0.05"], "cannot promise an error of at most 0.05; --abstain 0.10 is the"),
        (["--coverage", "0.99"], "has no coverage of 0.99; at most 0.95"),
        (["--abstain", "0.2", "--window", "1s"], "leave out --window"),
    ],
)
def test_what_cannot_be_promised_is_refused(
    made: tuple[Path, Path, Path], options: list[str], sentence: str, capsys: Any
) -> None:
    assert run(["predict", str(made[2]), "-m", str(made[1]), *options]) == EXIT_USAGE
    assert sentence in capsys.readouterr().err


def test_a_model_that_is_not_calibrated_names_the_command(made: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UsageError, match="vt eval calibrate RUN -o"):
        next(Predictor(made[0], abstain=0.1).predict([made[2]]))


def test_table_and_csv_say_the_answer(made: tuple[Path, Path, Path], capsys: Any) -> None:
    words = ["predict", str(made[2]), "-m", str(made[1]), "--abstain", "0.1", "--coverage", "0.9"]
    assert run(words) == EXIT_OK
    assert "answer: unknown" in capsys.readouterr().out
    assert run([*words, "--format", "csv", "-k", "1"]) == EXIT_OK
    header, line = capsys.readouterr().out.splitlines()
    assert header.endswith("warnings,answer,classes")
    assert ",unknown," in line
