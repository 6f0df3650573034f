"""Chooses the recipe for the data at hand: the paper's where there is a paper's amount of data, one
for small data otherwise, and one for random weights.

`small` and `scratch` are derived from the number of training videos: their length is a number of
optimizer steps, their learning rates are stated for the batch that is used. How `small` was found
is in docs/finetuning.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.models.build import build_on_meta
from vtcli.models.recipe import Recipe
from vtcli.training.init import CHECKPOINT, SCRATCH, ModelInit
from vtcli.training.layers import layer_ids
from vtcli.training.optim import least_sum_of_rates
from vtcli.training.recipes import AUGMENTATION_FIELDS, SHARED_RECIPES, find_recipe, override

if TYPE_CHECKING:
    from torch import nn

    from vtcli.data.splits import TrainValSplit

PAPER, SMALL = "paper", "small"
PAPER_STEPS = 10_000
"""Optimizer steps of the paper's batch from which the data are paper-size: a tenth of those on
Kinetics-400 and Something-Something."""
SMALL_BATCH = 32
"""Clips per forward pass below which batch statistics are too noisy to update BatchNorm's."""
FEW_VIDEOS = 100
"""Training videos below which a classifier alone is often as accurate as the whole network."""
FEATURE_OPTIONS = (
    "trainable",
    "loss",
    "batch_size",
    "freeze_bn",
    "class_weights",
    *AUGMENTATION_FIELDS,
)
"""Recipe fields that a classifier fitted to cached features can take."""
MOST_FITTED = 200_000
"""Training videos times classes up to which a new classifier is fitted before the first epoch: that
takes seconds, and a minute at most."""
HEAD_LR = 1e-3
NANO_WIDTH = 96
"""Features of the widest nano model: wider backbones are trained at a lower rate."""


@dataclass(frozen=True)
class TrainingBudget:
    """What the choice of a recipe depends on.

    `width` is the number of features that the classifier reads, `classes` the number of its
    classes; `processes` share each batch.
    `has_layers`: the network states its layers, so that its rates can decay from layer to layer;
    `has_features`: it has a method `features` and one classifier.
    """

    arch: str
    train_videos: int
    width: int
    classes: int = 2
    init: str = CHECKPOINT
    flip_sensitive: bool = False
    has_layers: bool = True
    has_batchnorm: bool = False
    has_features: bool = True
    processes: int = 1


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe with its name, a sentence on why it was chosen, the default of `--patience` (epochs;
    None never stops early), and further sentences on what was decided with it.

    `fits_features`: the classifier is fitted to cached features instead of trained in steps.
    """

    name: str
    recipe: Recipe
    reason: str
    patience: int | None = None
    fits_features: bool = False
    notes: tuple[str, ...] = ()


def training_budget(
    model_init: ModelInit, split: TrainValSplit, processes: int, frozen: bool = False
) -> TrainingBudget:
    """The budget of a training of this network, which is built on the meta device.

    `frozen`: the backbone is not trained, so the layers it states are not needed (timm, which reads
    them, takes longer to import than a classifier to fit).
    """
    network = build_on_meta(model_init.architecture, model_init.config)
    return TrainingBudget(
        model_init.architecture.name,
        len(split.train.samples),
        head_width(network, model_init.architecture.head_tensors),
        max(len(names) for names in split.train.classes.values()),
        model_init.init,
        split.flip_sensitive,
        not frozen and _states_layers(network),
        any(name.endswith("running_mean") for name, _ in network.named_buffers()),
        hasattr(network, "features") and len(model_init.architecture.head_tensors) == 2,
        processes,
    )


def head_width(network: nn.Module, head_tensors: tuple[str, ...]) -> int:
    """The number of features that the classifier reads."""
    shapes = [network.get_parameter(name).shape for name in head_tensors]
    return max((shape[1] for shape in shapes if len(shape) == 2), default=1)


def _states_layers(network: nn.Module) -> bool:
    try:
        layer_ids(network, "--layer-decay")
    except UsageError:
        return False
    return True


def choose_recipe(
    budget: TrainingBudget, name: str | None = None, given: Mapping[str, Any] | None = None
) -> RecipeChoice:
    """The recipe of this name (`paper`, `small`, `scratch` or one of `list_recipes`), or else the
    one that fits the budget; `given` fields, None where not given, override it.

    Raises `UsageError` for an unknown name and for a value out of range.
    """
    given = {field: value for field, value in (given or {}).items() if value is not None}
    kind, reason = (name, "named with --recipe") if name else _kind(budget)
    if kind == SMALL:
        found = small_recipe(budget, given)
    elif kind == SCRATCH:
        found = scratch_recipe(budget, given)
    else:
        own = None if kind == PAPER else kind
        label, found = find_recipe(budget.arch, budget.flip_sensitive, own)
        kind = f"{PAPER} ({label})" if kind == PAPER else label
    recipe = override(found, given)
    recipe, notes = _with_notes(recipe, budget, given)
    patience = max(8, math.ceil(recipe.epochs / 3)) if kind == SMALL else None
    fits = name is None and recipe.trainable == "head" and given.keys() <= set(FEATURE_OPTIONS)
    if fits and budget.has_features and budget.init != SCRATCH:
        reason = "the backbone is frozen, so its features are computed once and cached"
        notes = tuple(note for note in notes if "BatchNorm" not in note)
        return RecipeChoice("linear probe", recipe, reason, None, True, notes)
    few = budget.train_videos < FEW_VIDEOS and budget.has_features
    if kind == SMALL and recipe.trainable == "full" and few:
        notes = (
            *notes,
            f"{budget.train_videos} training videos are few: --trainable head fits the classifier "
            "alone, in seconds, and may be more accurate; compare the two",
        )
    return RecipeChoice(kind, recipe, reason, patience, False, notes)


def paper_steps(budget: TrainingBudget) -> int:
    """Optimizer steps of the paper's batch in the paper's epochs, on this data."""
    _, paper = find_recipe(budget.arch, budget.flip_sensitive)
    return math.ceil(budget.train_videos / paper.lr_base_size) * paper.epochs


def _kind(budget: TrainingBudget) -> tuple[str, str]:
    """The kind of recipe that fits, and why."""
    if budget.init == SCRATCH:
        return SCRATCH, "the weights start at random"
    steps = paper_steps(budget)
    _, paper = find_recipe(budget.arch, budget.flip_sensitive)
    text = (
        f"{budget.train_videos:,} training videos are {steps:,} optimizer steps of the paper's "
        f"{paper.lr_base_size} clips in its {paper.epochs} epochs"
    )
    if steps >= PAPER_STEPS:
        return PAPER, f"{text}, at least {PAPER_STEPS:,}"
    return SMALL, f"{text}, fewer than {PAPER_STEPS:,}"


def small_recipe(budget: TrainingBudget, given: Mapping[str, Any]) -> Recipe:
    """Fine-tuning on up to some thousand videos: 200 optimizer steps, or five epochs if they are
    more; and enough for the classifier (`least_sum_of_rates`, of rates that are HEAD_LR / 2 on the
    average).
    """
    batch = 8 if budget.train_videos < 100 else 16
    recipe = Recipe(
        lr=HEAD_LR * min(1.0, NANO_WIDTH / budget.width),
        head_lr=HEAD_LR,
        weight_decay=0.05,
        no_weight_decay=("bias_table",),
        layer_decay=0.75 if budget.has_layers else 1.0,
        clip_grad=1.0,
        smoothing=0.1,
        scale=(0.5, 1.0),
        hflip=0.0,
        head_init="probe" if _fits_start(budget, given) else "zero",
    )
    enough = least_sum_of_rates(recipe, budget.classes, budget.width) / (HEAD_LR / 2)
    return _with_length(recipe, budget, given, batch, max(200, round(1.1 * enough)), 5.0)


def _fits_start(budget: TrainingBudget, given: Mapping[str, Any]) -> bool:
    """Whether a new classifier is fitted to features before the first epoch."""
    few = budget.train_videos * budget.classes <= MOST_FITTED
    steps = given.get("trainable") != "head"
    return budget.init == CHECKPOINT and budget.has_features and few and steps


def scratch_recipe(budget: TrainingBudget, given: Mapping[str, Any]) -> Recipe:
    """Training from random weights: the nano models' rates, at least 1,500 optimizer steps."""
    nano = SHARED_RECIPES["nano"]
    recipe = replace(nano, lr=nano.lr * min(1.0, NANO_WIDTH / budget.width), hflip=0.0)
    batch = 16 if budget.train_videos < 500 else 32
    return _with_length(recipe, budget, given, batch, 1500, 24.0)


def _with_length(
    recipe: Recipe,
    budget: TrainingBudget,
    given: Mapping[str, Any],
    batch: int,
    least_steps: int,
    least_epochs: float,
) -> Recipe:
    """The recipe with its batch, the epochs that make the optimizer steps, and a tenth of warmup.

    The rates are stated for the clips per optimizer step that result, so they are not scaled.
    """
    per_process = given.get("batch_size") or max(1, batch // budget.processes)
    clips = per_process * budget.processes * given.get("grad_accum_steps", 1)
    videos = max(1, clips // given.get("aug_repeats", 1))
    steps_per_epoch = math.ceil(budget.train_videos / videos)
    steps = max(least_steps, least_epochs * budget.train_videos / videos)
    epochs = math.ceil(steps / steps_per_epoch)
    return replace(
        recipe,
        epochs=epochs,
        batch_size=per_process,
        lr_base_size=max(1, clips),
        warmup_epochs=0.1 * epochs,
    )


def _with_notes(
    recipe: Recipe, budget: TrainingBudget, given: Mapping[str, Any]
) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with BatchNorm frozen on small batches, and what the user should know of it."""
    notes = []
    together = recipe.batch_size * budget.processes
    small_batch = budget.init == CHECKPOINT and together < SMALL_BATCH
    if budget.has_batchnorm and small_batch and "freeze_bn" not in given:
        recipe = replace(recipe, freeze_bn=True)
        notes.append(
            f"the statistics of BatchNorm are frozen: {together} clips per forward pass "
            f"are too few to estimate them; --no-freeze-bn or -b {SMALL_BATCH} updates them"
        )
    if recipe.hflip == 0 and not budget.flip_sensitive and "hflip" not in given:
        notes.append(
            "horizontal flips are off, because class names cannot rule out that left and right "
            "matter; --hflip 0.5 helps where a mirrored video keeps its class"
        )
    return recipe, tuple(notes)
