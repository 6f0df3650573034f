"""`vt profile`: what models cost, and how fast they run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from vtcli.cli.options import DeviceOption, OutputOption, format_of
from vtcli.errors import EXIT_OK, EXIT_OUT_OF_MEMORY

Format = Literal["table", "json", "csv"]


def profile(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="Shell patterns on ids, such as 'xvit*'."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model or checkpoint id, a converted .safetensors file, or hf://org/repo. "
            "May be repeated.",
            show_default="each architecture's default model",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole registry.")] = False,
    timed: Annotated[
        bool | None,
        typer.Option(
            "--time/--no-time",
            help="Measure speed and memory here, not only count.",
            show_default="only models named with -m",
        ),
    ] = None,
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            help="Views per forward pass. May be repeated.",
            show_default="1",
        ),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="auto, fp32, bf16 or fp16. May be repeated.",
            show_default="auto",
        ),
    ] = None,
    device: DeviceOption = "auto",
    layers: Annotated[
        bool, typer.Option("--layers", help="Break cost (and time) down by block.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Time the models through torch.compile.")
    ] = False,
    clip: Annotated[
        Path | None,
        typer.Option("--clip", help="A video whose decoding is measured beside the models."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw published accuracy against cost: a .png or .svg file."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="How to print.", show_default="table, or by -o's ending"),
    ] = None,
    output: OutputOption = None,
) -> int:
    """Say what models cost and how fast they run here."""
    from vtcli import profiling
    from vtcli.cli.progress import fetch_progress, file_progress
    from vtcli.report.plot import check_plot, draw_accuracy
    from vtcli.report.predictions import open_output
    from vtcli.report.profile import write_profiles

    chosen = format or format_of(output, get_args(Format))
    if plot is not None:
        check_plot(plot)
    with fetch_progress() as on_download:
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
    with file_progress(len(subjects), True) as advance:
        report = profiling.profile(subjects, options, advance)
    tables = [p.to_dict() for p in report.profiles]
    with open_output(output) as stream:
        write_profiles(stream, chosen, tables, report.header, layers)
    if plot is not None:
        draw_accuracy(plot, tables)
    failures = [failure for p in report.profiles for failure in p.failures]
    for failure in failures:
        print(f"vt: error: {failure}", file=sys.stderr)
    return EXIT_OUT_OF_MEMORY if failures else EXIT_OK
