"""`vt profile`: parameters, multiply-accumulates, speed and memory of models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from vtcli.cli.options import (
    BY_EXTENSION,
    CompileOption,
    DeviceOption,
    OutputOption,
    batch_size_option,
    format_of,
    format_option,
    model_option,
    precision_option,
)
from vtcli.cli.suggestions import complete_model
from vtcli.errors import EXIT_OK, EXIT_OUT_OF_MEMORY

Format = Literal["table", "json", "csv"]


def profile(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN",
            help="Shell patterns for model ids, such as 'xvit*'.",
            autocompletion=complete_model,
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        model_option("each architecture's default model", several=True),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Profile every model of the registry.")
    ] = False,
    timed: Annotated[
        bool | None,
        typer.Option(
            "--time/--no-time",
            help="Measure speed and memory on this machine.",
            show_default="only for models named with -m",
        ),
    ] = None,
    batch_sizes: Annotated[list[int] | None, batch_size_option("1", several=True)] = None,
    precisions: Annotated[list[str] | None, precision_option("auto", several=True)] = None,
    device: DeviceOption = "auto",
    layers: Annotated[
        bool, typer.Option("--layers", help="Break cost and time down by block.")
    ] = False,
    compiled: CompileOption = False,
    clip: Annotated[
        Path | None,
        typer.Option(
            "--clip", metavar="VIDEO", help="Also measure how fast this video is decoded."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Plot published accuracy against cost as a .png or .svg file.",
        ),
    ] = None,
    format: Annotated[Format | None, format_option(BY_EXTENSION)] = None,
    output: OutputOption = None,
) -> int:
    """Report parameters, MACs and FLOPs of models, and measure their speed and memory here."""
    from vtcli import profiling
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.report.plot import check_plot, draw_accuracy
    from vtcli.report.predictions import open_output
    from vtcli.report.profile import write_profiles

    chosen = format or format_of(output, get_args(Format))
    if plot is not None:
        check_plot(plot)
    with working("finding the models"), fetch_progress() as on_download:
        subjects = profiling.select_models(models or (), patterns or (), everything, on_download)
    options = profiling.ProfileSettings(
        device=device,
        precisions=tuple(precisions or ("auto",)),
        batch_sizes=tuple(batch_sizes or (1,)),
        timed=bool(models) and not everything if timed is None else timed,
        blocks=layers,
        compiled=compiled,
        video=clip,
    )
    with working("measuring" if options.timed else "counting operations", "models") as task:
        report = profiling.profile(subjects, options, task.update)
    tables = [p.to_dict() for p in report.profiles]
    with open_output(output) as stream:
        write_profiles(stream, chosen, tables, report.header, layers)
    if plot is not None:
        draw_accuracy(plot, tables)
    failures = [failure for p in report.profiles for failure in p.failures]
    for failure in failures:
        print(f"vt: error: {failure}", file=sys.stderr)
    ids = [table["id"] for table in tables[:1]]
    if options.timed:
        print_next(*(command("predict", "VIDEO", "-m", id_) for id_ in ids), format=chosen)
    else:
        print_next(*(command("profile", "-m", id_) for id_ in ids), format=chosen)
    return EXIT_OUT_OF_MEMORY if failures else EXIT_OK
