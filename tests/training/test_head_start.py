"""Linear probing, then fine-tuning: a new classifier is fitted before the first epoch."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.evaluation.harness import class_folders
from tests.training.harness import (
    STEADY,
    Killed,
    assert_a_kill_changes_nothing,
    bright_folders,
    kill_after,
    model_file,
    plan_for,
    same,
    trainer,
    weights,
)
from vtcli.cli import run
from vtcli.models.recipe import Recipe
from vtcli.training.choose import MOST_FITTED, TrainingBudget, choose_recipe
from vtcli.training.feature_fit import is_linear
from vtcli.training.features import FeatureCache
from vtcli.training.head_start import start_clips
from vtcli.training.init import build_model
from vtcli.training.plan import TrainPlan

pytestmark = pytest.mark.usefixtures("one_thread")

PROBE = replace(STEADY, head_init="probe")
HEAD = ("head.weight", "head.bias")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_folders(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "vivit")


@pytest.fixture(scope="module")
def plan(data: Path, model: Path) -> TrainPlan:
    return plan_for(data, model, PROBE)


def test_epoch_0_is_the_initial_backbone_with_a_fitted_classifier(
    plan: TrainPlan, tmp_path: Path
) -> None:
    made = trainer(tmp_path / "run", plan)
    with pytest.raises(Killed):
        made.fit(kill_after(1, made))
    (row,) = made.position.history
    assert (row["epoch"], row["step"], row["lr"]) == (0, 0, 0.0)
    assert row["train_loss"] < 0.5 * math.log(3)
    assert row["train_clips"] == start_clips(plan) - row["val_failed_videos"] - len(
        plan.split.validation.samples
    )
    torch.manual_seed(plan.seed)
    before = build_model(plan.model_init, plan.labels).state_dict()
    after = weights(tmp_path / "run" / "last.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == set(HEAD)


def test_the_fitted_classifier_is_best_where_no_epoch_is_better(
    data: Path, model: Path, tmp_path: Path
) -> None:
    still = replace(PROBE, lr=0.0)
    made = trainer(tmp_path / "run", plan_for(data, model, still))
    assert made.fit() == "done"
    outcome = made.outcome("done")
    assert outcome["epochs"] == 2
    assert outcome["best"]["epoch"] == 0
    assert [row["epoch"] for row in made.position.history] == [0, 1, 2]
    best, last = (weights(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert same(best, last)


def test_early_stopping_counts_from_the_best_trained_epoch(
    data: Path, model: Path, tmp_path: Path
) -> None:
    made = trainer(tmp_path / "run", plan_for(data, model, replace(PROBE, epochs=9), patience=2))
    row = {"epoch": 0, "val_top1": 0.9, "val_loss": 0.5}
    made.position.history = [row, {**row, "epoch": 1, "val_top1": 0.7}]
    made.position.best = 0
    for epoch, top1, ended in ((2, 0.8, False), (3, 0.6, False), (4, 0.6, True)):
        made.position.history.append({**row, "epoch": epoch, "val_top1": top1})
        made.position.epoch = epoch
        assert made.finished == ended


def test_a_kill_in_an_epoch_changes_nothing(plan: TrainPlan, tmp_path: Path) -> None:
    assert_a_kill_changes_nothing(tmp_path, plan, steps=1)


def test_a_kill_before_the_first_step_changes_nothing(plan: TrainPlan, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole, plan).fit()
    with mock.patch.object(FeatureCache, "load", side_effect=Killed), pytest.raises(Killed):
        trainer(broken, plan).fit()
    trainer(broken, plan, resume=True).fit()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(weights(whole / name), weights(broken / name))


def test_a_moving_average_starts_there_too(data: Path, model: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", plan_for(data, model, replace(PROBE, model_ema=True)))
    with pytest.raises(Killed):
        made.fit(kill_after(1, made))
    assert made.position.history[0]["val_loss"] < math.log(3)


def test_a_classifier_that_is_not_linear_on_the_features_starts_at_zero(
    plan: TrainPlan, tmp_path: Path
) -> None:
    made = trainer(tmp_path / "run", plan)
    before = {name: made.model.get_parameter(name).clone() for name in HEAD}
    assert is_linear(made.model, plan)
    assert all(torch.equal(made.model.get_parameter(name), before[name]) for name in HEAD)
    forward = made.model.forward
    with mock.patch.object(made.model, "forward", lambda clip: 2 * forward(clip)):
        assert not is_linear(made.model, plan)
    with mock.patch("vtcli.training.head_start.is_linear", return_value=False):
        assert made.fit() == "done"
    assert [row["epoch"] for row in made.position.history] == [1, 2]


def test_only_a_new_classifier_is_fitted(data: Path, model: Path, tmp_path: Path) -> None:
    known = model_file(tmp_path / "known.safetensors", "vivit", ("dark", "gray", "light"))
    assert not plan_for(data, known, PROBE).fits_start
    assert not plan_for(data, model, PROBE, init="scratch").fits_start
    assert not plan_for(data, model, PROBE, processes=2, parallel="fsdp").fits_start
    assert plan_for(data, model, PROBE, processes=2).fits_start


def test_classes_that_are_decided_alone_are_fitted_too(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(tmp_path / "data", 5, ["x", "y"])
    rows = [(path, path.parent.name) for path in sorted(folder.glob("*/*"))]
    rows[0] = (rows[0][0], "x;y")
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    words = ["--dataset", listed, "-m", model, "-o", tmp_path / "run", "--epochs", "1", "-j", "1"]
    assert run(["finetune", *map(str, words), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "the new classifier is fitted to features of the training videos" in shown.err
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["epoch"], second["epoch"]) == ("0", "1")
    assert float(first["val_map"]) > 0
    assert float(first["train_loss"]) < math.log(2)


def test_the_small_recipe_fits_where_that_takes_seconds() -> None:
    budget = TrainingBudget("vivit", 200, 768, 10)
    assert choose_recipe(budget).recipe.head_init == "probe"
    assert choose_recipe(budget, None, {"head_init": "zero"}).recipe.head_init == "zero"
    many = replace(budget, classes=MOST_FITTED // 200 + 1)
    for other in (many, replace(budget, init="scratch"), replace(budget, has_features=False)):
        assert choose_recipe(other).recipe.head_init == "zero"
    steps = choose_recipe(budget, "small", {"trainable": "head"})
    assert steps.recipe.head_init == "zero"
    assert Recipe().head_init == "zero"
