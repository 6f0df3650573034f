"""`vt eval`: a model's accuracy on a labeled dataset, by the published protocol or another."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vtcli.cli.options import (
    AnnotationsOption,
    BatchSizeOption,
    CoreWorkersOption,
    DataRootOption,
    DecoderOption,
    DeviceOption,
    FormatOption,
    LabelSetOption,
    PipelineOption,
    PrecisionOption,
    ResumeOption,
    StrictOption,
    TimeoutOption,
    dataset_option,
    file_output_option,
    model_option,
    run_output_option,
    split_option,
    views_option,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from vtcli.data.samples import Dataset
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.evaluation.results import EvaluationReport
    from vtcli.runtime.distributed import Group

app = typer.Typer(
    help="Evaluate a model on a labeled dataset; rescore, export, calibrate or compare runs.",
    invoke_without_command=True,
)

Format = Literal["table", "json"]
ALL_SPLITS = "all"
_MOST_WARNINGS = 5


def run_argument(metavar: str) -> Any:
    """An argument that names a finished run."""
    return typer.Argument(metavar=metavar, help="Run directory written by `vt eval`.")


@dataclass(frozen=True)
class _Source:
    """A dataset as the options name it."""

    dataset: str
    data_root: Path | None
    split: str | None
    annotations: str | None

    def splits(self) -> list[str | None]:
        """The splits to evaluate; `all` stands for the official ones of UCF101 and HMDB51."""
        if self.split != ALL_SPLITS:
            return [self.split]
        from vtcli.data.open import list_splits

        names = list_splits(self.dataset, self.data_root, self.annotations)
        numbered = [name for name in names if name.isdigit()]
        if not numbered:
            raise UsageError(
                f"--split all needs a dataset with numbered splits, and {self.dataset} has none; "
                "name one split"
            )
        return list(numbered)

    def open(self, split: str | None) -> Dataset:
        """One split of it."""
        from vtcli.data.open import open_dataset

        return open_dataset(self.dataset, self.data_root, split, self.annotations)


@dataclass(frozen=True)
class _Job:
    """What to evaluate on every split; `show` is how each report is printed, None if it is not."""

    model: str | None
    settings: EvalSettings
    output: Path | None
    group: Group
    show: Format | None


@app.callback()
def eval_(
    context: typer.Context,
    dataset: Annotated[str | None, dataset_option()] = None,
    data_root: DataRootOption = None,
    model: Annotated[str | None, model_option("the best checkpoint for the dataset")] = None,
    views: Annotated[str, views_option()] = "paper",
    split: Annotated[
        str | None,
        split_option(
            "the one that published results use",
            "Split: train, validation or test; 1, 2, 3 or all for UCF101 and HMDB51.",
        ),
    ] = None,
    annotations: AnnotationsOption = None,
    output: Annotated[
        Path | None, run_output_option("a folder in runs/ named by the options")
    ] = None,
    resume: ResumeOption = True,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Try every failed video again.")
    ] = False,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: CoreWorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    strict: StrictOption = False,
    format: FormatOption = "table",
) -> int:
    """Evaluate a model on a labeled dataset; rescore, export, calibrate or compare runs.

    Every video is decoded once, every failure is counted, and nothing is
    substituted. The same command resumes an interrupted run. With
    `torchrun --nproc-per-node=N -m vtcli eval ...`, N processes share the work.
    """
    if context.invoked_subcommand is not None:
        return EXIT_OK
    if dataset is None:
        raise UsageError("vt eval needs --dataset: a dataset name, a folder or an annotation file")
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.runtime.distributed import INDEPENDENT_WORK_TIMEOUT, process_group

    source = _Source(dataset, data_root, split, annotations)
    settings = EvalSettings(
        views=views,
        pipeline=pipeline,
        label_set=label_set,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
        timeout=timeout,
        strict=strict,
        decoder=decoder,
        resume=resume,
        retry_failures=retry_failures,
    )
    with process_group(INDEPENDENT_WORK_TIMEOUT) as group:
        splits = source.splits()
        # Several splits make one JSON document; tables are printed one by one.
        show = format if format == "table" or len(splits) == 1 else None
        job = _Job(model, settings, output, group, show)
        reports = [_evaluate(source.open(name), _folder(job, splits, name), job) for name in splits]
        if not group.is_main_process:
            return EXIT_OK
        if len(reports) > 1:
            _print_splits(splits, reports, format)
        return max(_exit_code(report) for report in reports)


def _folder(job: _Job, splits: list[str | None], split: str | None) -> Path | None:
    """The run directory of one split; each of several has a folder of its own inside --output."""
    if job.output is None or len(splits) == 1:
        return job.output
    return job.output / f"split-{split}"


def _evaluate(dataset: Dataset, output: Path | None, job: _Job) -> EvaluationReport | None:
    """Evaluate one split; only the main process has a report."""
    from vtcli.cli.progress import eval_progress, fetch_progress
    from vtcli.evaluation.evaluator import Evaluator
    from vtcli.evaluation.plan import plan_evaluation
    from vtcli.report.html import write_html
    from vtcli.weights.registry import load_registry

    is_main = job.group.is_main_process
    log = _log if is_main else _log_nothing
    name = job.model or load_registry().default_for_dataset(dataset.name).id
    log(dataset.summary)
    with fetch_progress() as on_download:
        plan = plan_evaluation(dataset, name, job.settings, on_download)
        log(f"{plan.name}: {plan.protocol.describe()}")
        if plan.differs:
            log(f"differs from the paper's protocol: {plan.differs}")
        for warning in plan.warnings:
            log(f"warning: {warning}")
        folder = output or _default_folder(dataset, plan.name, plan.protocol.to_dict())
        evaluator = Evaluator(plan, folder, job.group, on_download)
    try:
        with eval_progress(is_main) as on_progress:
            evaluator.run(on_progress)
    except (KeyboardInterrupt, SystemExit):
        log("stopped; the scores so far are saved, run the same command again to resume")
        raise
    if not is_main:
        return None
    _log_damage(evaluator.progress.damaged)
    report = evaluator.conclude()
    write_html(report, folder / "report.html")
    if job.show:
        _print(report, job.show)
    log(f"report: {folder / 'report.html'}")
    return report


def _default_folder(dataset: Dataset, model: str, protocol: dict[str, Any]) -> Path:
    parts = [dataset.name, dataset.split, Path(model).stem if "/" in model else model]
    parts.append(f"{protocol['clips']}x{protocol['crops']}")
    words = [re.sub(r"[^\w.-]+", "_", part) for part in parts if part]
    return Path("runs", "-".join(words))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _log_damage(damaged: Mapping[str, Sequence[str]]) -> None:
    """One line per video that was scored although it shows signs of damage; the first few."""
    for name, warnings in list(damaged.items())[:_MOST_WARNINGS]:
        _log(f"vt: warning: {name}: {'; '.join(warnings)}")
    if len(damaged) > _MOST_WARNINGS:
        _log(f"vt: warning: {len(damaged) - _MOST_WARNINGS} more videos show signs of damage")


def _log_nothing(line: str) -> None:
    """Only the main process logs."""


def _exit_code(report: EvaluationReport | None) -> int:
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
    """Print the mean over all splits; in JSON the report of each split as well."""
    from rich.console import Console

    from vtcli.evaluation.metrics import mean_over_splits
    from vtcli.evaluation.results import as_json
    from vtcli.report.evaluation import print_splits

    found = {str(split): report for split, report in zip(splits, reports, strict=True) if report}
    mean = mean_over_splits([(split, report.headline) for split, report in found.items()])
    if format == "json":
        by_split = {split: report.to_dict() for split, report in found.items()}
        print(as_json({"splits": by_split, "mean": mean.to_dict()}))
    else:
        print_splits(mean, next(iter(found.values())).reported, Console())


@app.command()
def rescore(
    run: Annotated[Path, run_argument("RUN")],
    views: Annotated[str | None, views_option("all stored views")] = None,
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
    """Compute the metrics of a finished run from its stored scores, without model or videos."""
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
    return _exit_code(report)


@app.command()
def export(
    run: Annotated[Path, run_argument("RUN")],
    output: Annotated[Path, file_output_option("FILE.npz|FILE.parquet")],
) -> int:
    """Write the scores of every view of a finished run to one NumPy or Parquet file."""
    from vtcli.evaluation.export import export_scores
    from vtcli.evaluation.run_directory import RunDirectory

    exported = export_scores(RunDirectory(run), output)
    words = f"{len(exported.samples):,} videos x {exported.views} views"
    if exported.failed:
        words += f"; {exported.failed:,} videos that could not be read are left out"
    _log(f"{output}: {words}")
    return EXIT_OK


@app.command()
def calibrate(
    run: Annotated[Path, run_argument("RUN")],
    output: Annotated[Path, file_output_option("FILE.safetensors")],
    model: Annotated[str | None, model_option("the model of the run")] = None,
) -> int:
    """Fit temperature, abstention and conformal sets to a run; store them in a copy of the model.

    Use a run on videos that the model was not trained on, such as a validation split.
    """
    from rich.console import Console

    from vtcli.cli.progress import fetch_progress
    from vtcli.evaluation.calibrate import calibrate_run
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.confidence import calibration_table

    with fetch_progress() as on_download:
        heads = calibrate_run(RunDirectory(run), output, model, on_download)
    rows = [(head.name, head.entry["temperature"], head.before, head.after) for head in heads]
    Console().print(calibration_table(rows))
    _log(f"{output}: calibrated on {heads[0].entry['samples']:,} videos")
    return EXIT_OK


@app.command()
def compare(
    run_a: Annotated[Path, run_argument("RUN_A")],
    run_b: Annotated[Path, run_argument("RUN_B")],
    format: FormatOption = "table",
) -> int:
    """Compare two runs on the samples that both read: paired test, classes that differ most."""
    from rich.console import Console

    from vtcli.evaluation.aggregate import compare_runs
    from vtcli.evaluation.results import as_json
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.evaluation import print_comparison

    comparison = compare_runs(RunDirectory(run_a), RunDirectory(run_b))
    if format == "json":
        print(as_json(comparison.to_dict()))
    else:
        print_comparison(comparison, str(run_a), str(run_b), Console())
    return EXIT_OK
