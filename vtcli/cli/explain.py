"""`vt explain`: which parts of which frames count for a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import (
    DEFAULT_MODEL,
    DecoderOption,
    DeviceOption,
    FormatOption,
    LabelSetOption,
    ModelOption,
    PipelineOption,
    TimeoutOption,
    file_output_option,
)
from vtcli.errors import EXIT_OK
from vtcli.video import TIMEOUT_SECONDS


def explain(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Video file.")],
    output: Annotated[Path, file_output_option("OUT.png|.mp4|.html")],
    model: ModelOption = DEFAULT_MODEL,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="Class to explain.", show_default="the best one"
        ),
    ] = None,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    format: FormatOption = "table",
) -> int:
    """Show which parts of a video count for a class: integrated gradients over the frames.

    The check leaves out the most important tenth of the picture in space and
    time, and a random tenth: the score must fall more without the first.
    """
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.inference.explain import explain as explain_video
    from vtcli.inference.predictor import Predictor, PredictSettings
    from vtcli.report.explain import check_output, in_words, write_explanation

    check_output(output)
    settings = PredictSettings(
        device=device,
        precision="fp32",
        workers=1,
        decoder=decoder,
        label_set=label_set,
        pipeline=pipeline,
        timeout=timeout,
    )
    with (
        fetch_progress() as on_download,
        Predictor(model, settings, on_download=on_download) as predictor,
    ):
        with working(f"explaining {Path(source).name}"):
            explanation = explain_video(predictor, source, class_name)
        write_explanation(explanation, output)
    if format == "json":
        print(json.dumps({**predictor.header, **explanation.to_dict()}, ensure_ascii=False))
    else:
        print("\n".join(in_words(explanation)))
    other = command("explain", source, "-m", model, "--class", "CLASS", "-o", output)
    print_next(f"{other}  # why not another class", format=format)
    return EXIT_OK
