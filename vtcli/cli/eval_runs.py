"""Commands on finished runs of `vt eval`: rescore, export, calibrate and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vtcli.cli.eval_events import calibrate_event_run
from vtcli.cli.eval_output import exit_code, log, print_report
from vtcli.cli.options import (
    FormatOption,
    file_output_option,
    model_option,
    run_argument,
    views_option,
)
from vtcli.errors import EXIT_OK


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
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import working
    from vtcli.evaluation.aggregate import rescore_run, stored_protocol
    from vtcli.evaluation.protocol import choose_views
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.video.pipeline import parse_views

    directory = RunDirectory(run)
    protocol = stored_protocol(directory.info)
    wanted = (protocol.clips, protocol.crops)
    if views is not None:
        wanted = parse_views(views, protocol.pipeline)
    with working(f"reading {run}", "videos") as task:
        subset = choose_views(protocol, *wanted)
        report = rescore_run(directory, subset, average, task.update)
    print_report(report, format)
    print_next(command("eval", "compare", run, "OTHER_RUN"), format=format)
    return exit_code(report)


def export(
    run: Annotated[Path, run_argument("RUN")],
    output: Annotated[Path, file_output_option("FILE.npz|FILE.parquet")],
) -> int:
    """Write the scores of every view of a finished run to one NumPy or Parquet file."""
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import working
    from vtcli.evaluation.export import export_scores
    from vtcli.evaluation.run_directory import RunDirectory

    with working(f"reading {run}", "videos") as task:
        exported = export_scores(RunDirectory(run), output, task.update)
    words = f"{len(exported.samples):,} videos x {exported.views} views"
    if exported.failed:
        words += f"; {exported.failed:,} videos that could not be read are left out"
    log(f"{output}: {words}")
    print_next(command("eval", "calibrate", run, "-o", "calibrated.safetensors"))
    return EXIT_OK


def calibrate(
    run: Annotated[Path, run_argument("RUN")],
    output: Annotated[Path, file_output_option("FILE.safetensors")],
    model: Annotated[str | None, model_option("the model of the run")] = None,
    views: Annotated[
        bool,
        typer.Option("--views", help="Also learn when vt predict --views auto may stop."),
    ] = False,
) -> int:
    """Fit temperature, abstention and conformal sets to a run; store them in a copy of the model.

    Use a run on videos that the model was not trained on, such as a validation split.
    For a run of `vt eval --events`, fit the rule that finds events instead.
    """
    from vtcli.evaluation.event_calibration import is_event_run

    if is_event_run(run):
        return calibrate_event_run(run, output, model)
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.evaluation.calibrate import calibrate_run
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.confidence import calibration_table, stopping_table
    from vtcli.report.tables import print_whole

    with working(f"reading {run}", "videos") as task, fetch_progress() as on_bytes:
        fitted = calibrate_run(RunDirectory(run), output, model, views, on_bytes, task.update)
    heads, stopping = fitted.heads, fitted.stopping
    rows = [(head.name, head.entry["temperature"], head.before, head.after) for head in heads]
    print_whole(calibration_table(rows))
    if stopping is not None:
        print_whole(stopping_table(stopping))
    log(f"{output}: calibrated on {heads[0].entry['samples']:,} videos")
    option = ("--abstain", "0.05") if stopping is None else ("--views", "auto")
    print_next(command("predict", "VIDEO", "-m", output, *option))
    return EXIT_OK


def compare(
    run_a: Annotated[Path, run_argument("RUN_A")],
    run_b: Annotated[Path, run_argument("RUN_B")],
    format: FormatOption = "table",
) -> int:
    """Compare two runs on the samples that both read: paired test, classes that differ most."""
    from rich.console import Console

    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import working
    from vtcli.evaluation.aggregate import compare_runs
    from vtcli.evaluation.results import as_json
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.evaluation import print_comparison

    with working(f"reading {run_a} and {run_b}", "videos") as task:
        comparison = compare_runs(RunDirectory(run_a), RunDirectory(run_b), task.update)
    if format == "json":
        print(as_json(comparison.to_dict()))
    else:
        print_comparison(comparison, str(run_a), str(run_b), Console())
    print_next(command("eval", "export", run_b, "-o", "scores.npz"), format=format)
    return EXIT_OK
