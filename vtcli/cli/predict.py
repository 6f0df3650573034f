"""`vt predict`: the action in one video, in many, in folders of them, or in each window of one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from vtcli.cli import bulk
from vtcli.cli.eval_events import event_windows
from vtcli.cli.options import (
    BY_EXTENSION,
    DEFAULT_MODEL,
    BatchSizeOption,
    ColumnOption,
    CompileOption,
    DecoderOption,
    DeviceOption,
    EventRuleOption,
    EventsOption,
    FromFileOption,
    GpuResizeOption,
    LabelSetOption,
    LiveOption,
    ModelOption,
    PartSizeOption,
    PipelineOption,
    PostRollOption,
    PrecisionOption,
    PreRollOption,
    PreviewOption,
    SaveClipsOption,
    ShardOption,
    SourcesArgument,
    StrictOption,
    StrideOption,
    TimeoutOption,
    WindowOption,
    WorkersOption,
    format_of,
    format_option,
    output_option,
    views_option,
)
from vtcli.cli.predict_run import ONE_VIDEO, Request, run_request
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, DataError, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from vtcli.inference.predictor import PredictSettings

Format = Literal[
    "table",
    "json",
    "jsonl",
    "csv",
    "srt",
    "vtt",
    "activitynet",
    "html",
    "label-studio",
    "fiftyone",
    "cvat",
    "elan",
    "via",
    "parquet",
]
TOOLS = ("label-studio", "fiftyone", "cvat", "elan", "via")
ONLY_TIMELINES = ("srt", "vtt", "activitynet", "html", *TOOLS)


def predict(
    sources: SourcesArgument = None,
    model: ModelOption = DEFAULT_MODEL,
    topk: Annotated[
        int, typer.Option("--topk", "-k", min=1, help="Number of classes per video or window.")
    ] = 5,
    views: Annotated[str | None, views_option("1x1, the center view", auto=True)] = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    live: LiveOption = None,
    events: EventsOption = False,
    event_rule: EventRuleOption = None,
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
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also draw what counts for the best class, as a heat map."),
    ] = False,
    save_clips: SaveClipsOption = None,
    pre_roll: PreRollOption = None,
    post_roll: PostRollOption = None,
    preview: PreviewOption = None,
    format: Annotated[Format | None, format_option(BY_EXTENSION)] = None,
    output: Annotated[str | None, output_option("FILE|RUN/")] = None,
    unordered: Annotated[
        bool,
        typer.Option(
            "--unordered",
            help="Give each prediction as soon as it is made: a slow video holds up no other.",
        ),
    ] = False,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    compile: CompileOption = False,
    gpu_resize: GpuResizeOption = False,
    workers: WorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    strict: StrictOption = False,
    from_file: FromFileOption = None,
    column: ColumnOption = None,
    shard: ShardOption = None,
    part_size: PartSizeOption = 1000,
    engine: bulk.EngineOption = "local",
    ray_address: bulk.RayAddressOption = None,
    retry_failures: bulk.RetryOption = False,
    keep_logits: bulk.KeepLogitsOption = False,
    status: bulk.StatusOption = None,
) -> int:
    """Classify the action in a video: one file, one model name, top-5 labels.

    With --window, classify each window of it: a timeline, also as subtitles, as a page
    (html), or as annotation tools read it. With --live, the windows of a stream as they come. With
    --events, what happens when, by default in windows as long as the clips that the model takes.
    """
    given = locals()
    from vtcli.cli.progress import working
    from vtcli.inference.inputs import find_videos
    from vtcli.inference.predictor import PredictSettings

    if status is not None:
        return bulk.print_status(status, format == "json")
    if not (sources or live) and from_file is None and not bulk.is_begun(output):
        raise UsageError("there is nothing to predict; name video files or folders")
    given["precision"] = _precision(given)
    settings = PredictSettings(**{one.name: given[one.name] for one in fields(PredictSettings)})
    if unordered and (live or window):
        raise UsageError("--unordered is for whole videos; leave it out, as windows come in order")
    if unordered and views == "auto":
        raise UsageError("--views auto takes videos in order; leave --unordered out")
    if live:
        return _predict_live(given, settings)
    _refuse_without_live(given)
    if bulk.is_run_folder(output):
        from vtcli.inference.join import PredictionMaker, RunRequest

        decided = {"--abstain": abstain, "--coverage": coverage}
        ruled = {"--events": events or None, "--event-rule": event_rule}
        _refuse_in_bulk({"--min-score": min_score, "--annotate": annotate, **decided, **ruled})
        row_format = bulk.row_format_of(format)
        timeline = _timeline_settings(window, stride, None, row_format or "", 0)
        run = RunRequest(
            folder=Path(str(output)),
            model=model,
            settings=settings,
            row_format=row_format,
            rows=PredictionMaker(keep_logits, timeline.get("window"), timeline.get("stride")),
        )
        request = bulk.BulkRequest(
            run=run,
            sources=tuple(sources or ()),
            from_file=from_file,
            column=column,
            part_size=part_size,
            shard=shard,
            retry_failures=retry_failures,
            engine=engine,
            ray_address=ray_address,
        )
        return bulk.run_bulk(request)
    needs_folder = {"--shard": shard, "--ray-address": ray_address, "--keep-logits": keep_logits}
    engines = {"--engine ray": engine == "ray", "--retry-failures": retry_failures}
    bulk.refuse_without_folder({**needs_folder, **engines}, os.environ)
    file = Path(output) if output else None
    chosen = format or format_of(file, get_args(Format))
    if chosen == "parquet":
        raise UsageError("--format parquet needs a folder; end -o with a slash, such as -o run/")
    with working("finding the videos"):
        paths = find_videos(sources or (), from_file, column)
    window, stride = event_windows(events, model, window, stride)
    timeline = _timeline_settings(window, stride, min_score, chosen, len(paths), events)
    timeline |= _event_settings(events, event_rule, timeline)
    _check_outputs(file, annotate, paths)
    predicted = run_request(
        Request(model, paths, chosen, file, annotate, timeline, settings, not unordered, explain)
    )
    failed = EXIT_SOME_FAILED if predicted else EXIT_NO_INPUT
    return EXIT_OK if predicted == len(paths) else failed


def _predict_live(options: Mapping[str, Any], settings: PredictSettings) -> int:
    """Predict live sources; `options` are those of the command by their names."""
    from vtcli.cli.live_run import FORMATS, WINDOW, LiveRequest, check_live, live_extras, run_live
    from vtcli.inference.auto_windows import LIVE_STRIDES_PER_WINDOW
    from vtcli.inference.windows import parse_duration

    if bulk.is_run_folder(options["output"]):
        raise UsageError("--live cannot write to a folder; name a file with -o, such as live.jsonl")
    output = Path(options["output"]) if options["output"] else None
    whole = ("sources", "from_file", "annotate", "explain", "abstain", "coverage")
    others = (*whole, "shard", "ray_address", "keep_logits", "retry_failures")
    check_live(options["live"], options["format"], {name: options[name] for name in others})
    window, stride = event_windows(*(options[n] for n in ("events", "model", "window", "stride")))
    adapts = window is None and stride is None
    window = window or WINDOW
    stride = stride or f"{parse_duration(window, '--window') / LIVE_STRIDES_PER_WINDOW}s"
    timeline = _timeline_settings(window, stride, options["min_score"], "", 0)
    timeline |= _event_settings(options["events"], options["event_rule"], timeline)
    format = options["format"] or (format_of(output, FORMATS) if output else None)
    extras = live_extras(options)
    request = LiveRequest(
        options["live"], options["model"], format, output, timeline, settings, extras, adapts
    )
    return run_live(request)


def _precision(options: Mapping[str, Any]) -> str:
    """The precision that is asked for: fp32 for the gradients of --explain. Raises `UsageError` for
    options that do not go with it.
    """
    precision: str = options["precision"]
    if not options["explain"] or options["live"]:
        return precision
    if options["annotate"] is None:
        raise UsageError("--explain is drawn into a video; add --annotate OUT.mp4")
    if options["window"] is not None and not options["events"]:
        raise UsageError(
            "--explain explains a whole video or events; leave out --window, or add --events"
        )
    if options["views"] is not None:
        raise UsageError("--explain explains one view; leave out --views")
    return "fp32" if precision == "auto" else precision


def _refuse_without_live(options: Mapping[str, Any]) -> None:
    for name in ("save_clips", "pre_roll", "post_roll", "preview"):
        if options[name] is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for live sources; add --live SOURCE")


def _refuse_in_bulk(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} cannot be written to a folder; name a file with -o")


def _timeline_settings(
    window: str | None,
    stride: str | None,
    min_score: float | None,
    format: str,
    files: int,
    events: bool = False,
) -> dict[str, Any]:
    """Window, stride and lowest score of a timeline, in seconds; empty without --window and
    --events, None where they depend on the video.

    Raises `UsageError` for options that exclude each other.
    """
    from vtcli.inference.windows import parse_duration, parse_windows

    if window is not None or events:
        if format in ONE_VIDEO and files > 1:
            raise UsageError(
                f"--format {format} takes one video, not {files}; run the command once per video"
            )
        length = every = None
        if window is not None:
            length, every = parse_windows(window, stride)
        elif stride is not None:
            every = parse_duration(stride, "--stride")
        return {"window": length, "stride": every, "min_score": min_score or 0.0}
    for name, is_given in (
        ("--stride", stride is not None),
        ("--min-score", min_score is not None),
        (f"--format {format}", format in ONLY_TIMELINES),
    ):
        if is_given:
            raise UsageError(f"{name} needs windows; add their length, such as --window 2s")
    return {}


def _event_settings(events: bool, rule: str | None, timeline: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of --events; empty without it. Raises `UsageError` for options that do not fit."""
    from vtcli.inference.events import parse_event_rule

    if not events:
        if rule is not None:
            raise UsageError("--event-rule is a rule for events; add --events")
        return {}
    if timeline["min_score"]:
        raise UsageError(
            f"--events has a threshold of its own; use --event-rule on={timeline['min_score']:g} "
            "in place of --min-score"
        )
    parse_event_rule(rule)
    return {"events": rule or ""}


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
