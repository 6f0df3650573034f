"""Classes of different sizes: weights of the loss, balanced epochs, and the epoch that is best."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight

from tests.evaluation.harness import vt_here
from tests.training.harness import (
    STEADY,
    assert_a_kill_changes_nothing,
    bright_folders,
    model_file,
    plan_for,
    same,
    trainer,
    weights,
)
from vtcli.data.samples import Dataset, Sample
from vtcli.data.train_loader import balanced_order
from vtcli.models.recipe import Recipe
from vtcli.training.balance import class_weights, groups_to_balance, is_unbalanced, size_range
from vtcli.training.objective import Objective
from vtcli.training.run_directory import open_run_directory
from vtcli.training.validate import ScoredVideo, result_of


def dataset(*labels: int | tuple[int, ...], heads: int = 1, classes: int = 3) -> Dataset:
    """A dataset with these labels."""
    samples = [
        Sample(str(n), Path(f"{n}.mp4"), of if isinstance(of, tuple) else (of,))
        for n, of in enumerate(labels)
    ]
    names = tuple("abcdef"[:classes])
    return Dataset("d", tuple(samples), {f"h{n}": names for n in range(heads)}, "", Path())


SIZES = [0] * 12 + [1] * 3 + [2] * 5
UNBALANCED = dataset(*SIZES)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of frames: 8 videos of one class, 2 of the others."""
    root = bright_folders(tmp_path_factory.mktemp("data"), 8)
    for name in ("gray", "light"):
        for number in range(2, 8):
            for file in (root / name / str(number)).iterdir():
                file.unlink()
            (root / name / str(number)).rmdir()
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "vivit")


def test_inverse_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=SIZES)
    assert class_weights(UNBALANCED, "inverse") == pytest.approx(expected)
    roots = class_weights(UNBALANCED, "sqrt")
    assert roots is not None
    assert np.square(roots) / roots[0] ** 2 == pytest.approx(expected / expected[0])
    assert np.mean([roots[label] for label in SIZES]) == pytest.approx(1)
    assert class_weights(UNBALANCED, "none") is None


def test_a_head_of_its_own_has_weights_of_its_own() -> None:
    two = dataset((0, 0), (0, 1), (0, 1), (1, 1), heads=2, classes=2)
    assert class_weights(two, "inverse") == pytest.approx([4 / 6, 2, 2, 4 / 6])


def test_the_weighted_loss_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 3), torch.tensor(SIZES)
    factors = class_weights(UNBALANCED, "sqrt")
    recipe = Recipe(smoothing=0.1, class_weights="sqrt")
    objective = Objective({"h": 3}, recipe, factors)
    ours = objective.loss(logits, objective.targets(UNBALANCED.samples))
    loss = torch.nn.CrossEntropyLoss(torch.tensor(factors), reduction="none", label_smoothing=0.1)
    assert torch.allclose(ours, loss(logits, labels), atol=1e-6)


def test_a_balanced_epoch_has_as_many_videos_of_every_class() -> None:
    rows = groups_to_balance(UNBALANCED)
    seen: Counter[int] = Counter()
    for epoch in range(12):
        order = balanced_order(rows, epoch, seed=3)
        assert len(order) == 20
        counts = Counter(SIZES[number] for number in order)
        assert set(counts.values()) <= {6, 7}
        times = Counter(order)
        for number, label in enumerate(SIZES):
            share = 20 / 3 / SIZES.count(label)
            assert int(share) <= times[number] <= int(share) + 1
        seen.update(order)
        assert order == balanced_order(rows, epoch, seed=3)
        assert order != balanced_order(rows, epoch + 1, seed=3)
    assert len(seen) == 20, "every video is seen"


def test_a_repeated_video_is_another_clip(frames: Path, model: Path, tmp_path: Path) -> None:
    recipe = replace(STEADY, sampling="balanced", aug_repeats=2)
    maker = trainer(tmp_path / "run", plan_for(frames, model, recipe))
    clips = [(r.number, r.repeat) for batch in maker.requests() for r in batch]
    assert len(clips) == 2 * len(maker.plan.split.train.samples)
    assert len(set(clips)) == len(clips)
    assert max(repeat for _, repeat in clips) > 1


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    recipe = replace(STEADY, aa="", sampling="balanced", class_weights="sqrt")
    plan = plan_for(frames, model, recipe, save_every=1)
    assert_a_kill_changes_nothing(tmp_path, plan, 2)
    plain = plan_for(frames, model, replace(STEADY, aa=""))
    trainer(tmp_path / "plain", plain).fit()
    whole = weights(tmp_path / "whole" / "last.safetensors")
    assert not same(whole, weights(tmp_path / "plain" / "last.safetensors"))


def test_classes_are_unbalanced_from_twice_as_many_videos() -> None:
    assert is_unbalanced(UNBALANCED)
    assert size_range(UNBALANCED) == (3, 12)
    assert is_unbalanced(dataset(0, 0, 1, 2, 2))
    assert not is_unbalanced(dataset(0, 0, 0, 1, 1, 2, 2))


def test_macro_accuracy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 20)
    videos = [ScoredVideo(((label,),), (row,)) for label, row in zip(SIZES, scores, strict=True)]
    expected = balanced_accuracy_score(SIZES, scores.argmax(1))
    assert result_of(videos, UNBALANCED).macro == pytest.approx(expected)


def test_the_best_epoch_is_by_macro_accuracy_where_classes_are_unbalanced(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path / "run", plan_for(frames, model))
    common = {"val_loss": 1.0}
    fair = {**common, "val_top1": 0.6, "val_macro": 0.6}
    unfair = {**common, "val_top1": 0.8, "val_macro": 0.3}
    assert maker._quality(fair) > maker._quality(unfair)
    even = trainer(tmp_path / "even", plan_for(bright_folders(tmp_path / "data", 3), model))
    assert even._quality(fair) < even._quality(unfair)
    assert (maker.plan.best_epoch_by, even.plan.best_epoch_by) == ("val_macro", "val_top1")


def test_the_command_says_how_the_best_epoch_was_chosen(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    words = ["finetune", "--dataset", frames, "-m", model, "-o", tmp_path / "run", "-j", "1"]
    done = vt_here(*words, "--epochs", "1", "--sampling", "balanced", "--recipe", "nano")
    assert done.returncode == 0, done.stderr
    said = "classes are unbalanced, 1 to 6 training videos; the best epoch has the highest macro"
    assert said in done.stderr
    assert "with --sampling balanced" in done.stderr
    assert "best epoch  " in done.stdout
    assert ", by macro accuracy: the classes are unbalanced" in done.stdout
    assert "macro accuracy" in done.stdout
    assert json.loads((tmp_path / "run" / "training.json").read_text())["best_epoch_by"]
    (row,) = csv.DictReader((tmp_path / "run" / "history.csv").open())
    assert 0 <= float(row["val_macro"]) <= 1


def test_weights_reach_the_classifier_that_is_fitted_to_features(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    words = ["finetune", "--dataset", frames, "-m", model, "-j", "1", "--trainable", "head"]
    done = vt_here(*words, "-o", tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert "--class-weights sqrt helps rare classes" in done.stderr
    assert vt_here(*words, "-o", tmp_path / "w", "--class-weights", "inverse").returncode == 0
    plain, weighted = (weights(tmp_path / run / "best.safetensors") for run in ("plain", "w"))
    rare = weighted["head.bias"].softmax(0)[1:] - plain["head.bias"].softmax(0)[1:]
    assert not same(plain, weighted)
    assert rare.sum() > 0


def test_a_run_of_a_version_without_these_options_is_resumed(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    fingerprint = plan_for(frames, model).fingerprint()
    with open_run_directory(tmp_path, fingerprint, True) as found:
        assert not found
    (tmp_path / "last.safetensors").touch()
    record = json.loads((tmp_path / "training.json").read_text())
    del record["best_epoch_by"], record["recipe"]["sampling"], record["recipe"]["class_weights"]
    (tmp_path / "training.json").write_text(json.dumps(record))
    with open_run_directory(tmp_path, fingerprint, True) as found:
        assert found
    assert asdict(Recipe())["sampling"] == "natural"
