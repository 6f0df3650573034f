"""`vt predict`: the action in one video, in many, in folders of them, or in each window of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from vtcli.cli.options import (
    BY_EXTENSION,
    DEFAULT_MODEL,
    BatchSizeOption,
    CoreWorkersOption,
    DecoderOption,
    DeviceOption,
    LabelSetOption,
    ModelOption,
    PipelineOption,
    PrecisionOption,
    StrictOption,
    TimeoutOption,
    format_of,
    format_option,
    output_option,
    views_option,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, DataError, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from typing import TypeAlias

    from vtcli.inference.predictor import PredictSettings
    from vtcli.inference.results import Failure, VideoPrediction
    from vtcli.inference.windows import Timeline
    from vtcli.runtime.progress import ProgressCallback

    Outcome: TypeAlias = VideoPrediction | Timeline | Failure

Format = Literal["table", "json", "jsonl", "csv", "srt", "vtt", "activitynet", "parquet"]
ONLY_TIMELINES = ("srt", "vtt", "activitynet")
ONE_VIDEO = ("srt", "vtt")
BULK = "Bulk runs (-o RUN/)"


@dataclass(frozen=True)
class _Request:
    """A parsed command line; `timeline` is empty without --window."""

    model: str
    paths: Sequence[str]
    format: str
    output: Path | None
    annotate: Path | None
    timeline: Mapping[str, float]
    settings: PredictSettings


def predict(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Video files, folders or shell patterns; - reads paths from standard input.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    topk: Annotated[
        int, typer.Option("--topk", "-k", min=1, help="Number of classes per video or window.")
    ] = 5,
    views: Annotated[str | None, views_option("1x1, the center view")] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="TIME",
            help="Predict each window of this length: 2s, 500ms or 00:01:30.",
            show_default="the whole video at once",
        ),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            "--stride",
            metavar="TIME",
            help="Time from the start of one window to the start of the next.",
            show_default="the window's length",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=0.0,
            max=1.0,
            help="Leave out windows whose top-1 probability is lower.",
            show_default="0",
        ),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option(
            "--abstain",
            metavar="RATE",
            min=0.0,
            max=1.0,
            help="Answer `unknown` so that at most this fraction of the answers is wrong.",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            "--coverage",
            metavar="RATE",
            min=0.0,
            max=1.0,
            help="Also give the set of classes that has the right one with this probability.",
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            "--annotate",
            metavar="OUT.mp4",
            help="Also write the video with the predictions drawn into its frames.",
        ),
    ] = None,
    format: Annotated[Format | None, format_option(BY_EXTENSION)] = None,
    output: Annotated[str | None, output_option("FILE|RUN/")] = None,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    workers: CoreWorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    strict: StrictOption = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from-file",
            metavar="LIST",
            help="Also take the paths in a .txt, .csv or .parquet list.",
            rich_help_panel=BULK,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="Column of --from-file that holds the paths.",
            show_default="path, video, file, ...",
            rich_help_panel=BULK,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Work on every N-th part only, from part I; `slurm` takes both from a job array.",
            rich_help_panel=BULK,
        ),
    ] = None,
    part_size: Annotated[
        int,
        typer.Option(
            "--part-size", min=1, help="Videos per part of the folder.", rich_help_panel=BULK
        ),
    ] = 1000,
    retry_failures: Annotated[
        bool,
        typer.Option(
            "--retry-failures", help="Try every failed video again.", rich_help_panel=BULK
        ),
    ] = False,
    keep_logits: Annotated[
        bool,
        typer.Option(
            "--keep-logits",
            help="Also store the logits of all classes, in half precision.",
            rich_help_panel=BULK,
        ),
    ] = False,
    status: Annotated[
        Path | None,
        typer.Option(
            "--status",
            metavar="RUN",
            help="Print how far a run is, and exit.",
            rich_help_panel=BULK,
        ),
    ] = None,
) -> int:
    """Classify the action in a video: one file, one model name, top-5 labels.

    With --window, classify each window of it: a timeline, also as srt, vtt or
    activitynet.
    """
    from vtcli.cli import bulk
    from vtcli.inference.inputs import find_videos, iter_list
    from vtcli.inference.predictor import PredictSettings

    if status is not None:
        return bulk.print_status(status, format == "json")
    if not sources and from_file is None:
        raise UsageError("there is nothing to predict; name video files or folders")
    settings = PredictSettings(
        topk=topk,
        views=views,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        decoder=decoder,
        label_set=label_set,
        pipeline=pipeline,
        timeout=timeout,
        strict=strict,
        abstain=abstain,
        coverage=coverage,
    )
    if bulk.is_run_folder(output):
        decided = {"--abstain": abstain, "--coverage": coverage}
        _refuse_in_bulk({"--window": window, "--annotate": annotate, **decided})
        request = bulk.BulkRequest(
            folder=Path(str(output)),
            sources=tuple(sources or ()),
            from_file=from_file,
            column=column,
            model=model,
            settings=settings,
            row_format=bulk.row_format_of(format),
            part_size=part_size,
            shard=shard,
            retry_failures=retry_failures,
            keep_logits=keep_logits,
        )
        return bulk.run_bulk(request)
    bulk.refuse_without_folder(shard, retry_failures, keep_logits, os.environ)
    file = Path(output) if output else None
    chosen = format or format_of(file, get_args(Format))
    if chosen == "parquet":
        raise UsageError("--format parquet needs a folder; end -o with a slash, such as -o run/")
    paths = find_videos(sources or ())
    if from_file is not None:
        paths += iter_list(from_file, column)
    timeline = _timeline_settings(window, stride, min_score, chosen, len(paths))
    _check_outputs(file, annotate, paths)
    predicted = _run(_Request(model, paths, chosen, file, annotate, timeline, settings))
    if predicted == len(paths):
        return EXIT_OK
    return EXIT_SOME_FAILED if predicted else EXIT_NO_INPUT


def _refuse_in_bulk(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} cannot be written to a folder; name a file with -o")


def _timeline_settings(
    window: str | None, stride: str | None, min_score: float | None, format: str, files: int
) -> dict[str, float]:
    """Window, stride and lowest score of a timeline, in seconds; empty without --window.

    Raises `UsageError` for options that exclude each other.
    """
    from vtcli.inference.windows import parse_duration

    if window is not None:
        if format in ONE_VIDEO and files > 1:
            raise UsageError(
                f"--format {format} takes one video, not {files}; run the command once per video"
            )
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
            raise UsageError(f"{name} needs windows; add their length, such as --window 2s")
    return {}


def _check_outputs(output: Path | None, annotated: Path | None, paths: Sequence[str]) -> None:
    """Refuse, before anything is computed, an output that would overwrite a file or fail later."""
    taken = {Path(path).resolve() for path in paths}
    for name, path in (("--output", output), ("--annotate", annotated)):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UsageError(f"{name} would overwrite {path}; name another file")
        taken.add(path.resolve())
    if annotated is None:
        return
    if len(paths) != 1:
        raise UsageError(
            f"--annotate takes one video, not {len(paths)}; run the command once per video"
        )
    if not annotated.name or annotated.is_dir():
        raise UsageError(
            f"--annotate writes an MP4 file, and '{annotated}' is a folder; name a file in it"
        )
    if annotated.suffix.lower() != ".mp4":
        raise UsageError(f"--annotate writes an MP4 file; name it {annotated.with_suffix('.mp4')}")
    if not annotated.parent.is_dir():
        raise DataError(
            f"cannot write {annotated}: there is no folder {annotated.parent}; create it first"
        )


def _run(request: _Request) -> int:
    """Write all outcomes as they come; how many videos have a prediction."""
    from vtcli.cli.progress import file_progress, step_progress
    from vtcli.inference.results import Failure
    from vtcli.report.predictions import make_writer, open_output
    from vtcli.report.timeline import make_timeline_writer

    last: Outcome | None = None
    predicted = 0
    with step_progress() as on_step, ExitStack() as opened:
        header, outcomes = _start(request, on_step, opened)
        # Windows have a progress bar of their own.
        files = 0 if request.timeline else len(request.paths)
        to_file = request.output is not None
        with open_output(request.output) as stream, file_progress(files, to_file) as advance:
            make = make_timeline_writer if request.timeline else make_writer
            writer = make(request.format, stream, header)
            for number, last in enumerate(outcomes, 1):
                if isinstance(last, Failure) and request.format in ONE_VIDEO:
                    raise last.error  # such a file cannot hold a failure; an older one is kept
                writer.add(last)
                predicted += not last.failed
                _report(last)
                advance(Path(last.path).name, number, None)
            writer.close()
        if request.annotate is not None and last is not None:
            _annotate(last, request.annotate, on_step)
    return predicted


def _start(
    request: _Request, on_step: ProgressCallback, opened: ExitStack
) -> tuple[Mapping[str, Any], Iterator[Outcome]]:
    """The header of the output, and the outcomes as they come; `opened` closes what makes them."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.inference.predictor import Predictor

    with fetch_progress() as on_download:
        predictor = Predictor(request.model, request.settings, on_download=on_download)
        opened.enter_context(predictor)
        if request.timeline:
            from vtcli.inference.timeline import TimelinePredictor

            timeliner = TimelinePredictor(predictor, **request.timeline, on_window=on_step)
            timelines = timeliner.predict(request.paths)
            return timeliner.header, timelines
        outcomes = opened.enter_context(closing(predictor.predict(request.paths)))
        return predictor.header, outcomes


def _report(outcome: Outcome) -> None:
    """Print a failure, signs of damage, or a note on an unexpected result, to standard error."""
    if outcome.failed:
        print(f"vt: error: {outcome.error}", file=sys.stderr)
        return
    if warnings := getattr(outcome, "warnings", ()):
        print(f"vt: warning: {outcome.path}: {'; '.join(warnings)}", file=sys.stderr)
    if notice := getattr(outcome, "notice", ""):
        print(f"vt: note: {notice}", file=sys.stderr)


def _annotate(outcome: Outcome, target: Path, on_step: ProgressCallback) -> None:
    """Draw a prediction into the frames of its video; a failed video is not written."""
    from vtcli.inference.results import Failure
    from vtcli.inference.windows import Timeline, full_video_segment
    from vtcli.runtime.files import atomic_write
    from vtcli.video.overlay import annotate

    if isinstance(outcome, Failure):
        return
    segments = outcome.segments if isinstance(outcome, Timeline) else [full_video_segment(outcome)]
    with atomic_write(target, make_folder=False) as part:
        annotate(outcome.info, segments, part, on_step)
