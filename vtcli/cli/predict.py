"""`vt predict`: the action in one video, in many, in folders of them, or at each moment of a long
one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

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
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, DataError, UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from vtcli.inference.results import Failure, VideoPrediction
    from vtcli.inference.windows import Timeline
    from vtcli.runtime.progress import ProgressCallback

    Outcome: TypeAlias = VideoPrediction | Timeline | Failure

Format = Literal["table", "json", "jsonl", "csv", "srt", "vtt", "activitynet"]
ONLY_TIMELINES = ("srt", "vtt", "activitynet")
ONE_VIDEO = ("srt", "vtt")


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Video files, folders or patterns.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    topk: Annotated[
        int, typer.Option("--topk", "-k", min=1, help="Classes per video (or window).")
    ] = 5,
    views: ViewsOption = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="TIME",
            help="Say what happens when: look at windows of this length (2s, 500ms, 00:01:30).",
            show_default="the whole video at once",
        ),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            "--stride",
            metavar="TIME",
            help="A window begins this long after the one before.",
            show_default="the window's length",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=0.0,
            max=1.0,
            help="Windows whose best class has less are left out.",
            show_default="0",
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            "--annotate", metavar="OUT.mp4", help="Write the video with the answer drawn into it."
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="How to print; srt, vtt and activitynet need --window.",
            show_default="table, or by -o's ending",
        ),
    ] = None,
    output: OutputOption = None,
    label_set: Annotated[
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
    """Say which action a video shows or, with --window, what happens when."""
    from vtcli.cli.progress import file_progress
    from vtcli.inference.inputs import find_videos
    from vtcli.inference.results import Failure
    from vtcli.report.predictions import make_writer, open_output
    from vtcli.report.timeline import make_timeline_writer

    chosen = format or format_of(output, get_args(Format))
    paths = find_videos(sources)
    times = _times(window, stride, min_score, chosen, len(paths))
    _check_outputs(output, annotate, paths)
    settings = {
        "topk": topk,
        "views": views,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "workers": workers,
        "decoder": decoder,
        "label_set": label_set,
        "pipeline": pipeline,
    }
    last: Outcome | None = None
    answered = 0
    with _steps_shown() as on_step:
        header, outcomes = _start(model, paths, settings, times, on_step)
        # Windows have a bar of their own.
        files = 0 if times else len(paths)
        with open_output(output) as stream, file_progress(files, output is not None) as advance:
            writer = (make_timeline_writer if times else make_writer)(chosen, stream, header)
            for number, last in enumerate(outcomes, 1):
                if isinstance(last, Failure) and chosen in ONE_VIDEO:
                    raise last.error  # such a file has no place for it: what was there stays
                writer.add(last)
                answered += not last.failed
                _tell(last)
                advance(Path(last.path).name, number, None)
            writer.close()
        if annotate is not None and last is not None:
            _annotate(last, annotate, on_step)
    if answered == len(paths):
        return EXIT_OK
    return EXIT_SOME_FAILED if answered else EXIT_NO_INPUT


def _times(
    window: str | None, stride: str | None, min_score: float | None, format: str, files: int
) -> dict[str, float]:
    """What a timeline is made with; nothing where none is asked for.

    Raises `UsageError` for options that do not belong together.
    """
    from vtcli.inference.windows import parse_duration

    if window is not None:
        if format in ONE_VIDEO and files > 1:
            raise UsageError(f"--format {format} is for one video, not {files}; run it for each")
        length = parse_duration(window, "--window")
        return {
            "window": length,
            "stride": length if stride is None else parse_duration(stride, "--stride"),
            "min_score": min_score or 0.0,
        }
    for name, is_given in (
        ("--stride", stride is not None),
        ("--min-score", min_score is not None),
        (f"--format {format}", format in ONLY_TIMELINES),
    ):
        if is_given:
            raise UsageError(f"{name} is for timelines; say how long a window is, as --window 2s")
    return {}


def _check_outputs(output: Path | None, drawn: Path | None, paths: Sequence[str]) -> None:
    """Raises before anything is computed where an output would be in the way, or could not be
    written in the end.
    """
    taken = {Path(path).resolve() for path in paths}
    for name, path in (("--output", output), ("--annotate", drawn)):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UsageError(f"{name} would overwrite {path}; give it another name")
        taken.add(path.resolve())
    if drawn is None:
        return
    if len(paths) != 1:
        raise UsageError(f"--annotate is for one video, not {len(paths)}; run it for each")
    if not drawn.name or drawn.is_dir():
        raise UsageError(
            f"--annotate writes one MP4 file; '{drawn}' is a folder, name a file in it"
        )
    if drawn.suffix.lower() != ".mp4":
        raise UsageError(f"--annotate writes MP4; call it {drawn.with_suffix('.mp4')}")
    if not drawn.parent.is_dir():
        raise DataError(f"cannot write {drawn}: there is no folder {drawn.parent}; make it first")


def _start(
    model: str,
    paths: Sequence[str],
    settings: Mapping[str, Any],
    times: Mapping[str, float],
    on_step: ProgressCallback,
) -> tuple[Mapping[str, Any], Iterator[Outcome]]:
    """What the answers are made with, and the answers as they come."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.timeline import TimelinePredictor

    with fetch_progress() as on_download:
        if times:
            timeliner = TimelinePredictor(
                model, **times, on_window=on_step, **settings, progress=on_download
            )
            timelines = timeliner.timelines(paths)
            return timeliner.header, timelines
        predictor = Predictor(model, **settings, progress=on_download)
        outcomes = predictor.start(paths)
        return predictor.header, outcomes


def _tell(outcome: Outcome) -> None:
    """On standard error what failed, and what somebody might not expect."""
    if outcome.failed:
        print(f"vt: error: {outcome.error}", file=sys.stderr)
    elif note := getattr(outcome, "note", ""):
        print(f"vt: note: {note}", file=sys.stderr)


def _annotate(outcome: Outcome, target: Path, on_step: ProgressCallback) -> None:
    """Draw an answer into its video; nothing for a file that has none."""
    from vtcli.inference.results import Failure
    from vtcli.inference.windows import Timeline, full_video_segment
    from vtcli.runtime.files import atomic_write
    from vtcli.video.overlay import annotate

    if isinstance(outcome, Failure):
        return
    segments = outcome.segments if isinstance(outcome, Timeline) else [full_video_segment(outcome)]
    with atomic_write(target, make_folder=False) as part:
        annotate(outcome.info, segments, part, on_step)


@contextmanager
def _steps_shown() -> Iterator[ProgressCallback]:
    """A callback for windows and frames of one file; its bar shows from the first to the last.

    Between files nothing shows, so that answers on the same terminal are not disturbed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    name_column = TextColumn("{task.description}", markup=False)
    columns = (name_column, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)

    task = bars.add_task("", total=None)

    def stop() -> None:
        # A bar that never started would still end with an empty line.
        if bars.live.is_started:
            bars.stop()

    def report(name: str, done: int, total: int | None) -> None:
        if sys.stderr.isatty() and not bars.live.is_started:
            bars.reset(task, total=total, description=Path(name).name)
            bars.start()
        bars.update(task, description=Path(name).name, completed=done, total=total)
        if done == total:
            stop()

    try:
        yield report
    finally:
        stop()
