"""`vt eval`: a model's accuracy on a labeled dataset, by the published protocol or another."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vtcli.cli.datasets import AnnotationsOption
from vtcli.cli.options import (
    BatchOption,
    CoreWorkersOption,
    DecoderOption,
    DeviceOption,
    PipelineOption,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from vtcli.data.samples import Dataset
    from vtcli.evaluation.evaluator import EvalProgress
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.evaluation.results import EvaluationReport
    from vtcli.runtime.distributed import Group

app = typer.Typer(
    help="Measure a model's accuracy on a dataset; score or compare runs that are there.",
    invoke_without_command=True,
)

Format = Literal["table", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory of vt eval.")]
ALL_SPLITS = "all"


@app.callback()
def eval_(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME|PATH",
            help="A known dataset (vt datasets list), a folder of class folders, or an annotation.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            metavar="DIR",
            help="Where the videos are.",
            show_default="$VT_DATA/NAME, or beside the annotation",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A model or checkpoint id, a .safetensors file, or hf://org/repo.",
            show_default="the best known one for the dataset",
        ),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            "--views",
            metavar="CLIPSxCROPS",
            help="Views per video, such as 4x3; `paper` is the published protocol.",
        ),
    ] = "paper",
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="train, validation, test; 1, 2, 3 or all for UCF101 and HMDB51.",
            show_default="the one that figures are published for",
        ),
    ] = None,
    annotations: AnnotationsOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN",
            help="The run directory: scores as they come, and the report.",
            show_default="runs/DATASET-SPLIT-MODEL-VIEWS",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on with the scores that RUN holds, or refuse it."
        ),
    ] = True,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Try every failed video again.")
    ] = False,
    label_set: Annotated[
        str | None,
        typer.Option(
            "--read-as",
            help="Read a Kinetics-710 model as k400, k600 or k700.",
            show_default="the dataset",
        ),
    ] = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, fp16 or auto (as vt predict).")
    ] = "fp32",
    batch_size: BatchOption = None,
    workers: CoreWorkersOption = None,
    decoder: DecoderOption = "auto",
    format: FormatOption = "table",
) -> int:
    """Evaluate: every video once, every failure counted, nothing substituted.

    A run that was stopped goes on where it was when the same command is given again. With
    `torchrun --nproc-per-node=N -m vtcli eval ...` N processes share the work.
    """
    if context.invoked_subcommand is not None:
        return EXIT_OK
    if dataset is None:
        raise UsageError("vt eval needs --dataset, a known name, a folder or an annotation file")
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.runtime.distributed import process_group

    settings = EvalSettings(
        views=views,
        pipeline=pipeline,
        label_set=label_set,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
        decoder=decoder,
        resume=resume,
        retry_failures=retry_failures,
    )
    with process_group() as group:
        splits = _splits(dataset, data_root, split, annotations)
        # Several splits make one JSON document; tables are shown as they are known.
        shown = format if format == "table" or len(splits) == 1 else None
        reports = [
            _evaluate(
                _open(dataset, data_root, one, annotations),
                model,
                settings,
                output if len(splits) == 1 else _subfolder(output, one),
                group,
                shown,
            )
            for one in splits
        ]
        if group.is_main_process and len(reports) > 1:
            _print_splits(splits, reports, format)
        return max(reports_code(report) for report in reports) if group.is_main_process else EXIT_OK


def _splits(
    dataset: str, root: Path | None, split: str | None, annotations: str | None
) -> list[str | None]:
    """The splits to evaluate: `all` stands for the official divisions of UCF101 and HMDB51."""
    if split != ALL_SPLITS:
        return [split]
    from vtcli.data.open import list_splits

    found = [name for name in list_splits(dataset, root, annotations) if name.isdigit()]
    if not found:
        raise UsageError(f"--split all is for datasets with numbered divisions, not {dataset}")
    return list(found)


def _open(dataset: str, root: Path | None, split: str | None, annotations: str | None) -> Dataset:
    from vtcli.data.open import open_dataset

    return open_dataset(dataset, root, split, annotations)


def _subfolder(output: Path | None, split: str | None) -> Path | None:
    return None if output is None else output / f"split-{split}"


def _evaluate(
    dataset: Dataset,
    model: str | None,
    settings: EvalSettings,
    output: Path | None,
    group: Group,
    format: Format | None,
) -> EvaluationReport | None:
    """Evaluate one split, showing it unless `format` is None; the report is the first process's."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.evaluation.evaluator import Evaluator
    from vtcli.evaluation.plan import plan_evaluation
    from vtcli.report.html import write_html
    from vtcli.weights.registry import load_registry

    say = _say if group.is_main_process else _keep_quiet
    name = model or load_registry().default_for_dataset(dataset.name).id
    say(dataset.summary)
    with fetch_progress() as on_download:
        plan = plan_evaluation(dataset, name, settings, on_download)
        say(f"{plan.name}: {plan.protocol.describe()}")
        if plan.differs:
            say(f"differs from the paper's protocol: {plan.differs}")
        for warning in plan.warnings:
            say(f"warning: {warning}")
        folder = output or _default_folder(dataset, plan.name, plan.protocol.to_dict())
        evaluator = Evaluator(plan, folder, group, on_download)
    try:
        with _pace_shown(group.is_main_process) as progress:
            evaluator.run(progress)
    except (KeyboardInterrupt, SystemExit):
        say("stopped; what was scored is kept, run the same command again to go on")
        raise
    if not group.is_main_process:
        return None
    report = evaluator.conclude()
    write_html(report, folder / "report.html")
    if format:
        _print(report, format)
    say(f"report: {folder / 'report.html'}")
    return report


def _default_folder(dataset: Dataset, model: str, protocol: dict[str, Any]) -> Path:
    parts = [dataset.name, dataset.split, Path(model).stem if "/" in model else model]
    parts.append(f"{protocol['clips']}x{protocol['crops']}")
    words = [re.sub(r"[^\w.-]+", "_", part) for part in parts if part]
    return Path("runs", "-".join(words))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_quiet(line: str) -> None:
    """What the processes beside the first have to say."""


def reports_code(report: EvaluationReport | None) -> int:
    """The exit code that a report asks for."""
    assert report is not None
    if not report.failed:
        return EXIT_OK
    return EXIT_SOME_FAILED if report.read else EXIT_NO_INPUT


def _print(report: EvaluationReport, format: Format) -> None:
    from rich.console import Console

    from vtcli.evaluation.results import as_json
    from vtcli.report.evaluation import print_evaluation

    if format == "json":
        print(as_json(report.to_dict()))
    else:
        print_evaluation(report, Console())


def _print_splits(
    splits: list[str | None], reports: list[EvaluationReport | None], format: Format
) -> None:
    """The mean over all splits; in JSON each split's figures as well."""
    from rich.console import Console

    from vtcli.evaluation.metrics import mean_over_splits
    from vtcli.evaluation.results import as_json
    from vtcli.report.evaluation import print_splits

    found = {str(split): report for split, report in zip(splits, reports, strict=True) if report}
    mean = mean_over_splits([(split, report.headline) for split, report in found.items()])
    if format == "json":
        every = {split: report.to_dict() for split, report in found.items()}
        print(as_json({"splits": every, "mean": mean.to_dict()}))
    else:
        print_splits(mean, next(iter(found.values())).reported, Console())


@contextmanager
def _pace_shown(shown: bool) -> Iterator[Callable[[EvalProgress], None]]:
    """A bar on standard error, where somebody watches: pace, failures, what holds it up."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    pace_column = TextColumn("{task.fields[pace]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), pace_column)
    off = not (shown and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=off, transient=True) as bars:
        task = bars.add_task("", total=None, pace="")

        def report(pace: EvalProgress) -> None:
            words = f"{pace.done / max(pace.seconds, 1e-9):.2f} videos/s, {pace.failed} failed"
            if pace.done:
                words += f", {pace.bound}"
            bars.update(task, total=pace.total, completed=pace.done, pace=words)

        yield report


@app.command()
def rescore(
    run: RunArgument,
    views: Annotated[
        str | None,
        typer.Option(
            "--views",
            metavar="CLIPSxCROPS",
            help="Take only so many of the stored clips and crops.",
            show_default="all that are stored",
        ),
    ] = None,
    average: Annotated[
        Literal["prob", "logit"] | None,
        typer.Option(
            "--average",
            help="Average probabilities or logits over the views.",
            show_default="as in the run",
        ),
    ] = None,
    format: FormatOption = "table",
) -> int:
    """Figures of a finished run from its stored views: no model, no video."""
    from vtcli.evaluation.aggregate import rescore_run, stored_protocol
    from vtcli.evaluation.protocol import choose_views
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.video.pipeline import parse_views

    directory = RunDirectory(run)
    protocol = stored_protocol(directory.info)
    wanted = (protocol.clips, protocol.crops)
    if views is not None:
        wanted = parse_views(views, protocol.pipeline)
    report = rescore_run(directory, choose_views(protocol, *wanted), average)
    _print(report, format)
    return reports_code(report)


@app.command()
def compare(run_a: RunArgument, run_b: RunArgument, format: FormatOption = "table") -> int:
    """Compare two runs over the samples that both read: a paired test, classes won and lost."""
    from rich.console import Console

    from vtcli.evaluation.aggregate import compare_runs
    from vtcli.evaluation.results import as_json
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.evaluation import print_comparison

    found = compare_runs(RunDirectory(run_a), RunDirectory(run_b))
    if format == "json":
        print(as_json(found.to_dict()))
    else:
        print_comparison(found, str(run_a), str(run_b), Console())
    return EXIT_OK
