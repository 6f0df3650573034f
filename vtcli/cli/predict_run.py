"""What `vt predict` does with its options, unless it fills a folder (that is `bulk`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vtcli.cli.next_step import command, print_next

if TYPE_CHECKING:
    from typing import TypeAlias

    from vtcli.cli.live import Task
    from vtcli.inference.predictor import Predictor, PredictSettings
    from vtcli.inference.results import Failure, VideoPrediction
    from vtcli.inference.windows import Timeline
    from vtcli.report.predictions import Writer
    from vtcli.runtime.progress import ProgressCallback
    from vtcli.video.heat import HeatMap, HeatMaps

    Outcome: TypeAlias = VideoPrediction | Timeline | Failure

ONE_VIDEO = ("srt", "vtt", "html", "cvat")
"""Formats of a single video."""


@dataclass(frozen=True)
class Request:
    """A parsed command line; `timeline` is empty without --window."""

    model: str
    paths: Sequence[str]
    format: str
    output: Path | None
    annotate: Path | None
    timeline: Mapping[str, Any]
    settings: PredictSettings
    ordered: bool = True
    explain: bool = False


def run_request(request: Request) -> int:
    """Write all outcomes as they come; how many videos have a prediction."""
    from vtcli.cli.progress import file_progress, working
    from vtcli.inference.results import Failure
    from vtcli.report.predictions import open_output

    last: Outcome | None = None
    predicted = 0
    unit = "windows" if request.timeline else "views"
    with working(f"loading {request.model}", unit) as task, ExitStack() as opened:
        predictor, header, outcomes = _start(request, _steps_of(task), opened)
        # Windows are counted by themselves.
        files = 0 if request.timeline else len(request.paths)
        to_file = request.output is not None
        with open_output(request.output) as stream, file_progress(files, to_file) as advance:
            writer = _writer(request, stream, header)
            for number, last in enumerate(outcomes, 1):
                if isinstance(last, Failure) and request.format in ONE_VIDEO:
                    raise last.error  # such a file cannot hold a failure; an older one is kept
                writer.add(last)
                predicted += not last.failed
                _report(last)
                advance(Path(last.path).name, number, None)
            writer.close()
        if notice := getattr(writer, "notice", ""):
            print(f"vt: note: {notice}", file=sys.stderr)
        if request.annotate is not None and last is not None:
            _annotate(last, request, predictor, header, task)
    if predicted:
        print_next(_next(request), format=request.format)
    return predicted


def _writer(request: Request, stream: TextIO, header: Mapping[str, Any]) -> Writer:
    from vtcli.report.predictions import make_writer
    from vtcli.report.timeline import make_timeline_writer

    if not request.timeline:
        return make_writer(request.format, stream, header)
    folder = request.output.parent if request.output else Path()
    return make_timeline_writer(request.format, stream, header, folder)


def _steps_of(task: Task) -> ProgressCallback:
    """The callback that shows the steps of a file under the file's name."""
    return lambda path, done, total: task.update(Path(path).name, done, total)


def _next(request: Request) -> str:
    """A command that shows more of these videos, or how good the model is on such."""
    model = ("-m", request.model)
    if request.output is not None or request.annotate is not None:
        return command("eval", "--dataset", "LABELED_VIDEOS", *model)
    if len(request.paths) > 1:
        return command("predict", "VIDEOS", *model, "-o", "predictions.csv")
    length = request.timeline.get("window", 2.0)
    window = ("--events",) if length is None else ("--window", f"{length:g}s")
    output = ("-o", "timeline.srt") if request.timeline else ()
    video = request.paths[0]
    return command("predict", video, *model, *window, *output, "--annotate", "annotated.mp4")


def _start(
    request: Request, on_step: ProgressCallback, opened: ExitStack
) -> tuple[Predictor, Mapping[str, Any], Iterator[Outcome]]:
    """What predicts, the header of the output, and the outcomes as they come; `opened` closes what
    makes them.
    """
    from vtcli.cli.progress import fetch_progress
    from vtcli.inference.predictor import Predictor

    with fetch_progress() as on_download:
        predictor = Predictor(
            request.model, request.settings, on_download=on_download, on_view=on_step
        )
        opened.enter_context(predictor)
        if request.timeline:
            from vtcli.inference.timeline import TimelinePredictor

            settings = _with_windows(request.timeline, predictor, request.paths)
            timeliner = TimelinePredictor(predictor, **settings, on_window=on_step)
            timelines = timeliner.predict(request.paths)
            header = timeliner.header
            if timeliner.has_events:
                _note_unsure(predictor, request.timeline["events"])
            return predictor, header, timelines
        outcomes = opened.enter_context(closing(predictor.predict(request.paths, request.ordered)))
        return predictor, predictor.header, outcomes


def _note_unsure(predictor: Predictor, rule: str) -> None:
    from vtcli.inference.event_rule import unsure_note

    if note := unsure_note(predictor.net.card, rule):
        print(f"vt: note: {note}", file=sys.stderr)


def _with_windows(
    settings: Mapping[str, Any], predictor: Predictor, paths: Sequence[str]
) -> Mapping[str, Any]:
    """The settings of a timeline, with windows that suit the model and the first video where none
    are given; says so.
    """
    from vtcli.inference.auto_windows import windows_for

    if settings["window"] is not None:
        return settings
    window, stride, note = windows_for(predictor, paths, settings["stride"])
    print(f"vt: note: {note}", file=sys.stderr)
    return {**settings, "window": window, "stride": stride}


def _report(outcome: Outcome) -> None:
    """Print a failure, signs of damage, or a note on an unexpected result, to standard error."""
    if outcome.failed:
        print(f"vt: error: {outcome.error}", file=sys.stderr)
        return
    if warnings := getattr(outcome, "warnings", ()):
        print(f"vt: warning: {outcome.path}: {'; '.join(warnings)}", file=sys.stderr)
    if notice := getattr(outcome, "notice", ""):
        print(f"vt: note: {notice}", file=sys.stderr)


def _annotate(
    outcome: Outcome,
    request: Request,
    predictor: Predictor,
    header: Mapping[str, Any],
    task: Task,
) -> None:
    """Draw a prediction into the frames of its video; a failed video is not written."""
    from vtcli.inference.explain import explain
    from vtcli.inference.explain_timeline import explain_segments
    from vtcli.inference.results import Failure
    from vtcli.inference.timeline import TimelinePredictor
    from vtcli.inference.windows import Timeline, full_video_segment
    from vtcli.runtime.files import atomic_write
    from vtcli.video.overlay import annotate, letters_without_a_font

    if isinstance(outcome, Failure) or request.annotate is None:
        return
    segments = outcome.segments if isinstance(outcome, Timeline) else [full_video_segment(outcome)]
    if missing := letters_without_a_font("".join(segment.label for segment in segments)):
        print(
            f"vt: note: no installed font has {missing[:20]}, so that --annotate draws boxes; "
            "install one, such as Noto Sans CJK (fonts-noto-cjk)",
            file=sys.stderr,
        )
    heat: HeatMap | HeatMaps | None = None
    if request.explain and isinstance(outcome, Timeline):
        task.unit = "windows"
        timeliner = TimelinePredictor(predictor, header["window"], header["stride"])
        heat = explain_segments(timeliner, outcome, _steps_of(task))
    elif request.explain:
        task.say(f"explaining {Path(outcome.path).name}")
        heat = explain(predictor, outcome.path, segments[0].label).heat_map
    task.unit = "frames"
    with atomic_write(request.annotate, make_folder=False) as part:
        annotate(outcome.info, segments, part, _steps_of(task), heat)
