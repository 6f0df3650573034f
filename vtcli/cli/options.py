"""Options that several commands share: the same names, short forms and defaults everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from vtcli.errors import UsageError

DEFAULT_MODEL = "uniformerv2-b"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model or checkpoint id (see `vt models list`), a converted .safetensors file, or hf://org/repo.",
        show_default=DEFAULT_MODEL,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, fp32, bf16 or fp16; auto is bf16 where the hardware multiplies it.",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        min=1,
        help="Views per forward pass; chosen for the device if not given.",
    ),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", "-j", min=1, help="Threads that decode files ahead.")
]
CoreWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        min=1,
        help="Threads that decode ahead.",
        show_default="one per core",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write the answer to this file instead of standard output."
    ),
]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        "--views",
        metavar="CLIPSxCROPS",
        help="Views per video, such as 4x3; `paper` is the published protocol.",
        show_default="1x1, the center view",
    ),
]
DecoderOption = Annotated[
    Literal["auto", "pyav", "decord"],
    typer.Option("--decoder", help="auto is PyAV; decord reads only what it gets right."),
]
PipelineOption = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        help="Sample and prepare frames as another pipeline of the registry does.",
        show_default="the checkpoint's own",
    ),
]


def format_of(output: Path | None, formats: Sequence[str]) -> str:
    """The format an output file's ending asks for, .txt being a table; a table on the terminal.

    Raises `UsageError` for an ending that no format has.
    """
    if output is None:
        return "table"
    endings = {".txt" if name == "table" else f".{name}": name for name in formats}
    if output.suffix.lower() not in endings:
        listed = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise UsageError(f"{output} has no known ending; say --format {listed}")
    return endings[output.suffix.lower()]
