"""`vt eval --events`: how well the events that a model finds agree with labeled ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from vtcli.data.samples import Dataset
    from vtcli.evaluation.plan import EvalSettings
    from vtcli.inference.settings import PredictSettings


@dataclass(frozen=True)
class EventOptions:
    """The options of `vt eval` that are for events, unparsed."""

    events: bool
    window: str | None
    stride: str | None
    rule: str | None

    def check(self, model: str | None) -> None:
        """Raise `UsageError` for options that do not go together."""
        given = {"--window": self.window, "--stride": self.stride, "--event-rule": self.rule}
        for name, value in given.items():
            if value is not None and not self.events:
                raise UsageError(f"{name} is for the evaluation of events; add --events")
        if self.events and model is None:
            raise UsageError("--events needs a model with the classes of the events; add -m MODEL")


def event_windows(
    events: bool, model: str, window: str | None, stride: str | None
) -> tuple[str | None, str | None]:
    """--window and --stride as given, or else those that the events of the model were fitted to."""
    if not events or window is not None:
        return window, stride
    from vtcli.inference.event_rule import calibrated_windows
    from vtcli.weights.resolve import resolve

    fitted = calibrated_windows(resolve(model, graphs=True).card)
    return (window, stride) if fitted is None else (f"{fitted[0]:g}s", stride or f"{fitted[1]:g}s")


def predict_settings(settings: EvalSettings) -> PredictSettings:
    """The same settings for a timeline, which has one view per window."""
    from vtcli.inference.settings import PredictSettings

    return PredictSettings(
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        workers=settings.workers,
        label_set=settings.label_set,
        pipeline=settings.pipeline,
        timeout=settings.timeout,
        strict=settings.strict,
        compile=settings.compile,
    )


def evaluate_events(
    dataset: Dataset,
    model: str,
    settings: PredictSettings,
    options: EventOptions,
    folder: Path | None,
    format: str,
) -> int:
    """Evaluate and print the report; the exit code."""
    from rich.console import Console

    from vtcli.cli.progress import fetch_progress, file_progress
    from vtcli.evaluation.events import EventEvaluator, labeled_events
    from vtcli.evaluation.results import as_json
    from vtcli.inference.events import parse_event_rule
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.timeline import TimelinePredictor
    from vtcli.inference.windows import parse_windows
    from vtcli.report.events import print_events

    parse_event_rule(options.rule)
    labeled = labeled_events(dataset)
    window_text, stride_text = event_windows(True, model, options.window, options.stride)
    if window_text is None:
        raise UsageError("--events needs windows; add their length, such as --window 2s")
    window, stride = parse_windows(window_text, stride_text)
    with (
        fetch_progress() as on_download,
        Predictor(model, settings, on_download=on_download) as predictor,
    ):
        timeliner = TimelinePredictor(predictor, window, stride, events=options.rule or "")
        evaluator = EventEvaluator(timeliner, folder)
        with file_progress(len(labeled.videos), to_file=True) as advance:
            report = evaluator.run(
                labeled, lambda path, done, _: advance(Path(path).name, done, None)
            )
    for failure in report.failures:
        print(f"vt: error: {failure.error}", file=sys.stderr)
    if not report.videos:
        return EXIT_NO_INPUT
    if format == "json":
        print(as_json(report.to_dict()))
    else:
        print_events(report, Console())
    return EXIT_SOME_FAILED if report.failures else EXIT_OK


def calibrate_event_run(run: Path, output: Path, model: str | None) -> int:
    """Fit the rule of events to a run, store it and print what it changes; the exit code."""
    from rich.console import Console

    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.evaluation.event_calibration import calibrate_events
    from vtcli.report.events import print_fit

    with working(f"calibrating on {run}"), fetch_progress() as on_download:
        fit = calibrate_events(run, output, model, on_download)
    print_fit(fit, Console())
    print(f"{output}: calibrated on {run}", file=sys.stderr)
    print_next(command("predict", "VIDEO", "-m", output, "--events", "-o", "events.srt"))
    return EXIT_OK
