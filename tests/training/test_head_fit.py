"""A classifier fitted to cached features: the optimum, the same after a kill, of these weights."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.harness import class_folders
from tests.training.harness import (
    TINY,
    Killed,
    bright_folders,
    model_file,
    plan_for,
    same,
    weights,
)
from vtcli.cli import run
from vtcli.data.clip_loader import ClipReader
from vtcli.data.splits import split_train_val
from vtcli.errors import DataError
from vtcli.models.recipe import Recipe
from vtcli.runtime.distributed import Group
from vtcli.runtime.logistic import fit_logistic
from vtcli.training import features
from vtcli.training.choose import TrainingBudget, choose_recipe
from vtcli.training.features import FOLDER, FeatureCache, views_per_video
from vtcli.training.few_shot import few_shot, unvalidated_classes
from vtcli.training.head_fit import HeadFit
from vtcli.training.linear_probe import PENALTIES, choose_penalty
from vtcli.training.plan import TrainPlan
from vtcli.weights.checkpoint import CARD_KEY, read_card, write_checkpoint
from vtcli.weights.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD = Recipe(trainable="head", scale=(0.5, 1.0), hflip=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_folders(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "vivit")


def head_plan(data: Path, model: Path) -> TrainPlan:
    return replace(plan_for(data, model, HEAD), fits_features=True)


def fit(folder: Path, plan: TrainPlan) -> HeadFit:
    folder.mkdir(parents=True, exist_ok=True)
    made = HeadFit(plan, folder, Group())
    assert made.fit(lambda done, total: None) == "done"
    return made


# --- the classifier -------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [1.0, 0.01, 1e-3])
def test_the_fit_is_the_minimum(l2: float) -> None:
    """The objective is strictly convex in the weights: where its gradient vanishes is the minimum.
    The penalty is on standardized features.
    """
    torch.manual_seed(0)
    label = torch.arange(60) % 3
    features_ND = torch.randn(60, 7) * torch.logspace(-2, 2, 7) + label[:, None] + 5
    target_NK = torch.nn.functional.one_hot(label, 3).float()
    found = fit_logistic(features_ND, target_NK, l2)
    x_ND = features_ND.double()
    scale_D = x_ND.std(0, correction=0)
    error_NK = found.logits(features_ND).softmax(1) - target_NK
    centered = (x_ND - x_ND.mean(0)) / scale_D
    gradient_KD = error_NK.T @ centered / 60 + l2 * found.weight * scale_D
    assert float(gradient_KD.abs().max()) < 1e-5
    assert float(error_NK.mean(0).abs().max()) < 1e-5


def test_it_is_the_fit_of_scikit_learn_with_weighted_classes() -> None:
    from sklearn.linear_model import LogisticRegression

    torch.manual_seed(1)
    label, weight_K, l2 = torch.arange(90) % 3, torch.tensor([0.5, 1.0, 3.0]), 0.01
    features_ND = torch.randn(90, 12) + 0.5 * torch.randn(3, 12)[label]
    target_NK = torch.nn.functional.one_hot(label, 3) * weight_K
    found = fit_logistic(features_ND, target_NK, l2)
    x_ND = features_ND.double()
    x_ND = (x_ND - x_ND.mean(0)) / x_ND.std(0, correction=0)
    reference = LogisticRegression(C=1 / (90 * l2), tol=1e-10, max_iter=10_000)
    reference.fit(x_ND.numpy(), label.numpy(), sample_weight=weight_K[label].numpy())
    expected_NK = torch.from_numpy(reference.predict_proba(x_ND.numpy()))
    assert torch.allclose(found.logits(features_ND).softmax(1), expected_NK, atol=1e-4)


@pytest.mark.slow
def test_the_command_does_without_libraries_that_take_longer_to_import_than_it_to_fit(
    data: Path, model: Path, tmp_path: Path
) -> None:
    slow = "('timm', 'torchvision', 'torch._dynamo', 'sympy')"
    script = (
        "import sys; from vtcli.cli import run; print(run(sys.argv[1:])); "
        f"print([name for name in {slow} if name in sys.modules])"
    )
    words = ["--dataset", data, "-m", model, "-o", tmp_path / "run", "--trainable", "head"]
    done = subprocess.run(
        [sys.executable, "-c", script, "finetune", *map(str, words), "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-2:] == ["0", "[]"], done.stderr


def test_the_penalty_follows_from_videos_that_were_not_fitted() -> None:
    torch.manual_seed(0)
    label = torch.arange(40) % 2
    target_NK = torch.nn.functional.one_hot(label, 2).float()
    noise_ND = torch.randn(40, 60)
    assert choose_penalty(noise_ND, target_NK, range(40)) == max(PENALTIES)
    clear_ND = noise_ND + 8 * label[:, None]
    assert choose_penalty(clear_ND, target_NK, range(40)) < max(PENALTIES)
    # Two copies of a row tell nothing new: they belong to one video and are held out together.
    twice = noise_ND.repeat(2, 1), target_NK.repeat(2, 1), [*range(40), *range(40)]
    assert choose_penalty(*twice) == max(PENALTIES)


def test_the_penalty_ignores_a_class_that_only_the_held_out_groups_have() -> None:
    """All of a third class is one group: its cross-entropy, of a classifier that never saw it,
    would ask for the strongest penalty.
    """
    torch.manual_seed(0)
    label = torch.cat([torch.arange(40) % 2, torch.full((5,), 2)])
    target_NK = torch.nn.functional.one_hot(label, 3).float()
    clear_ND = torch.randn(45, 10) + 8 * label[:, None]
    groups = [*range(40), *["third"] * 5]
    assert choose_penalty(clear_ND, target_NK, groups) < max(PENALTIES)


def test_segments_of_a_video_and_cuts_of_a_source_are_held_out_together(
    data: Path, model: Path
) -> None:
    split = head_plan(data, model).split
    first, second, *others = split.train.samples
    segment = replace(first, id="segment", start=1.0)
    assert split.group_of(segment) == split.group_of(first) != split.group_of(second)
    grouped = replace(split, groups={first.path: "place", second.path: "place"})
    assert grouped.group_of(first) == grouped.group_of(second) != grouped.group_of(others[0])


@pytest.mark.parametrize("arch", sorted(TINY))
def test_only_the_classifier_changes_and_it_learns(arch: str, data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    made = fit(tmp_path / "run", head_plan(data, start))
    assert made.row["val_top1"] == 1.0
    best = tmp_path / "run" / "best.safetensors"
    before, after = weights(start), weights(best)
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("head."))
    assert read_card(best).labels == ("dark", "gray", "light")
    # The file says the same as the validation of the fit.
    held = head_plan(data, start).split.validation.samples
    network = load_model(best, device="cpu", precision="fp32")
    reader = ClipReader(made.plan.model_init.pipeline, 1, 1)
    for sample in held:
        logits_BK = network(next(reader.read(sample, (0,)).clips)[None])
        assert int(logits_BK.argmax()) == sample.labels[0]


def test_few_videos_are_seen_in_several_views() -> None:
    assert [views_per_video(n) for n in (1, 64, 100, 128, 256, 10_000)] == [4, 4, 3, 2, 1, 1]


# --- the cache ------------------------------------------------------------------------------------


def kill_after(chunks: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill at the file after this many; returns the list of the computed ones."""
    computed: list[int] = []
    original = FeatureCache._compute_chunk

    def compute(cache: FeatureCache, chunk: int) -> None:
        if len(computed) == chunks:
            raise Killed
        original(cache, chunk)
        computed.append(chunk)

    monkeypatch.setattr(FeatureCache, "_compute_chunk", compute)
    return computed


def test_a_killed_fit_keeps_its_features_and_ends_with_the_same_weights(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 16)
    plan = head_plan(data, model)
    fit(tmp_path / "whole", plan)
    with monkeypatch.context() as patch:
        kill_after(2, patch)
        with pytest.raises(Killed):
            fit(tmp_path / "broken", plan)
    computed = kill_after(99, monkeypatch)
    resumed = fit(tmp_path / "broken", plan)
    assert resumed.notices == ["4 of 4 files of cached features are used"]
    assert computed == [2, 3]  # 12 training videos in 4 views and 3 validation videos: 51 rows
    assert same(*(weights(tmp_path / r / "best.safetensors") for r in ("whole", "broken")))


def test_a_signal_ends_the_fit_after_a_file(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 16)
    made = HeadFit(head_plan(data, model), tmp_path, Group())
    for number, ended in ((signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")):
        left = [number]  # raised once: a signal repeated later ends the process at once
        assert made.fit(lambda done, total, n=left: n and signal.raise_signal(n.pop())) == ended
        made = HeadFit(head_plan(data, model), tmp_path, Group())
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    assert not (tmp_path / "best.safetensors").exists()


def test_features_of_other_weights_are_computed_again(
    data: Path, tmp_path: Path, model: Path
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(model.read_bytes())
    fit(tmp_path / "run", head_plan(data, start))
    changed = {name: tensor * 1.5 for name, tensor in weights(start).items()}
    write_checkpoint(start, changed, {CARD_KEY: read_card(start).to_json()})
    again = HeadFit(head_plan(data, start), tmp_path / "run", Group())
    [notice] = again.notices
    assert "hold features of other weights, clips or settings; they are computed again" in notice
    again.fit(lambda done, total: None)
    fit(tmp_path / "fresh", head_plan(data, start))
    assert same(*(weights(tmp_path / r / "best.safetensors") for r in ("run", "fresh")))


def test_a_damaged_file_of_features_is_computed_again(
    data: Path, model: Path, tmp_path: Path
) -> None:
    fit(tmp_path, head_plan(data, model))
    before = weights(tmp_path / "best.safetensors")
    next((tmp_path / FOLDER).iterdir()).write_bytes(b"cut off")
    fit(tmp_path, head_plan(data, model))
    assert same(before, weights(tmp_path / "best.safetensors"))


# --- bad input ------------------------------------------------------------------------------------


def test_features_that_are_nan_name_the_videos(data: Path, model: Path, tmp_path: Path) -> None:
    start = tmp_path / "nan.safetensors"
    spoiled = {n: t * float("nan") if "norm" in n else t for n, t in weights(model).items()}
    write_checkpoint(start, spoiled, {CARD_KEY: read_card(model).to_json()})
    with pytest.raises(DataError, match=r"the features of .* are NaN or Inf; check the weights"):
        HeadFit(head_plan(data, start), tmp_path, Group()).fit(lambda done, total: None)


def test_unreadable_videos_are_counted(model: Path, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", 5, ["a", "b"])
    next((root / "a").iterdir()).write_bytes(b"not a video")
    made = fit(tmp_path / "run", head_plan(root, model))
    assert made.row["failed_videos"] + made.row["val_failed_videos"] == 1
    for video in (root / "b").iterdir():
        video.write_bytes(b"not a video")
    with pytest.raises(DataError, match="training videos of class 'b' can be read"):
        fit(tmp_path / "none", head_plan(root, model))


def test_few_shot_keeps_this_many_videos_of_each_class(data: Path) -> None:
    split = split_train_val(data)
    few = few_shot(split, 2, 0)
    assert sorted(s.labels[0] for s in few.train.samples) == [0, 0, 1, 1, 2, 2]
    assert few.validation == split.validation
    assert few == few_shot(split, 2, 0)
    words = "class 'dark' has 4 training videos, fewer than --few-shot 5; lower it, or add videos"
    with pytest.raises(DataError, match=words):
        few_shot(split, 5, 0)


def test_a_class_with_one_video_is_said_not_to_be_validated(tmp_path: Path) -> None:
    root = bright_folders(tmp_path / "data")
    for folder in sorted((root / "gray").iterdir())[1:]:
        folder.rename(tmp_path / folder.name)
    sentence = unvalidated_classes(split_train_val(root))
    assert "1 of the classes ('gray') have no validation video" in sentence
    assert not unvalidated_classes(split_train_val(bright_folders(tmp_path / "whole")))


# --- the command ----------------------------------------------------------------------------------


def test_options_of_the_optimizer_train_in_steps() -> None:
    budget = TrainingBudget("vivit", 100, 64, 4)
    assert choose_recipe(budget, None, {"trainable": "head"}).fits_features
    assert choose_recipe(budget, None, {"trainable": "head", "hflip": 0.5}).fits_features
    assert not choose_recipe(budget, None, {"trainable": "head", "epochs": 10}).fits_features
    assert not choose_recipe(budget, "paper", {"trainable": "head"}).fits_features
    assert not choose_recipe(budget, None, {}).fits_features
    no_features = replace(budget, has_features=False)
    assert not choose_recipe(no_features, None, {"trainable": "head"}).fits_features


def test_the_command_reports_a_learning_curve(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--dataset", str(data), "-m", str(model), "-o", str(tmp_path / "run")]
    words += ["--device", "cpu", "-j", "1", "--format", "json"]
    assert run([*words, "--trainable", "head", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 4 * 12 + 3
    assert not (tmp_path / "run").exists()
    assert run([*words, "--learning-curve"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [point["videos"] for point in outcome["learning_curve"]] == [3, 3, 6, 12]
    last = outcome["learning_curve"][-1]
    assert last["top1"] == outcome["best"]["val_top1"]
    assert last["low"] <= last["top1"] <= last["high"]
    assert run([*words, "--learning-curve", "--epochs", "3"]) == 2
    assert "leave them out" in capsys.readouterr().err


def test_videos_that_cannot_be_read_are_counted(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, broken in (("some", ("dark/0", "gray/1")), ("all", ("*/*",))):
        copy = tmp_path / name
        shutil.copytree(data, copy)
        for pattern in broken:
            for frame in copy.glob(f"{pattern}/*.png"):
                frame.write_bytes(b"no picture")
        words = ["finetune", "--dataset", str(copy), "-m", str(model), "-o", str(tmp_path / "run")]
        code = run([*words, "--trainable", "head", "--device", "cpu", "-j", "0", "--no-resume"])
        shown = capsys.readouterr()
        if name == "some":
            assert code == 0
            assert "2 videos could not be read" in shown.out
            shutil.rmtree(tmp_path / "run")
        else:
            assert code == 7
            assert "none of the training videos of class 'dark' can be read" in shown.err
