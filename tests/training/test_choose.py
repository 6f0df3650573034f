"""The recipe follows the amount of data, and a new classifier can always learn with it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.evaluation.harness import class_folders
from tests.training.harness import (
    TINY,
    Killed,
    kill_after,
    model_file,
    plan_for,
    same,
    trainer,
    weights,
)
from vtcli.cli import run
from vtcli.data.open import open_dataset
from vtcli.errors import UsageError
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import VideoPrediction
from vtcli.models import find_preset, get_architecture, with_overrides
from vtcli.models.recipe import Recipe
from vtcli.synthetic.motion8 import make_motion8
from vtcli.training.choose import (
    PAPER_STEPS,
    TrainingBudget,
    choose_recipe,
    head_width,
    paper_steps,
    training_budget,
)
from vtcli.training.init import build_model
from vtcli.training.optim import least_sum_of_rates, param_groups, sum_of_head_rates
from vtcli.training.recipes import list_recipes

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_DATA = TrainingBudget("uniformerv2", 208, 64, 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 5, ["a", "b", "c"])


@pytest.mark.parametrize("arch", sorted(TINY))
def test_paper_size_data_gets_the_papers_recipe(arch: str) -> None:
    chosen = choose_recipe(TrainingBudget(arch, 240_000, 768, 400))
    assert (chosen.name, chosen.recipe) == (f"paper ({arch})", list_recipes()[arch])
    assert chosen.patience is None


@pytest.mark.parametrize("arch", sorted(TINY))
def test_the_paper_recipe_begins_at_enough_steps_of_the_papers_batch(arch: str) -> None:
    paper = list_recipes()[arch]
    least = math.ceil(PAPER_STEPS / paper.epochs) * paper.lr_base_size
    enough = TrainingBudget(arch, least, 768, 400)
    assert paper_steps(enough) >= PAPER_STEPS
    assert choose_recipe(enough).name.startswith("paper")
    fewer = replace(enough, train_videos=least - paper.lr_base_size)
    assert choose_recipe(fewer).name == "small"


def test_random_weights_get_the_recipe_from_scratch() -> None:
    chosen = choose_recipe(replace(SMALL_DATA, init="scratch"))
    assert chosen.name == "scratch"
    assert chosen.recipe.epochs * math.ceil(208 / chosen.recipe.batch_size) >= 1500
    assert not chosen.recipe.freeze_bn


@pytest.mark.parametrize(
    ("videos", "batch", "epochs"),
    # max(200, 5 N / B) steps, rounded up to epochs of ceil(N / B) steps.
    [(48, 8, 34), (99, 8, 16), (100, 16, 29), (208, 16, 16), (2000, 16, 5)],
)
def test_the_small_recipe_counts_optimizer_steps(videos: int, batch: int, epochs: int) -> None:
    chosen = choose_recipe(replace(SMALL_DATA, train_videos=videos))
    recipe = chosen.recipe
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.warmup_epochs == pytest.approx(epochs / 10)
    assert recipe.lr_scale(batch) == 1  # stated for this batch
    assert chosen.patience == max(8, math.ceil(epochs / 3))
    assert str(videos) in chosen.reason.replace(",", "")


def test_few_videos_are_told_of_the_classifier_alone() -> None:
    few = replace(SMALL_DATA, train_videos=99)
    told = "99 training videos are few: --trainable head "
    assert any(note.startswith(told) for note in choose_recipe(few).notes)
    for budget, given in (
        (replace(few, train_videos=100), {}),
        (replace(few, init="scratch"), {}),
        (replace(few, has_features=False), {}),
        (few, {"trainable": "head"}),
        (few, {"trainable": "last-1-blocks"}),
    ):
        assert not any(" are few" in note for note in choose_recipe(budget, None, given).notes)


def test_given_options_override_the_recipe() -> None:
    given = {"batch_size": 4, "smoothing": 0.0, "weight_decay": None}
    recipe = choose_recipe(SMALL_DATA, given=given).recipe
    assert (recipe.batch_size, recipe.smoothing, recipe.weight_decay) == (4, 0.0, 0.05)
    assert recipe.lr_scale(4) == 1
    assert choose_recipe(SMALL_DATA, given={"epochs": 3}).recipe.warmup_epochs == pytest.approx(0.3)
    halves = choose_recipe(SMALL_DATA, given={"batch_size": 4, "grad_accum_steps": 2}).recipe
    assert halves.lr_scale(8) == 1


def test_a_new_classifier_keeps_a_rate_of_its_own() -> None:
    def rates(**given: float) -> tuple[float, float | None]:
        recipe = choose_recipe(SMALL_DATA, given=given).recipe
        return recipe.lr, recipe.head_lr

    assert rates(lr=1e-5) == (1e-5, 1e-3)
    assert rates(lr=1e-2) == (1e-2, 1e-2)
    assert rates(lr=1e-2, head_lr=1e-4) == (1e-2, 1e-4)


@pytest.mark.parametrize("arch", sorted(TINY))
def test_a_new_classifier_starts_with_equal_probabilities(
    arch: str, data: Path, tmp_path: Path
) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    plan = plan_for(data, start)
    network = build_model(plan.model_init, plan.labels).eval()
    p = plan.model_init.pipeline
    clip_B3TSS = torch.randn(2, 3, p.frames, p.crop_size, p.crop_size)
    assert torch.equal(network(clip_B3TSS), torch.zeros(2, 3))


def test_two_processes_share_the_batch_of_one() -> None:
    two = choose_recipe(replace(SMALL_DATA, processes=2)).recipe
    one = choose_recipe(SMALL_DATA).recipe
    assert (two.batch_size * 2, two.epochs) == (one.batch_size, one.epochs)
    assert two.lr_base_size == one.lr_base_size


def test_a_recipe_by_name_is_that_recipe() -> None:
    assert choose_recipe(SMALL_DATA, "paper").recipe == list_recipes()["uniformerv2"]
    assert choose_recipe(SMALL_DATA, "xvit-something").recipe == list_recipes()["xvit-something"]
    big = replace(SMALL_DATA, train_videos=240_000)
    assert choose_recipe(big, "small").recipe.head_lr == 1e-3
    with pytest.raises(UsageError, match="choose one of paper, small, scratch, "):
        choose_recipe(SMALL_DATA, "smal")


def test_statistics_of_batch_norm_are_frozen_on_small_batches_only() -> None:
    with_bn = replace(SMALL_DATA, has_batchnorm=True)
    small, large = (choose_recipe(with_bn, given={"batch_size": b}) for b in (16, 32))
    assert small.recipe.freeze_bn
    assert any("BatchNorm are frozen" in note for note in small.notes)
    assert not large.recipe.freeze_bn
    assert not choose_recipe(with_bn, given={"freeze_bn": False}).recipe.freeze_bn
    assert not choose_recipe(SMALL_DATA).recipe.freeze_bn


def _network(preset: str, tiny: bool) -> tuple[str, nn.Module]:
    architecture, config = find_preset(preset)
    if tiny:
        config = with_overrides(config, TINY[architecture.name][2])
    with torch.device("meta"):
        return architecture.name, architecture.build(config)


@pytest.mark.parametrize("tiny", [True, False])
@pytest.mark.parametrize(
    ("preset", "block"), [("uniformerv2-b", "blocks"), ("vivit-b", "encoder.blocks")]
)
def test_each_layer_has_the_rate_of_the_rule(preset: str, block: str, tiny: bool) -> None:
    arch, network = _network(preset, tiny)
    head = get_architecture(arch).head_tensors
    width = head_width(network, head)
    recipe = choose_recipe(TrainingBudget(arch, 208, width, 8)).recipe
    rate = {
        name: group["lr_scale"] * recipe.top_lr
        for group in param_groups(network, recipe, head)
        for name in group["names"]
    }
    backbone = 1e-3 * min(1, 96 / width)
    depth = 1 + max(
        int(name.removeprefix(f"{block}.").split(".")[0]) for name in rate if name.startswith(block)
    )
    assert width == (768 if not tiny else width)
    assert rate["head.weight"] == rate["head.bias"] == pytest.approx(1e-3)
    for number in range(depth):
        name = next(name for name in rate if name.startswith(f"{block}.{number}."))
        assert rate[name] == pytest.approx(backbone * 0.75 ** (depth - number))
    stem = next(name for name in rate if "patch_embed" in name)
    assert rate[stem] == pytest.approx(backbone * 0.75 ** (depth + 1))


def test_the_sum_of_rates_is_that_of_the_training(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", "vivit")
    recipe = replace(choose_recipe(TrainingBudget("vivit", 12, 32, 3)).recipe, lr=1e-4)
    maker = trainer(tmp_path / "run", plan_for(data, start, recipe))
    step, seen = maker.train_step, 0.0
    names = iter(step.names)
    head = next(
        number
        for number, group in enumerate(step.optimizer.param_groups)
        if "head.weight" in [next(names) for _ in group["params"]]
    )
    for number in range(maker.plan.steps):
        step.schedule.step_update(number)
        seen += step.optimizer.param_groups[head]["lr"]
    assert maker.plan.sum_of_head_rates() == pytest.approx(seen)


def _confidence(recipe: Recipe, sum_of_rates: float, classes: int, width: int) -> float:
    """The mean probability of the right class after training a classifier on features whose other
    half says nothing.
    """
    torch.manual_seed(0)
    means = torch.randn(classes, width // 2)
    label = torch.arange(32 * classes) % classes
    features = torch.cat([means[label], torch.randn(len(label), width // 2)], 1)
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    kind = torch.optim.AdamW if recipe.opt == "adamw" else torch.optim.SGD
    momentum = {} if recipe.opt == "adamw" else {"momentum": recipe.momentum}
    optimizer = kind(head.parameters(), lr=sum_of_rates / 100, **momentum)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), label).backward()
        optimizer.step()
    return float(head(features).detach().softmax(1)[torch.arange(len(label)), label].mean())


@pytest.mark.slow
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
@pytest.mark.parametrize(("classes", "width"), [(4, 768), (8, 64), (100, 768)])
def test_below_the_least_sum_of_rates_a_classifier_stays_unsure(
    opt: str, classes: int, width: int
) -> None:
    recipe = Recipe(opt=opt)
    least = least_sum_of_rates(recipe, classes, width)
    assert _confidence(recipe, least / 2, classes, width) < 0.9
    assert _confidence(recipe, least * 10, classes, width) > 0.9


@pytest.mark.parametrize("width", [64, 768, 1024])
@pytest.mark.parametrize("classes", [2, 100, 1000])
@pytest.mark.parametrize("per_class", [2, 8, 64])
def test_the_small_recipe_always_moves_the_classifier(
    width: int, classes: int, per_class: int
) -> None:
    budget = TrainingBudget("vivit", classes * per_class, width, classes)
    recipe = choose_recipe(budget, "small").recipe
    per_epoch = math.ceil(budget.train_videos / recipe.batch_size)
    total = sum_of_head_rates(recipe, per_epoch * recipe.epochs, per_epoch, 1.0)
    assert total >= least_sum_of_rates(recipe, classes, width)


def test_settings_that_cannot_move_the_classifier_are_warned_of(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", "uniformerv2")
    budget = training_budget(plan_for(data, start).model_init, plan_for(data, start).split, 1)
    paper = plan_for(data, start, choose_recipe(budget, "paper").recipe)
    assert "cannot move the classifier" in paper.warning()
    assert not plan_for(data, start, choose_recipe(budget).recipe).warning()
    # The value that the warning names suffices.
    named = float(paper.warning().split("--head-lr ")[1].split(",")[0])
    fixed = choose_recipe(budget, "paper", {"head_lr": named}).recipe
    assert not plan_for(data, start, fixed).warning()
    # A classifier that is kept has nothing to learn.
    kept = model_file(tmp_path / "kept.safetensors", "uniformerv2", ("a", "b", "c"))
    assert not plan_for(data, kept, paper.recipe).warning()


@pytest.mark.parametrize("arch", ["uniformerv2", "vivit"])
def test_a_killed_training_with_the_small_recipe_ends_with_the_same_weights(
    arch: str, data: Path, tmp_path: Path
) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    first = plan_for(data, start)
    budget = training_budget(first.model_init, first.split, 1)
    recipe = choose_recipe(budget, given={"epochs": 3, "batch_size": 4}).recipe
    plan = plan_for(data, start, recipe, save_every=2)
    trainer(tmp_path / "whole", plan).fit()
    broken = trainer(tmp_path / "broken", plan)
    with pytest.raises(Killed):
        broken.fit(kill_after(5, broken))
    resumed = trainer(tmp_path / "broken", plan, resume=True)
    assert resumed.position.steps_done == 4
    resumed.fit()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(*(weights(tmp_path / run / name) for run in ("whole", "broken")))


@pytest.mark.slow
def test_the_default_command_learns_from_eight_videos_per_class(tmp_path: Path) -> None:
    """At least 75 % of 64 test videos of Motion-8 whose classes have other names."""
    make_motion8(tmp_path / "motion8", clips={"train": 64, "test": 64}, seed=3)
    data = tmp_path / "data"
    for split in ("train", "test"):
        classes = sorted((tmp_path / "motion8" / split).iterdir())
        for number, folder in enumerate(classes):
            shutil.copytree(folder, data / split / f"class {number}")
    words = ["--dataset", str(data / "train"), "-m", "vivit-nano", "-o", str(tmp_path / "run")]
    assert run(["finetune", *words, "--device", "cpu", "--ram-cache-gb", "1"]) == 0
    test = open_dataset(data / "test")
    outcomes = Predictor(tmp_path / "run" / "best.safetensors", topk=1).predict(
        [sample.path for sample in test.samples]
    )
    correct = [
        isinstance(outcome, VideoPrediction)
        and outcome.predictions[0].label == test.classes["action"][sample.labels[0]]
        for sample, outcome in zip(test.samples, outcomes, strict=True)
    ]
    assert sum(correct) / len(correct) >= 0.75
