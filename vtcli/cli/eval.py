"""`vt eval`: a model's accuracy on a labeled dataset, by the published protocol or another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtcli.cli.eval_events import (
    EventOptions,
    evaluate_events,
    predict_settings,
)
from vtcli.cli.eval_output import Format, exit_code, log, print_report, print_splits
from vtcli.cli.eval_runs import calibrate, compare, export, rescore
from vtcli.cli.options import (
    AnnotationsOption,
    BatchSizeOption,
    CompileOption,
    DataRootOption,
    DecoderOption,
    DeviceOption,
    EventRuleOption,
    EventsOption,
    FormatOption,
    LabelSetOption,
    PipelineOption,
    PrecisionOption,
    ResumeOption,
    StrictOption,
    StrideOption,
    TimeoutOption,
    WindowOption,
    WorkersOption,
    dataset_option,
    model_option,
    retry_failures_option,
    run_output_option,
    split_option,
    views_option,
)
from vtcli.errors import EXIT_OK, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from vtcli.cli.live import Task
    from vtcli.data.samples import Dataset
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.evaluation.results import EvaluationReport
    from vtcli.runtime.distributed import Group

app = typer.Typer(
    help="Evaluate a model on a labeled dataset; rescore, export, calibrate or compare runs.",
    invoke_without_command=True,
)
for finished_run_command in (rescore, export, calibrate, compare):
    app.command()(finished_run_command)

ALL_SPLITS = "all"
_MOST_WARNINGS = 5


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
    task: Task


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
    retry_failures: Annotated[bool, retry_failures_option()] = False,
    events: EventsOption = False,
    window: WindowOption = None,
    stride: StrideOption = None,
    event_rule: EventRuleOption = None,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    compile: CompileOption = False,
    workers: WorkersOption = None,
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
    asked = EventOptions(events, window, stride, event_rule)
    asked.check(model)
    from vtcli.cli.progress import working
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
        compile=compile,
    )
    if events:
        settings_of_events = predict_settings(settings)
        opened = source.open(split)
        return evaluate_events(opened, str(model), settings_of_events, asked, output, format)
    with process_group(INDEPENDENT_WORK_TIMEOUT) as group, working(f"reading {dataset}") as task:
        splits = source.splits()
        # Several splits make one JSON document; tables are printed one by one.
        show = format if format == "table" or len(splits) == 1 else None
        job = _Job(model, settings, output, group, show, task)
        reports = [_evaluate(source.open(name), _folder(job, splits, name), job) for name in splits]
        if not group.is_main_process:
            return EXIT_OK
        if len(reports) > 1:
            print_splits(splits, reports, format)
        return max(exit_code(report) for report in reports)


def _folder(job: _Job, splits: list[str | None], split: str | None) -> Path | None:
    """The run directory of one split; each of several has a folder of its own inside --output."""
    if job.output is None or len(splits) == 1:
        return job.output
    return job.output / f"split-{split}"


def _evaluate(dataset: Dataset, output: Path | None, job: _Job) -> EvaluationReport | None:
    """Evaluate one split; only the main process has a report."""
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import eval_progress, fetch_progress
    from vtcli.evaluation.evaluator import Evaluator
    from vtcli.evaluation.plan import plan_evaluation
    from vtcli.report.html import write_html
    from vtcli.weights.registry import load_registry

    is_main = job.group.is_main_process
    say = log if is_main else _log_nothing
    name = job.model or load_registry().default_for_dataset(dataset.name).id
    say(dataset.summary)
    job.task.say(f"loading {name}")
    with fetch_progress() as on_download:
        plan = plan_evaluation(dataset, name, job.settings, on_download)
        for warning in plan.warnings:
            say(f"warning: {warning}")
        folder = output or _default_folder(dataset, plan.name, plan.protocol.to_dict())
        evaluator = Evaluator(plan, folder, job.group, on_download)
    plan = evaluator.plan  # says what `--precision auto` is here
    say(f"{plan.name}: {plan.protocol.describe()}")
    if plan.differs:
        say(f"differs from the paper's protocol: {plan.differs}")
    try:
        with eval_progress() as on_progress:
            evaluator.run(on_progress)
    except (KeyboardInterrupt, SystemExit):
        say("stopped; the scores so far are saved, run the same command again to resume")
        raise
    if not is_main:
        return None
    _log_damage(evaluator.progress.damaged)
    if not evaluator.done:
        say(f"{folder} is complete: no video was left to score")
    job.task.say("computing the metrics")
    report = evaluator.conclude()
    write_html(report, folder / "report.html")
    if job.show:
        print_report(report, job.show)
    say(f"report: {folder / 'report.html'}")
    print_next(
        command("eval", "compare", folder, "OTHER_RUN"),
        command("eval", "rescore", folder, "--views", "1x1"),
        format=job.show,
    )
    return report


def _default_folder(dataset: Dataset, model: str, protocol: dict[str, Any]) -> Path:
    parts = [dataset.name, dataset.split, Path(model).stem if "/" in model else model]
    parts.append(f"{protocol['clips']}x{protocol['crops']}")
    words = [re.sub(r"[^\w.-]+", "_", part) for part in parts if part]
    return Path("runs", "-".join(words))


def _log_damage(damaged: Mapping[str, Sequence[str]]) -> None:
    """One line per video that was scored although it shows signs of damage; the first few."""
    for name, warnings in list(damaged.items())[:_MOST_WARNINGS]:
        log(f"vt: warning: {name}: {'; '.join(warnings)}")
    if len(damaged) > _MOST_WARNINGS:
        log(f"vt: warning: {len(damaged) - _MOST_WARNINGS} more videos show signs of damage")


def _log_nothing(line: str) -> None:
    """Only the main process logs."""
