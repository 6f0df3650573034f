"""Options that several commands share: each name, short form and help text is stated once, here.

A default differs between commands only where the command's purpose does (`vt predict` computes in
the fastest precision, `vt eval` in fp32); it is stated in the command's signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vtcli.cli.suggestions import (
    complete_annotations,
    complete_dataset,
    complete_model,
    complete_pipeline,
    one_of,
)
from vtcli.errors import UsageError
from vtcli.runtime.files import require_place

DEFAULT_MODEL = "uniformerv2-b"
DECODING = "Decoding"
BULK = "Bulk runs (-o RUN/)"
LIVE = "Live sources (--live)"

# Options of earlier versions: the error for an unknown option suggests the new name.
RENAMED_OPTIONS = {
    "--cache-gb": "--ram-cache-gb",
    "--plan": "--dry-run",
    "--read-as": "--label-set",
    "--train": "--trainable",
}


def model_option(default: str = DEFAULT_MODEL, several: bool = False) -> Any:
    """`-m/--model`; `default` is what the help says is used without it."""
    text = "Checkpoint id or model name (`vt models list`), .safetensors file, folder or org/repo."
    if several:
        text += " May be repeated."
    return typer.Option(
        "--model", "-m", help=text, show_default=default, autocompletion=complete_model
    )


def precision_option(default: str | bool = True, several: bool = False) -> Any:
    """`--precision`."""
    text = (
        "Numeric precision: fp32, bf16, fp16, or auto (bf16 where the hardware supports it; fp32 "
        "for models below 3 million parameters on a CPU)."
    )
    if several:
        text += " May be repeated."
    return typer.Option(
        "--precision",
        help=text,
        show_default=default,
        autocompletion=one_of("auto", "fp32", "bf16", "fp16"),
    )


def batch_size_option(default: str, several: bool = False) -> Any:
    """`-b/--batch-size` of a command that runs a model without training it."""
    text = "Views per forward pass."
    if several:
        text += " May be repeated."
    return typer.Option("--batch-size", "-b", min=1, help=text, show_default=default)


def views_option(default: str | bool = True, auto: bool = False) -> Any:
    """`--views`; `auto` where it may be decided video by video."""
    text = "Views per video, such as 4x3; `paper` is the published protocol"
    return typer.Option(
        "--views",
        metavar="CLIPSxCROPS",
        help=text + (", `auto` as many as settle the top class." if auto else "."),
        show_default=default,
    )


def writable(value: Path | str | None) -> Path | str | None:
    """The value of `-o`; raises `DataError` before any work if nothing can be written there."""
    if value is not None and str(value):
        require_place(Path(value))
    return value


def output_option(metavar: str = "FILE") -> Any:
    """`-o/--output` of a command that prints."""
    text = "Write the results here, not to standard output."
    return typer.Option("--output", "-o", metavar=metavar, help=text, callback=writable)


def file_output_option(metavar: str) -> Any:
    """`-o/--output` of a command that makes one file."""
    return typer.Option("--output", "-o", metavar=metavar, help="File to write.", callback=writable)


def run_output_option(default: str | bool = True) -> Any:
    """`-o/--output` of a command that fills a run directory."""
    return typer.Option(
        "--output",
        "-o",
        metavar="RUN",
        help="Write all results to this run directory.",
        show_default=default,
    )


def retry_failures_option(panel: str | None = None) -> Any:
    """`--retry-failures`."""
    text = "Try every failed video again."
    return typer.Option("--retry-failures", help=text, rich_help_panel=panel)


def split_option(default: str, text: str = "") -> Any:
    """`--split`."""
    return typer.Option(
        "--split",
        metavar="NAME",
        help=text or "Split: train, validation or test; 1, 2 or 3 for UCF101 and HMDB51.",
        show_default=default,
    )


def format_option(default: str | bool = True) -> Any:
    """`--format`."""
    return typer.Option("--format", help="Output format.", show_default=default)


DATASET_HELP = "Dataset name (see `vt datasets list`), folder of class folders or annotation file."


def dataset_option() -> Any:
    """`--dataset` of a command that reads one."""
    return typer.Option(
        "--dataset", metavar="NAME|PATH", help=DATASET_HELP, autocompletion=complete_dataset
    )


BY_EXTENSION = "table, or the extension of -o"

SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Video files, folders or shell patterns; - reads paths from standard input.",
        show_default=False,
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="TIME",
        help="Cut each video into windows of this length: 2s, 500ms or 00:01:30.",
        show_default="the whole video at once",
    ),
]
StrideOption = Annotated[
    str | None,
    typer.Option(
        "--stride",
        metavar="TIME",
        help="Time from the start of one window to the start of the next.",
        show_default="the window's length",
    ),
]
LiveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--live",
        metavar="SOURCE",
        help="Predict a live source, by default in windows of at least 2s: - (pipe), http(s)://, "
        "rtsp://, camera:0 or a growing file. May be repeated.",
    ),
]
SaveClipsOption = Annotated[
    Path | None,
    typer.Option(
        "--save-clips",
        metavar="DIR",
        help="Save a clip of each event of --events here, as MP4 without sound.",
        rich_help_panel=LIVE,
    ),
]
PreRollOption = Annotated[
    str | None,
    typer.Option(
        "--pre-roll",
        metavar="TIME",
        help="Time before an event that its clip has.",
        show_default="2s",
        rich_help_panel=LIVE,
    ),
]
PostRollOption = Annotated[
    str | None,
    typer.Option(
        "--post-roll",
        metavar="TIME",
        help="Time after an event that its clip has.",
        show_default="2s",
        rich_help_panel=LIVE,
    ),
]
PreviewOption = Annotated[
    Path | None,
    typer.Option(
        "--preview",
        metavar="OUT.jpg",
        help="Keep the newest scored frame in this file, with its best class drawn.",
        rich_help_panel=LIVE,
    ),
]
EventsOption = Annotated[
    bool,
    typer.Option("--events", help="Find events, with nothing between them, in the windows."),
]
EventRuleOption = Annotated[
    str | None,
    typer.Option(
        "--event-rule",
        metavar="RULE",
        help="Rule of --events: on, off, margin, background, min, gap, smooth and grow.",
        show_default="the model's, or on=0.5,off=0.3",
    ),
]
FromFileOption = Annotated[
    Path | None,
    typer.Option(
        "--from-file",
        metavar="LIST",
        help="Also take the paths in a .txt, .csv, .jsonl or .parquet list.",
        rich_help_panel=BULK,
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="Column of --from-file that holds the paths.",
        show_default="path, video, file, ...",
        rich_help_panel=BULK,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Work on every N-th part only, from part I; `slurm` takes both from a job array.",
        rich_help_panel=BULK,
    ),
]
PartSizeOption = Annotated[
    int,
    typer.Option("--part-size", min=1, help="Videos per part of the folder.", rich_help_panel=BULK),
]
ModelOption = Annotated[str, model_option()]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Device to compute on: auto, cpu, cuda, cuda:N or mps.",
        autocompletion=one_of("auto", "cpu", "cuda", "mps"),
    ),
]
PrecisionOption = Annotated[str, precision_option()]
BatchSizeOption = Annotated[int | None, batch_size_option("chosen for the device")]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the model with torch.compile: a minute that pays off in long runs.",
    ),
]
GpuResizeOption = Annotated[
    bool,
    typer.Option(
        "--gpu-resize",
        help="Resize frames on the GPU, for machines with few cores per GPU.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        min=0,
        help="Processes that decode or write videos; 0 decodes in the main process, unprotected.",
        show_default="one per core",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout-per-file",
        metavar="S",
        help="Seconds after which a video whose decoder does not respond has failed.",
        rich_help_panel=DECODING,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Count a video that shows signs of damage as failed."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]
OutputOption = Annotated[Path | None, output_option()]
FormatOption = Annotated[Literal["table", "json"], format_option()]
TableFormatOption = Annotated[Literal["table", "json", "csv"], format_option()]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        help="Resume the run that -o holds; --no-resume refuses a folder that holds one.",
    ),
]
DecoderOption = Annotated[
    Literal["auto", "pyav", "decord"],
    typer.Option(
        "--decoder",
        help="Video decoder; auto is PyAV, and decord refuses files it does not decode exactly.",
        rich_help_panel=DECODING,
    ),
]
PipelineOption = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="NAME",
        help="Sample and preprocess frames as this pipeline of the registry does.",
        show_default="the checkpoint's own",
        autocompletion=complete_pipeline,
    ),
]
LabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        metavar="NAME",
        help="Restrict a Kinetics-710 model to the classes of k400, k600 or k700.",
        show_default="the dataset's classes, or all",
        autocompletion=one_of("k400", "k600", "k700"),
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder of the videos.",
        show_default="$VT_DATA/NAME, or next to the annotation",
    ),
]
AnnotationsOption = Annotated[
    str | None,
    typer.Option(
        "--annotations",
        metavar="FORMAT",
        help="Read the annotation file in this format.",
        show_default="detected",
        autocompletion=complete_annotations,
    ),
]


def format_of(output: Path | None, formats: Sequence[str]) -> str:
    """The format that the extension of an output file stands for, `.txt` being a table.

    Without a file it is a table. Raises `UsageError` for an extension that no format has.
    """
    if output is None:
        return "table"
    extensions = {".txt" if name == "table" else f".{name}": name for name in formats}
    if output.suffix.lower() not in extensions:
        listed = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise UsageError(f"{output} has no known file extension; add --format {listed}")
    return extensions[output.suffix.lower()]


def run_argument(metavar: str) -> Any:
    """An argument that names a finished run."""
    return typer.Argument(metavar=metavar, help="Run directory written by `vt eval`.")
