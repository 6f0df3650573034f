"""`vt finetune`: your own classes, from any checkpoint, an image model or nothing."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from vtcli.cli.datasets import AnnotationsOption
from vtcli.cli.options import CoreWorkersOption, DecoderOption, DeviceOption, ModelOption
from vtcli.errors import EXIT_OK, EXIT_TERMINATED
from vtcli.training.recipes import find_recipe, options, override

if TYPE_CHECKING:
    from vtcli.runtime.distributed import Group
    from vtcli.training.plan import TrainPlan
    from vtcli.training.trainer import Trainer


def _with_recipe_options(command: Callable[..., int]) -> Callable[..., int]:
    """The command with one option more for each field of a recipe, in place of `**given`."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    shown = [p.replace(annotation=hints[p.name]) for p in own if p.kind is not p.VAR_KEYWORD]
    for name, (kind, text) in options().items():
        word = "--" + name.replace("_", "-")
        words = f"{word}/--no-{word[2:]}" if kind is bool else word
        option = typer.Option(words, help=text, show_default=False, rich_help_panel="Recipe")
        kind = list[str] if kind == tuple[str, ...] else kind
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        shown.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )
    command.__signature__ = inspect.Signature(shown, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in shown}
    return command


@_with_recipe_options
def finetune(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME|PATH",
            help="A folder of class folders, an annotation, or a known dataset.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="RUN", help="The folder that the training fills."),
    ],
    model: ModelOption = "uniformerv2-b",
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            metavar="DIR",
            help="Where the videos are.",
            show_default="$VT_DATA/NAME, or beside the annotation",
        ),
    ] = None,
    annotations: AnnotationsOption = None,
    split: Annotated[
        str | None, typer.Option("--split", help="What is trained on.", show_default="train")
    ] = None,
    val_split: Annotated[
        str | None,
        typer.Option(
            "--val-split",
            help="What is validated on.",
            show_default="validation, else test, else videos held out",
        ),
    ] = None,
    val_fraction: Annotated[
        float,
        typer.Option(
            "--val-fraction", min=0.01, max=0.9, help="Share of each class's videos to hold out."
        ),
    ] = 0.2,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="WHAT",
            help="Start from the model's `checkpoint`, from `scratch`, or from an image model: a "
            "file, hf://org/repo or a name of timm's.",
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
            help="A recipe by name, such as xvit-something.",
            show_default="the architecture's",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Say what would be done, measured on three updates, and stop."),
    ] = False,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option(
            "--resume", help="auto: go on with the training that RUN holds; never: refuse it."
        ),
    ] = "never",
    save_every: Annotated[
        int | None,
        typer.Option(
            "--save-every", min=1, help="Updates between saved states.", show_default="an epoch's"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, help="Stop after so many epochs without a better one."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        typer.Option("--parallel", help="With torchrun: a whole model per process, or shards."),
    ] = "ddp",
    cache_gb: Annotated[
        float,
        typer.Option(
            "--cache-gb",
            min=0.0,
            help="Keep so many GB of decoded videos in memory: later epochs need no decoding.",
        ),
    ] = 0.0,
    device: DeviceOption = "auto",
    workers: CoreWorkersOption = None,
    decoder: DecoderOption = "auto",
    format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print.")
    ] = "table",
    **given: Any,
) -> int:
    """Train a model on your own classes; what comes out is RUN/best.safetensors.

    Every option under Recipe overrides the architecture's recipe; names are those of timm's
    training script. With `torchrun --nproc-per-node=N -m vtcli finetune ...` N processes share the
    work.
    """
    from vtcli.cli.progress import fetch_progress
    from vtcli.runtime.distributed import process_group
    from vtcli.training.plan import TrainSettings
    from vtcli.training.run_directory import open_run_directory

    settings = TrainSettings(device, workers, decoder, save_every, patience, parallel, cache_gb)
    source = (dataset, data_root, split, val_split, val_fraction, annotations, seed)
    # Processes that their launcher starts again go on by themselves.
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    with process_group() as group, fetch_progress() as on_download:
        resume_run = any(group.all_gather(resume == "auto" or again))
        todo = _plan(source, model, init, num_frames, recipe, given, settings, group, on_download)
        if plan:
            return _show_plan(todo, output, group, on_download, format)
        if not group.is_main_process:
            group.broadcast(None)
            return _train(_trainer(todo, output, group, resume_run, on_download), format)
        with open_run_directory(output, todo.about(), resume_run):
            # Nobody reads the folder before the first process has it to itself.
            group.broadcast(True)
            return _train(_trainer(todo, output, group, resume_run, on_download), format)


def _plan(
    source: tuple[Any, ...],
    model: str,
    init: str,
    num_frames: int | None,
    recipe_name: str | None,
    given: dict[str, Any],
    settings: Any,
    group: Group,
    on_download: Any,
) -> TrainPlan:
    """The training that was asked for; what was summary is said on standard error."""
    from vtcli.data.splits import split_train_val
    from vtcli.training.init import plan_init
    from vtcli.training.plan import TrainPlan, resolve_hflip
    from vtcli.weights.resolve import lookup

    division = split_train_val(*source)
    arch = lookup(model, on_download).arch
    name, recipe = find_recipe(arch, division.flip_sensitive, recipe_name)
    recipe = resolve_hflip(override(recipe, given), division.flip_sensitive, given.get("hflip"))
    heads = {head: len(names) for head, names in division.train.classes.items()}
    start = plan_init(model, init, heads, recipe, num_frames, on_download)
    todo = TrainPlan(division, start, name, recipe, source[-1], group.size, settings)
    if group.is_main_process:
        for sentence in division.summary:
            _say(sentence)
        if division.flip_sensitive:
            _say("clips are never mirrored: the labels name a side")
        _say(
            f"recipe {name}: learning rate {recipe.lr * todo.lr_scale:.3g} ({recipe.lr:.3g} for "
            f"{recipe.lr_base_size} clips an update, here {todo.clips_per_update})"
        )
    return todo


def _trainer(
    todo: TrainPlan, folder: Path, group: Group, resume: bool, on_download: Any
) -> Trainer:
    from vtcli.training.trainer import Trainer

    return Trainer(todo, folder, group, resume, on_download)


def _show_plan(todo: TrainPlan, folder: Path, group: Group, on_download: Any, format: str) -> int:
    from vtcli.report.training import print_forecast

    forecast = _trainer(todo, folder, group, False, on_download).estimate()
    if group.is_main_process:
        print_forecast(forecast, format)
    return EXIT_OK


def _train(trainer: Trainer, format: str) -> int:
    from vtcli.report.training import epoch_line, pace_shown, print_outcome

    leads, epochs = trainer.group.is_main_process, trainer.recipe.epochs
    if leads and trainer.position.done:
        _say(f"going on after update {trainer.position.done} of {trainer.plan.updates}")
    with pace_shown(leads) as on_step:
        ended = trainer.fit(on_step, lambda row: _say(epoch_line(row, epochs)))
    if ended == "stopped":
        if leads:
            _say("stopped and saved; the same command with --resume auto goes on")
        return EXIT_TERMINATED
    if leads:
        print_outcome(trainer.outcome(ended), format)
    return EXIT_OK


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
