"""`vt finetune`: train a model on your own classes, from a checkpoint, an image model or scratch.

Most options are generated from the fields of `Recipe`: name, type and help text.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from vtcli.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED
from vtcli.training.recipes import find_recipe, options, override

if TYPE_CHECKING:
    from vtcli.data.splits import TrainValSplit
    from vtcli.runtime.distributed import Group
    from vtcli.runtime.progress import ProgressCallback
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
            help="Training recipe by name, such as xvit-something.",
            show_default="the architecture's",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print steps, learning rate, memory and time, measured on three optimizer steps, "
            "and stop.",
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
            min=1,
            help="Stop early after this many epochs without a better validation result.",
            show_default="never",
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

    Options under Recipe override the architecture's recipe; they have the
    names that timm's training script uses. The same command resumes an
    interrupted run. With `torchrun --nproc-per-node=N -m vtcli finetune ...`,
    N processes share each batch.
    """
    from vtcli.cli.progress import fetch_progress
    from vtcli.runtime.distributed import process_group
    from vtcli.training.plan import TrainSettings
    from vtcli.training.run_directory import open_run_directory

    source = _Source(dataset, data_root, split, val_split, val_fraction, annotations, seed)
    settings = TrainSettings(
        device, workers, decoder, save_every, patience, parallel, ram_cache_gb, timeout
    )
    request = _Request(source, model, init, num_frames, recipe, given, settings)
    with process_group() as group, fetch_progress() as on_download:
        resume_run = any(group.all_gather(resume or _restarted_by_launcher()))
        plan = _plan(request, group, on_download)
        if dry_run:
            return _estimate(plan, output, group, on_download, format)
        if not group.is_main_process:
            group.broadcast(None)
            return _train(_trainer(plan, output, group, resume_run, on_download), format)
        with open_run_directory(output, plan.fingerprint(), resume_run):
            # The others read the folder only after the main process has locked it.
            group.broadcast(True)
            return _train(_trainer(plan, output, group, resume_run, on_download), format)


def _restarted_by_launcher() -> bool:
    """Whether torchrun restarted this process (`--max-restarts`): then the run is resumed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _plan(request: _Request, group: Group, on_download: ProgressCallback) -> TrainPlan:
    """The training that was asked for; the main process logs its data and learning rate."""
    from vtcli.training.init import plan_init
    from vtcli.training.plan import TrainPlan, resolve_hflip
    from vtcli.weights.resolve import lookup

    split, given = request.source.open(), request.given
    arch = lookup(request.model, on_download, needs_classifier=False).arch
    name, recipe = find_recipe(arch, split.flip_sensitive, request.recipe)
    recipe = resolve_hflip(override(recipe, given), split.flip_sensitive, given.get("hflip"))
    heads = {head: len(names) for head, names in split.train.classes.items()}
    init = plan_init(request.model, request.init, heads, recipe, request.num_frames, on_download)
    plan = TrainPlan(split, init, name, recipe, request.source.seed, group.size, request.settings)
    if group.is_main_process:
        for sentence in split.summary:
            _log(sentence)
        if split.flip_sensitive:
            _log("horizontal flips are off: some labels name a direction")
        _log(
            f"recipe {name}: learning rate {recipe.lr * plan.lr_scale:.3g} ({recipe.lr:.3g} for "
            f"{recipe.lr_base_size} clips per optimizer step, here {plan.clips_per_step})"
        )
    return plan


def _trainer(
    plan: TrainPlan, folder: Path, group: Group, resume: bool, on_download: ProgressCallback
) -> Trainer:
    from vtcli.training.trainer import Trainer

    return Trainer(plan, folder, group, resume, on_download)


def _estimate(
    plan: TrainPlan, folder: Path, group: Group, on_download: ProgressCallback, format: str
) -> int:
    from vtcli.report.training import print_estimate

    estimate = _trainer(plan, folder, group, False, on_download).estimate()
    if group.is_main_process:
        print_estimate(estimate, format)
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
