"""Options that several commands share: the same names, short forms and defaults everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write the answer to this file instead of standard output."
    ),
]
