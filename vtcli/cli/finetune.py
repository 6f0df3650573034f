"""`vt finetune`: train a model on your own classes, from a checkpoint, an image model or scratch.

Most options are generated from the fields of `Recipe`: name, type and help text.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from vtcli.cli.options import (
    DEFAULT_MODEL,
    TIMEOUT_SECONDS,
    AnnotationsOption,
    CoreWorkersOption,
    DataRootOption,
    DecoderOption,
    DeviceOption,
    FormatOption,
    ModelOption,
    ResumeOption,
    SeedOption,
    TimeoutOption,
    dataset_option,
    run_output_option,
    split_option,
)
from vtcli.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, UsageError
from vtcli.training.recipes import options

if TYPE_CHECKING:
    from vtcli.data.splits import TrainValSplit
    from vtcli.runtime.distributed import Group
    from vtcli.runtime.progress import ProgressCallback
    from vtcli.training.head_fit import HeadFit
    from vtcli.training.init import ModelInit
    from vtcli.training.plan import TrainPlan, TrainSettings
    from vtcli.training.trainer import Trainer

SHORT_FORMS = {"batch_size": "-b"}
# Exit codes of a training that a signal stopped.
STOPPED = {"interrupted": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}


def option_name(field: str) -> str:
    """The option of a field, such as `--weight-decay`."""
    return "--" + field.replace("_", "-")


def _metavar(kind: Any) -> str:
    """What the help shows for a value, as short as it can be."""
    if kind is bool:
        return ""
    if kind is int:
        return "N"
    if get_origin(kind) is tuple and float in get_args(kind):
        return "LOW HIGH"
    return "X" if kind is float or float in get_args(kind) else "NAME"


def _with_recipe_options(command: Callable[..., int]) -> Callable[..., int]:
    """The command with one more option for each field of a recipe, in place of `**given`."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    shown = [p.replace(annotation=hints[p.name]) for p in own if p.kind is not p.VAR_KEYWORD]
    for field, (kind, text) in options().items():
        name = option_name(field)
        names = [f"{name}/--no-{name[2:]}"] if kind is bool else [name]
        names += [SHORT_FORMS[field]] if field in SHORT_FORMS else []
        option = typer.Option(
            *names,
            metavar=_metavar(kind),
            help=text,
            show_default=False,
            # Panels of their own keep the columns narrow: no name is cut off at 80 columns.
            rich_help_panel="Recipe switches" if kind is bool else "Recipe",
        )
        kind = list[str] if kind == tuple[str, ...] else kind
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        shown.append(
            inspect.Parameter(
                field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )
    command.__signature__ = inspect.Signature(shown, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in shown}
    return command


@dataclass(frozen=True)
class _Source:
    """The dataset, and how it is split, as the options name it."""

    dataset: str
    data_root: Path | None
    split: str | None
    val_split: str | None
    val_fraction: float
    annotations: str | None
    seed: int

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
        )


@dataclass(frozen=True)
class _Request:
    """A parsed command line; `given` are the recipe options by field, None where not given."""

    source: _Source
    model: str
    init: str
    num_frames: int | None
    recipe: str | None
    few_shot: int | None
    given: Mapping[str, Any]
    settings: TrainSettings


@_with_recipe_options
def finetune(
    dataset: Annotated[str, dataset_option()],
    output: Annotated[Path, run_output_option()],
    model: ModelOption = DEFAULT_MODEL,
    data_root: DataRootOption = None,
    annotations: AnnotationsOption = None,
    split: Annotated[str | None, split_option("train", "Split to train on.")] = None,
    val_split: Annotated[
        str | None,
        typer.Option(
            "--val-split",
            metavar="NAME",
            help="Split to validate on.",
            show_default="validation, else test, else held-out training videos",
        ),
    ] = None,
    val_fraction: Annotated[
        float,
        typer.Option(
            "--val-fraction",
            min=0.01,
            max=0.9,
            help="Fraction of each class's videos to hold out if there is no split to validate on.",
        ),
    ] = 0.2,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="WHAT",
            help="Initial weights: the model's `checkpoint`, `scratch` (random), or an image model "
            "as a file, hf://org/repo or timm name.",
        ),
    ] = "checkpoint",
    num_frames: Annotated[
        int | None,
        typer.Option("--num-frames", min=1, help="Frames per clip.", show_default="the model's"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="Training recipe: paper, small, scratch, or a name such as xvit-something.",
            show_default="by the number of videos",
        ),
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(
            "--few-shot",
            metavar="K",
            min=1,
            help="Train on K random videos of each class.",
            show_default="all",
        ),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve",
            help="Report the accuracy after fitting the classifier to 1/8, 1/4, 1/2 and all of the "
            "training videos; implies --trainable head.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the recipe and why it was chosen, steps, learning rates, memory and time, "
            "measured on three optimizer steps, and stop.",
        ),
    ] = False,
    resume: ResumeOption = True,
    save_every: Annotated[
        int | None,
        typer.Option(
            "--save-every",
            min=1,
            help="Optimizer steps between checkpoints.",
            show_default="one epoch",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=0,
            help="Stop early after this many epochs without a better validation result; 0 never "
            "does.",
            show_default="a third of the epochs with the small recipe, else 0",
        ),
    ] = None,
    seed: SeedOption = 0,
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        typer.Option(
            "--parallel",
            help="With torchrun: replicate the model on each process (ddp) or shard it (fsdp).",
        ),
    ] = "ddp",
    ram_cache_gb: Annotated[
        float,
        typer.Option(
            "--ram-cache-gb",
            min=0.0,
            help="Cache this many GB of decoded frames in memory, so that later epochs decode "
            "nothing.",
        ),
    ] = 0.0,
    device: DeviceOption = "auto",
    workers: CoreWorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    format: FormatOption = "table",
    **given: Any,
) -> int:
    """Train a model on your own classes; the result is RUN/best.safetensors.

    The recipe is chosen by the number of training videos; options under
    Recipe override it and have the names of timm's training script. The same command resumes an
    interrupted run. With `torchrun --nproc-per-node=N -m vtcli finetune ...`,
    N processes share each batch.
    """
    from vtcli.cli.progress import fetch_progress
    from vtcli.runtime.distributed import process_group
    from vtcli.training.head_fit import HeadFit
    from vtcli.training.plan import TrainSettings
    from vtcli.training.run_directory import open_run_directory

    source = _Source(dataset, data_root, split, val_split, val_fraction, annotations, seed)
    settings = TrainSettings(
        device, workers, decoder, save_every, patience, parallel, ram_cache_gb, timeout
    )
    if learning_curve:
        given["trainable"] = "head"
    request = _Request(source, model, init, num_frames, recipe, few_shot, given, settings)
    with process_group() as group, fetch_progress() as on_download:
        resume_run = any(group.all_gather(resume or _restarted_by_launcher()))
        plan = _plan(request, group, on_download)
        if learning_curve and not plan.fits_features:
            raise UsageError(
                "--learning-curve fits the classifier to cached features, which --recipe and "
                "options of the optimizer do not go with; leave them out"
            )
        if dry_run:
            return _estimate(plan, output, group, on_download, format)

        def work() -> int:
            if plan.fits_features:
                head_fit = HeadFit(plan, output, group, on_download)
                return _fit_head(head_fit, learning_curve, format)
            return _train(_trainer(plan, output, group, resume_run, on_download), format)

        if not group.is_main_process:
            group.broadcast(None)
            return work()
        with open_run_directory(output, plan.fingerprint(), resume_run):
            # The others read the folder only after the main process has locked it.
            group.broadcast(True)
            return work()


def _restarted_by_launcher() -> bool:
    """Whether torchrun restarted this process (`--max-restarts`): then the run is resumed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _plan(request: _Request, group: Group, on_download: ProgressCallback) -> TrainPlan:
    """The training that was asked for; the main process logs its data and learning rate."""
    from vtcli.models.recipe import Recipe
    from vtcli.training.choose import choose_recipe, training_budget
    from vtcli.training.few_shot import few_shot, unvalidated_classes
    from vtcli.training.init import plan_init
    from vtcli.training.plan import TrainPlan, resolve_hflip

    split, given = request.source.open(), request.given
    if request.few_shot is not None:
        split = few_shot(split, request.few_shot, request.source.seed)
    heads = {head: len(names) for head, names in split.train.classes.items()}

    def init_with(recipe: Recipe) -> ModelInit:
        frames = request.num_frames
        return plan_init(request.model, request.init, heads, recipe, frames, on_download)

    budget = training_budget(init_with(Recipe()), split, group.size)
    choice = choose_recipe(budget, request.recipe, given)
    recipe = resolve_hflip(choice.recipe, split.flip_sensitive, given.get("hflip"))
    patience = request.settings.patience
    settings = replace(
        request.settings, patience=choice.patience if patience is None else patience or None
    )
    seed = request.source.seed
    init = init_with(recipe)
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
    if plan.split.flip_sensitive:
        yield "horizontal flips are off: some labels name a direction"
    yield f"recipe {plan.recipe_name}: {plan.recipe_reason}"
    if plan.fits_features:
        yield "options of the optimizer, such as --epochs 10, train the classifier in steps instead"
        return
    yield (
        f"{plan.steps} optimizer steps of {plan.clips_per_step} clips; learning rate "
        f"{plan.head_lr:.3g} of the classifier, {recipe.lr * plan.lr_scale:.3g} of the backbone "
        f"({recipe.lr:.3g} for {recipe.lr_base_size} clips)"
    )
    if warning := plan.warning():
        yield f"warning: {warning}"


def _trainer(
    plan: TrainPlan, folder: Path, group: Group, resume: bool, on_download: ProgressCallback
) -> Trainer:
    from vtcli.training.trainer import Trainer

    return Trainer(plan, folder, group, resume, on_download)


def _estimate(
    plan: TrainPlan, folder: Path, group: Group, on_download: ProgressCallback, format: str
) -> int:
    from vtcli.report.training import print_estimate, print_head_plan

    if plan.fits_features:
        if group.is_main_process:
            print_head_plan(plan, format)
        return EXIT_OK
    estimate = _trainer(plan, folder, group, False, on_download).estimate()
    if group.is_main_process:
        print_estimate(estimate, format)
    return EXIT_OK


def _fit_head(head_fit: HeadFit, learning_curve: bool, format: str) -> int:
    from vtcli.report.training import print_head_fit, show_rows

    is_main = head_fit.group.is_main_process
    if is_main:
        for notice in head_fit.notices:
            _log(notice)
    with show_rows(is_main) as on_row:
        ended = head_fit.fit(on_row, learning_curve)
    if ended in STOPPED:
        if is_main:
            _log(f"{ended}; features are cached, run the same command again to resume")
        return STOPPED[ended]
    if is_main:
        print_head_fit(head_fit.outcome(), format)
    return EXIT_OK


def _train(trainer: Trainer, format: str) -> int:
    from vtcli.report.training import epoch_line, print_outcome, show_progress

    is_main, epochs = trainer.group.is_main_process, trainer.recipe.epochs
    if is_main:
        for notice in trainer.notices:
            _log(notice)
    if is_main and (done := trainer.position.steps_done):
        _log(f"resuming after optimizer step {done} of {trainer.plan.steps}")
    with show_progress(is_main) as on_step:
        ended = trainer.fit(on_step, lambda row: _log(epoch_line(row, epochs)))
    if ended in STOPPED:
        if is_main:
            _log(f"{ended} and saved; run the same command again to resume")
        return STOPPED[ended]
    if is_main:
        print_outcome(trainer.outcome(ended), format)
    return EXIT_OK


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
