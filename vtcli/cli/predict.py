"""`vt predict`: the action in one video, in many, in folders of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from vtcli.cli.options import (
    DEFAULT_MODEL,
    BatchOption,
    DecoderOption,
    DeviceOption,
    ModelOption,
    OutputOption,
    PipelineOption,
    PrecisionOption,
    ViewsOption,
    WorkersOption,
    format_of,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED

Format = Literal["table", "json", "jsonl", "csv"]


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Video files, folders or patterns.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    topk: Annotated[int, typer.Option("--topk", "-k", min=1, help="Classes per video.")] = 5,
    views: ViewsOption = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="How to print.", show_default="table, or by -o's ending"),
    ] = None,
    output: OutputOption = None,
    read_as: Annotated[
        str | None,
        typer.Option("--read-as", help="Read a Kinetics-710 model as k400, k600 or k700."),
    ] = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchOption = None,
    workers: WorkersOption = 1,
    decoder: DecoderOption = "auto",
) -> int:
    """Say which action a video shows."""
    from vtcli.cli.progress import fetch_progress, file_progress
    from vtcli.engine.predictor import Predictor, find_videos
    from vtcli.report.predictions import make_writer, open_output

    chosen = format or format_of(output, get_args(Format))
    paths = find_videos(sources)
    with fetch_progress() as fetching:
        predictor = Predictor(
            model,
            topk,
            views,
            device,
            precision,
            batch_size,
            workers,
            decoder=decoder,
            read_as=read_as,
            pipeline=pipeline,
            progress=fetching,
        )
        outcomes = predictor.start(paths)
    answered = 0
    with open_output(output) as stream, file_progress(len(paths), output is not None) as advance:
        writer = make_writer(chosen, stream, predictor.header)
        for number, outcome in enumerate(outcomes, 1):
            writer.add(outcome)
            answered += not outcome.failed
            if outcome.failed:
                print(f"vt: error: {outcome.error}", file=sys.stderr)
            advance(Path(outcome.path).name, number, None)
        writer.close()
    if answered == len(paths):
        return EXIT_OK
    return EXIT_SOME_FAILED if answered else EXIT_NO_INPUT
