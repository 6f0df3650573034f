"""`vt finetune`: train a model on your own classes, from a checkpoint, an image model or scratch.

Most options are generated from the fields of `Recipe`: name, type and help text.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from vtcli.cli.finetune_run import (
    Request,
    Source,
    fit_head,
    initial_model,
    make_trainer,
    plan_training,
    print_plan,
    train,
)
from vtcli.cli.options import (
    DEFAULT_MODEL,
    AnnotationsOption,
    DataRootOption,
    DecoderOption,
    DeviceOption,
    FormatOption,
    ModelOption,
    ResumeOption,
    SeedOption,
    TimeoutOption,
    WorkersOption,
    dataset_option,
    run_output_option,
    split_option,
)
from vtcli.cli.suggestions import RECIPES, one_of
from vtcli.errors import EXIT_OK, UsageError
from vtcli.training.recipes import options
from vtcli.video import TIMEOUT_SECONDS

SHORT_FORMS = {"batch_size": "-b"}


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
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="COLUMN|REGEX",
            help="Hold out videos together that share a column of the annotation or a match in "
            "their path.",
            show_default="copies, and cuts of one source by their names",
        ),
    ] = None,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="WHAT",
            help="Initial weights: the model's `checkpoint`, `scratch` (random), a video model's "
            "folder or org/repo, or an image model as a file, hf://org/repo or timm name.",
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
            help="Training recipe: paper, small, scratch, nano, or that of an architecture "
            "(uniformerv2, videoswin, vivit, xvit; each also with -something).",
            show_default="by the number of videos",
            autocompletion=one_of(*RECIPES),
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
    callback: Annotated[
        list[str] | None,
        typer.Option(
            "--callback",
            metavar="CLASS",
            help="Report to an object of this class, named FILE.py:CLASS or "
            "module:CLASS. May be repeated.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
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
    from vtcli.cli.next_step import print_next, without_option
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.runtime.distributed import process_group
    from vtcli.training.callbacks import load_callback
    from vtcli.training.head_fit import HeadFit
    from vtcli.training.plan import TrainSettings
    from vtcli.training.run_directory import open_run_directory

    source = Source(dataset, data_root, split, val_split, val_fraction, annotations, seed, group_by)
    settings = TrainSettings(
        device, workers, decoder, save_every, patience, parallel, ram_cache_gb, timeout
    )
    if learning_curve:
        given["trainable"] = "head"
    with (
        process_group() as group,
        working(f"reading {dataset}") as task,
        fetch_progress() as on_download,
    ):
        callbacks = [load_callback(name) for name in callback or ()] * group.is_main_process
        model, init = initial_model(model, init, on_download)
        request = Request(source, model, init, num_frames, recipe, few_shot, given, settings)
        resume_run = any(group.all_gather(resume or _restarted_by_launcher()))
        plan = plan_training(request, group, on_download)
        if learning_curve and not plan.fits_features:
            raise UsageError(
                "--learning-curve fits the classifier to cached features, which --recipe and "
                "options of the optimizer do not go with; leave them out"
            )
        if dry_run:
            task.say("measuring optimizer steps")
            print_plan(plan, output, group, on_download, format)
            print_next(without_option("--dry-run"), format=format)
            return EXIT_OK
        task.say(f"loading {model}")

        def work() -> int:
            if plan.fits_features:
                head_fit = HeadFit(plan, output, group, on_download, callbacks)
                return fit_head(head_fit, learning_curve, format)
            maker = make_trainer(plan, output, group, resume_run, on_download, callbacks)
            return train(maker, format)

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
