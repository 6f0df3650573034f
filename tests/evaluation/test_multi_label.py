"""Classes that do not exclude each other: metrics, training, evaluation and prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from tests.evaluation.harness import class_folders, vt_here
from tests.training.harness import (
    STEADY,
    assert_a_kill_changes_nothing,
    model_file,
    plan_for,
    trainer,
)
from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset, Sample
from vtcli.data.splits import split_train_val
from vtcli.errors import DataError, UsageError
from vtcli.evaluation.multi_label import (
    best_threshold,
    mean_ap_interval,
    multi_hot,
    multi_label_metrics,
)
from vtcli.models.recipe import Recipe
from vtcli.runtime.distributed import Group
from vtcli.runtime.logistic import Loss, fit_logistic
from vtcli.training.few_shot import few_shot, first_part
from vtcli.training.loss import with_loss
from vtcli.training.objective import Objective
from vtcli.video.views import fuse_views, probabilities
from vtcli.weights.checkpoint import ModelCard, read_card

TARGET = [(0,), (0, 2), (1,), (0, 1, 2), (2,), (1, 2), (0,), (1,)]


def scores(seed: int = 0, ties: bool = False) -> np.ndarray:
    found = np.random.default_rng(seed).random((len(TARGET), 4))
    return np.round(found, 1) if ties else found


@pytest.mark.parametrize("ties", [False, True])
def test_the_metrics_are_those_of_scikit_learn(ties: bool) -> None:
    probability, present = scores(ties=ties), multi_hot(TARGET, 4)
    result = multi_label_metrics(["a", "b", "c", "never"], probability, TARGET, 0.5)
    predicted = probability >= 0.5
    for k, row in enumerate(result.per_class[:3]):
        expected = average_precision_score(present[:, k], probability[:, k])
        assert row.ap == pytest.approx(expected)
        assert row.f1 == pytest.approx(f1_score(present[:, k], predicted[:, k]))
    assert result.per_class[3].ap is None
    assert result.mean_ap == pytest.approx(np.mean([row.ap for row in result.per_class[:3]]))
    assert result.micro_f1 == pytest.approx(f1_score(present, predicted, average="micro"))
    macro = f1_score(present, predicted, average="macro", zero_division=0)
    assert result.macro_f1 == pytest.approx(macro)


@pytest.mark.parametrize("ties", [False, True])
def test_no_threshold_has_a_higher_micro_f1(ties: bool) -> None:
    probability, present = scores(1, ties), multi_hot(TARGET, 4)
    found = best_threshold(probability, TARGET)
    every = [f1_score(present, probability >= t, average="micro") for t in np.unique(probability)]
    best = f1_score(present, probability >= found, average="micro")
    assert best == pytest.approx(max(every))


def test_the_loss_is_the_binary_cross_entropy_of_pytorch() -> None:
    logits = torch.randn(2, 3)
    objective = Objective({"h": 3}, Recipe(smoothing=0.1), [1.0, 2.0, 0.5], multi_label=True)
    target = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    loss = torch.nn.BCEWithLogitsLoss(torch.tensor([1.0, 2.0, 0.5]))
    assert objective.loss(logits, target).mean() == pytest.approx(loss(logits, target).item())


def test_views_are_fused_as_probabilities_of_each_class_alone() -> None:
    logits = torch.randn(3, 4)
    expected = logits.double().sigmoid().mean(0)
    assert torch.allclose(probabilities(logits, "mean_sigmoid"), expected)
    assert torch.equal(fuse_views(logits, "mean_sigmoid"), probabilities(logits, "mean_sigmoid"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three classes, most with several: `labels.csv` and, the same, `columns.csv`."""
    root = tmp_path_factory.mktemp("multi")
    videos = sorted(class_folders(root, 8, ["x"]).rglob("*.mp4"))
    names = ["Bend", "jump", "Turn left"]
    lines, columns = ["path,label,split"], ["path," + ",".join(names) + ",split"]
    for split in ("train", "validation"):
        for video, labels in zip(videos, TARGET, strict=True):
            path = video.relative_to(root)
            lines.append(f"{path},{'; '.join(names[k] for k in labels)},{split}")
            cells = ",".join(str(int(k in labels)) for k in range(3))
            columns.append(f"{path},{cells},{split}")
    (root / "labels.csv").write_text("\n".join(lines))
    (root / "columns.csv").write_text("\n".join(columns))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "vivit")


def test_cells_with_semicolons_and_columns_of_0_and_1_are_read_alike(data: Path) -> None:
    first, second = (
        open_dataset(data / name, split="train") for name in ("labels.csv", "columns.csv")
    )
    assert first.classes == second.classes == {"action": ("Bend", "Turn left", "jump")}
    assert [s.labels for s in first.samples] == [s.labels for s in second.samples]
    assert {s.labels for s in first.samples} >= {(0,), (0, 1), (0, 2, 1)}
    assert "several labels per video" in first.summary
    assert "3 columns of 0 and 1, several labels" in second.summary.replace("'", "")


def test_a_row_without_any_class_is_named(data: Path) -> None:
    text = (data / "columns.csv").read_text().replace(",1,0,0,train", ",0,0,0,train")
    (data / "none.csv").write_text(text)
    with pytest.raises(DataError, match="line 2: has no label"):
        open_dataset(data / "none.csv", split="train")


def test_a_class_name_with_a_semicolon_is_not_written_to_a_manifest(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "data", 1, ["a;b", "c"])
    done = vt_here("datasets", "check", folder, "-o", tmp_path / "cleaned.csv", "-j", "1")
    assert done.returncode == 7
    assert "the class name 'a;b' has a semicolon" in done.stderr


def multi_label_plan(data: Path, model: Path, **changes: object):
    split = split_train_val(data / "labels.csv")
    plan = plan_for(split, model, replace(STEADY, aa="", **changes), save_every=1)
    return replace(plan, model_init=with_loss(plan.model_init, split, plan.recipe))


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(
    data: Path, model: Path, tmp_path: Path
) -> None:
    plan = multi_label_plan(data, model, mixup=0.2, cutmix=0.2)
    assert plan.best_epoch_by == "val_map"
    assert_a_kill_changes_nothing(tmp_path, plan, 3)


def test_few_shots_have_enough_videos_of_every_class(data: Path) -> None:
    split = few_shot(split_train_val(data / "labels.csv"), 2, seed=0)
    counts = np.bincount([label for s in split.train.samples for label in s.labels])
    assert counts.min() >= 2
    assert len(split.train.samples) <= 6


def test_a_process_without_clips_adds_no_gradient(data: Path, model: Path, tmp_path: Path) -> None:
    step = trainer(tmp_path / "run", multi_label_plan(data, model)).train_step
    step.group = Group(size=2)  # the other process has clips
    totals = step.forward_backward([], [], seed=0)
    assert (totals.loss, totals.clips) == (0.0, 0)
    gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_the_loss_follows_the_labels_unless_it_is_named(
    data: Path, model: Path, tmp_path: Path
) -> None:
    assert multi_label_plan(data, model).multi_label
    assert not multi_label_plan(data, model, loss="ce").multi_label
    single = class_folders(tmp_path, 2, ["a", "b"])
    one = plan_for(single, model, replace(STEADY, loss="bce"))
    asked = with_loss(one.model_init, one.split, one.recipe)
    assert asked.pipeline.multi_label
    back = with_loss(asked, one.split, STEADY)
    assert back.pipeline.view_fusion == "mean_prob"
    two = replace(one.split.train, classes={"verb": ("a",), "noun": ("b",)})
    with pytest.raises(UsageError, match="one label column"):
        with_loss(one.model_init, replace(one.split, train=two), one.recipe)


def test_the_commands_train_evaluate_and_predict(data: Path, model: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ["-m", model, "--recipe", "nano", "--epochs", "1", "-j", "1"]
    done = vt_here("finetune", "--dataset", data / "columns.csv", "-o", run, *words)
    assert done.returncode == 0, done.stderr
    assert "each class is decided alone" in done.stderr
    assert ", by mean average precision" in done.stdout
    best = run / "best.safetensors"
    threshold = read_card(best).thresholds["action"]
    (row,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert (threshold, 0 <= row["val_map"] <= 1) == (row["val_threshold"], True)
    done = vt_here("eval", "--dataset", data / "labels.csv", "-m", best, "-o", tmp_path / "ev")
    assert done.returncode == 0, done.stderr
    assert f"at a threshold of {threshold:.3f}" in done.stdout
    head = json.loads((tmp_path / "ev" / "summary.json").read_text())["heads"][0]
    assert head["confidence"] is None
    assert head["multi_label"]["mean_ap"] == pytest.approx(row["val_map"], abs=1e-6)
    assert "average precision" in (tmp_path / "ev" / "report.html").read_text()
    video = next(data.rglob("*.mp4"))
    done = vt_here("predict", video, "-m", best, "--format", "json", "--precision", "fp32")
    (result,) = json.loads(done.stdout)["results"]
    above = [p["label"] for p in result["predictions"] if p["score"] >= threshold]
    assert result["classes"] == above
    assert "answer" not in result
    assert "  classes: " in vt_here("predict", video, "-m", best).stdout
    for window, of_video in (((), 1), (("--window", "1s"), None)):
        rows = tmp_path / f"rows{of_video}"
        words = ("-m", best, "-o", f"{rows}/", "--precision", "fp32", "--format", "jsonl", *window)
        done = vt_here("predict", video, *words, "-k", "3")
        assert done.returncode == 0, done.stderr
        (part,) = rows.glob("part-*.jsonl")
        found = [json.loads(line) for line in part.read_text().splitlines()]
        assert of_video is None or len(found) == of_video
        for one in found:
            ranking = zip(one["labels"], one["scores"], strict=True)
            assert one["classes"] == [label for label, score in ranking if score >= threshold]
    for command in (
        ("predict", video, "-m", best, "--abstain", "0.05"),
        ("eval", "calibrate", tmp_path / "ev", "-o", tmp_path / "c.safetensors"),
        ("eval", "rescore", tmp_path / "ev", "--average", "logit"),
    ):
        refused = vt_here(*command)
        assert refused.returncode in (2, 7)
        assert "exclude each other" in refused.stderr


def test_a_classifier_on_features_decides_each_class_alone() -> None:
    """Without a penalty on the others, each class has the optimum of its own logistic regression
    (scikit-learn), on standardized features.
    """
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(80, 5))
    y_NK = (x_ND[:, :3] + rng.normal(size=(80, 3)) > 0).astype(np.float64)
    x_ND = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    l2 = 0.1
    fit = fit_logistic(torch.tensor(x_ND), torch.tensor(y_NK), l2, loss=Loss(alone=True))
    for k in range(3):
        own = LogisticRegression(C=1 / (l2 * len(x_ND)), tol=1e-8, max_iter=1000)
        own.fit(x_ND, y_NK[:, k])
        assert fit.weight[k].numpy() == pytest.approx(own.coef_[0], abs=1e-4)
        assert float(fit.bias[k]) == pytest.approx(own.intercept_[0], abs=1e-4)


def test_the_interval_of_the_mean_average_precision_holds_it() -> None:
    rng = np.random.default_rng(0)
    target = [(int(k),) for k in rng.integers(3, size=60)]
    p_NK = rng.random((60, 3)) + 0.5 * multi_hot(target, 3)
    low, high = mean_ap_interval(p_NK, target)
    value = multi_label_metrics("abc", p_NK, target, 0.5).mean_ap
    assert value is not None
    assert 0 < low < value < high < 1
    perfect = multi_hot(target, 3).astype(float)
    assert mean_ap_interval(perfect, target) == (1.0, 1.0)


def test_a_part_of_the_videos_has_its_part_of_every_class() -> None:
    samples = tuple(Sample(str(n), Path("x"), TARGET[n % len(TARGET)]) for n in range(64))
    train = Dataset("d", samples, {"action": ("a", "b", "c")}, "", Path())
    whole = np.bincount([label for s in samples for label in s.labels])
    for fraction in (0.125, 0.25, 0.5, 1.0):
        kept = first_part(train, range(64), fraction)
        counts = np.bincount([label for n in kept for label in samples[n].labels])
        assert (counts >= np.round(fraction * whole)).all()
        assert len(kept) <= 64 * fraction * 1.6


def test_the_head_is_fitted_to_features_with_a_learning_curve(
    data: Path, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("--dataset", data / "labels.csv", "-m", model, "-o", run, "-j", "1")
    done = vt_here("finetune", *words, "--learning-curve", "--few-shot", "2", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "each class is decided alone" in done.stderr
    outcome = json.loads(done.stdout)
    curve = outcome["learning_curve"]
    assert [point["fraction"] for point in curve] == [0.125, 0.25, 0.5, 1.0]
    assert curve[-1]["map"] == pytest.approx(outcome["best"]["val_map"])
    for point in curve:
        assert point["top1"] is None
        assert 0 <= point["low"] <= point["high"] <= 1
    card = read_card(run / "best.safetensors")
    assert card.pipeline.view_fusion == "mean_sigmoid"
    assert card.thresholds == {"action": outcome["best"]["val_threshold"]}
    shown = vt_here("finetune", *words, "--learning-curve", "--few-shot", "2").stdout
    assert shown.count("mAP") == 5


def test_a_card_keeps_its_thresholds_and_others_stay_as_they_are(
    model: Path, tmp_path: Path
) -> None:
    card = read_card(model)
    assert "thresholds" not in json.loads(card.to_json())
    with_threshold = replace(card, thresholds={"action": 0.3})
    assert ModelCard.from_json(with_threshold.to_json()).thresholds == {"action": 0.3}
