"""What `vt finetune` does with its options: plan a training, report the plan, run it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, UsageError

if TYPE_CHECKING:
    from vtcli.data.splits import TrainValSplit
    from vtcli.models.recipe import Recipe
    from vtcli.runtime.distributed import Group
    from vtcli.runtime.progress import ProgressCallback
    from vtcli.training.callbacks import Callback
    from vtcli.training.head_fit import HeadFit
    from vtcli.training.init import ModelInit
    from vtcli.training.plan import TrainPlan, TrainSettings
    from vtcli.training.trainer import Trainer

# Exit codes of a training that a signal stopped.
STOPPED = {"interrupted": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}


@dataclass(frozen=True)
class Source:
    """The dataset, and how it is split, as the options name it."""

    dataset: str
    data_root: Path | None
    split: str | None
    val_split: str | None
    val_fraction: float
    annotations: str | None
    seed: int
    group_by: str | None

    def open(self) -> TrainValSplit:
        """The training and validation split."""
        from vtcli.data.splits import split_train_val

        return split_train_val(
            self.dataset,
            self.data_root,
            self.split,
            self.val_split,
            self.val_fraction,
            self.annotations,
            self.seed,
            self.group_by,
        )


@dataclass(frozen=True)
class Request:
    """A parsed command line; `given` are the recipe options by field, None where not given."""

    source: Source
    model: str
    init: str
    num_frames: int | None
    recipe: str | None
    few_shot: int | None
    given: Mapping[str, Any]
    settings: TrainSettings


def plan_training(request: Request, group: Group, on_download: ProgressCallback) -> TrainPlan:
    """The training that was asked for; the main process logs its data and learning rate."""
    from vtcli.models.recipe import Recipe
    from vtcli.training.choose import choose_recipe, training_budget
    from vtcli.training.few_shot import few_shot, unvalidated_classes
    from vtcli.training.init import plan_init
    from vtcli.training.loss import with_loss
    from vtcli.training.plan import TrainPlan, resolve_hflip

    split, given = request.source.open(), request.given
    if request.few_shot is not None:
        split = few_shot(split, request.few_shot, request.source.seed)
    heads = {head: len(names) for head, names in split.train.classes.items()}

    def init_with(recipe: Recipe) -> ModelInit:
        frames = request.num_frames
        return plan_init(request.model, request.init, heads, recipe, frames, on_download)

    frozen = given.get("trainable") == "head"
    budget = training_budget(init_with(Recipe()), split, group.size, frozen)
    choice = choose_recipe(budget, request.recipe, given)
    recipe = resolve_hflip(choice.recipe, split.flip_sensitive, given.get("hflip"))
    patience = request.settings.patience
    settings = replace(
        request.settings, patience=choice.patience if patience is None else patience or None
    )
    seed = request.source.seed
    init = with_loss(init_with(recipe), split, recipe)
    plan = TrainPlan(
        split,
        init,
        choice.name,
        recipe,
        seed,
        group.size,
        settings,
        choice.reason,
        choice.fits_features,
    )
    if group.is_main_process:
        lines = (*split.summary, unvalidated_classes(split), *_recipe_lines(plan), *choice.notes)
        for sentence in filter(None, lines):
            _log(sentence)
    return plan


def _recipe_lines(plan: TrainPlan) -> Iterator[str]:
    """The recipe, why it was chosen, its length and learning rates, and what it cannot do."""
    recipe = plan.recipe
    yield _on_flips(plan.split, recipe.hflip)
    if plan.multi_label:
        yield (
            "each class is decided alone (binary cross-entropy); the best epoch has the highest "
            "mean average precision"
        )
    yield _on_balance(plan)
    if plan.model_init.resizes_positions:
        before, after = plan.model_init.known.pipeline.frames, plan.model_init.pipeline.frames
        yield f"positions over time are interpolated, from {before} frames to {after}"
    yield f"recipe {plan.recipe_name}: {plan.recipe_reason}"
    if plan.fits_features:
        yield "options of the optimizer, such as --epochs 10, train the classifier in steps instead"
        return
    yield (
        f"{plan.steps} optimizer steps of {plan.clips_per_step} clips; learning rate "
        f"{plan.head_lr:.3g} of the classifier, {recipe.lr * plan.lr_scale:.3g} of the backbone "
        f"({recipe.lr:.3g} for {recipe.lr_base_size} clips)"
    )
    if plan.fits_start:
        yield (
            "before the first epoch the new classifier is fitted to features of the training "
            "videos; --head-init zero starts it at zero"
        )
    elif recipe.head_init == "probe" and plan.is_sharded:
        yield "the new classifier starts at zero: --parallel fsdp cannot fit it first"
    if warning := plan.warning():
        yield f"warning: {warning}"


def _on_flips(split: TrainValSplit, hflip: float) -> str:
    """What happens to clips whose label may depend on left and right."""
    if split.flip_sensitive:
        from vtcli.runtime.words import first_of

        names = first_of(split.direction_classes) or "classes of the dataset's catalog entry"
        return f"horizontal flips are off: direction-sensitive classes are {names}"
    if not hflip:
        return "horizontal flips are off"
    return (
        f"{100 * hflip:g} % of the training clips are mirrored, no class name names a direction; "
        "--hflip 0 turns it off"
    )


def _on_balance(plan: TrainPlan) -> str:
    """What happens where the classes are unbalanced; "" where they are not."""
    from vtcli.training.balance import is_unbalanced, size_range

    if not is_unbalanced(plan.split.train):
        return ""
    smallest, largest = size_range(plan.split.train)
    sizes = f"classes are unbalanced, {smallest} to {largest} training videos"
    used = {"class_weights": "--class-weights", "sampling": "--sampling"}
    given = [
        f"{option} {value}"
        for name, option in used.items()
        if (value := getattr(plan.recipe, name)) not in ("none", "natural")
    ]
    more = f"with {' and '.join(given)}" if given else "--class-weights sqrt helps rare classes"
    if plan.best_epoch_by == "val_macro" and not plan.fits_features:
        sizes += "; the best epoch has the highest macro accuracy"
    return f"{sizes}; {more}"


def make_trainer(
    plan: TrainPlan,
    folder: Path,
    group: Group,
    resume: bool,
    on_download: ProgressCallback,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    from vtcli.training.trainer import Trainer

    return Trainer(plan, folder, group, resume, on_download, callbacks)


def print_plan(
    plan: TrainPlan, folder: Path, group: Group, on_download: ProgressCallback, format: str
) -> None:
    from vtcli.report.training import print_estimate, print_head_plan

    if plan.fits_features:
        if group.is_main_process:
            print_head_plan(plan, format)
        return
    estimate = make_trainer(plan, folder, group, False, on_download).estimate()
    if group.is_main_process:
        print_estimate(estimate, format)


def fit_head(head_fit: HeadFit, learning_curve: bool, format: str) -> int:
    from vtcli.cli.progress import working
    from vtcli.report.training import print_head_fit

    is_main = head_fit.group.is_main_process
    if is_main:
        for notice in head_fit.notices:
            _log(notice)
        if head_fit.finished:
            _log(f"{head_fit.folder} is complete; the same classifier is fitted to its features")
    with working("reading the first videos", "clips") as task:

        def on_row(done: int, total: int) -> None:
            task.update("features", done, total)
            if done == total:
                task.say("fitting the classifier")

        ended = head_fit.fit(on_row, learning_curve)
    if ended in STOPPED:
        if is_main:
            _log(f"{ended}; features are cached, run the same command again to resume")
        return STOPPED[ended]
    if is_main:
        outcome = head_fit.outcome()
        print_head_fit(outcome, format)
        _print_next(outcome["files"]["best"], format)
    return EXIT_OK


def train(trainer: Trainer, format: str) -> int:
    from vtcli.cli.progress import train_progress
    from vtcli.report.training import epoch_line, print_outcome

    is_main, epochs = trainer.group.is_main_process, trainer.recipe.epochs
    if is_main:
        for notice in trainer.notices:
            _log(notice)
    if is_main and trainer.finished:
        _log(f"{trainer.folder} is complete; there is nothing left to train")
    elif is_main and (done := trainer.position.steps_done):
        _log(f"resuming after optimizer step {done} of {trainer.plan.steps}")
    with train_progress() as (on_step, trainer.on_validated):
        ended = trainer.fit(on_step, lambda row: _log(epoch_line(row, epochs)))
    if ended in STOPPED:
        if is_main:
            _log(f"{ended} and saved; run the same command again to resume")
        return STOPPED[ended]
    if is_main:
        outcome = trainer.outcome(ended)
        print_outcome(outcome, format)
        _print_next(outcome["files"]["best"], format)
    return EXIT_OK


def _print_next(weights: str, format: str) -> None:
    """What a trained model is for."""
    from vtcli.cli.next_step import command, print_next

    print_next(
        command("predict", "VIDEO", "-m", weights),
        command("eval", "--dataset", "TEST_VIDEOS", "-m", weights) + "  # accuracy, report.html",
        format=format,
    )


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def initial_model(
    model: str, init: str, on_download: ProgressCallback | None = None
) -> tuple[str, str]:
    """`--model` and `--init` where `--init` names the folder or repository of a video model.

    Its network is then the one to train. Raises `UsageError` if `--model` names another one.
    """
    from vtcli.cli.options import DEFAULT_MODEL
    from vtcli.training.init import CHECKPOINT
    from vtcli.weights.repository_model import is_video_repository

    if init in (CHECKPOINT, "scratch", model) or not is_video_repository(init, on_download):
        return model, CHECKPOINT if init == model else init
    if model != DEFAULT_MODEL:
        raise UsageError(
            f"-m {model} and --init {init} both name a video model; leave out -m to train the "
            "second one"
        )
    return init, CHECKPOINT
