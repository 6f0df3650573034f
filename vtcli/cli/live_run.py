"""`vt predict --live`: windows or events of live sources, as lines as they come."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, DataError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from vtcli.inference.event_clips import EventClips
    from vtcli.inference.live import LiveEnd, LivePredictor, LiveWindow
    from vtcli.inference.predictor import PredictSettings
    from vtcli.inference.timeline import TimelinePredictor
    from vtcli.inference.windows import Segment

WINDOW = "2s"
"""Default of --window with --live, at least; that of --stride is half the window."""

FORMATS = ("table", "jsonl")
ROLL_SECONDS = 2.0
"""Default of --pre-roll and --post-roll."""


@dataclass(frozen=True)
class LiveExtras:
    """What is written besides the lines: a folder for clips of events, with so many seconds before
    and after each, and a picture of the newest window.
    """

    clips: Path | None = None
    before: float = ROLL_SECONDS
    after: float = ROLL_SECONDS
    preview: Path | None = None


@dataclass(frozen=True)
class LiveRequest:
    """A parsed command line; `timeline` has the window, the stride, the lowest score and the rule
    of events, if there is one. `format` is None where none was given. adapts: windows are as long
    as the clip that the model samples at the source's frame rate; without events at least as long
    as in `timeline`.
    """

    sources: Sequence[str]
    model: str
    format: str | None
    output: Path | None
    timeline: Mapping[str, Any]
    settings: PredictSettings
    extras: LiveExtras
    adapts: bool = False


def run_live(request: LiveRequest) -> int:
    """Write all windows or events until the sources end or the command is stopped."""
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.inference.event_rule import unsure_note
    from vtcli.inference.live import LivePredictor
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.timeline import TimelinePredictor

    rule = request.timeline.get("events", "")
    with ExitStack() as opened:
        with fetch_progress() as on_download, working(f"loading {request.model}"):
            predictor = Predictor(request.model, request.settings, on_download=on_download)
            opened.enter_context(predictor)
            timeliner = TimelinePredictor(predictor, **request.timeline)
            clips = _event_clips(request.extras)
            record = clips.record if clips else None
            shortest = 0.0 if timeliner.has_events else timeliner.window
            live = LivePredictor(
                timeliner, request.sources, _note, record, shortest if request.adapts else None
            )
            _ = predictor.net
            if timeliner.has_events and (note := unsure_note(predictor.net.card, rule)):
                _note(note)
        stream = opened.enter_context(_open(request.output))
        opened.enter_context(_stopping(live))
        format = request.format or ("table" if stream.isatty() else "jsonl")
        lines = _Lines(stream, format, len(live.readers) > 1)
        return _Writing(live, timeliner, lines, clips, request.extras.preview).run()


def live_extras(options: Mapping[str, Any]) -> LiveExtras:
    """The extras of a command line; raises `UsageError` for options that do not fit."""
    from vtcli.inference.windows import parse_duration

    clips, preview = options["save_clips"], options["preview"]
    rolls = {"--pre-roll": options["pre_roll"], "--post-roll": options["post_roll"]}
    for option, text in rolls.items():
        if text is not None and clips is None:
            raise UsageError(f"{option} is for the clips of events; add --save-clips DIR")
    before, after = (
        ROLL_SECONDS if text is None else parse_duration(text, option, 0.0)
        for option, text in rolls.items()
    )
    if clips is not None and not options["events"]:
        raise UsageError("--save-clips saves the clips of events; add --events")
    if preview is not None:
        if len(options["live"]) > 1:
            raise UsageError("--preview shows one source; run the command once per source")
        if preview.suffix.lower() not in (".jpg", ".jpeg"):
            raise UsageError(
                f"--preview writes a JPEG file; name it {preview.with_suffix('.jpg').name}"
            )
    return LiveExtras(clips, before, after, preview)


def _event_clips(extras: LiveExtras) -> EventClips | None:
    from vtcli.inference.event_clips import EventClips

    if extras.clips is None:
        return None
    return EventClips(extras.clips, extras.before, extras.after, _note)


def check_live(sources: Sequence[str], format: str | None, others: Mapping[str, object]) -> None:
    """Raise `UsageError` for options that do not go with --live; `others` by their names."""
    for name, value in others.items():
        if value:
            option = "a video file" if name == "sources" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} does not go with --live; leave one of them out")
    if format is not None and format not in FORMATS:
        raise UsageError(f"--live writes --format {' or '.join(FORMATS)}, not {format}")
    if len(set(sources)) < len(sources):
        raise UsageError("--live names a source twice; name each once")


class _Writing:
    """Writes what a live predictor finds until its sources end."""

    def __init__(
        self,
        live: LivePredictor,
        timeliner: TimelinePredictor,
        lines: _Lines,
        clips: EventClips | None,
        preview: Path | None,
    ) -> None:
        from vtcli.inference.live_events import live_events

        self.live, self.lines, self.clips, self.preview = live, lines, clips, preview
        self.readers = {reader.source: reader for reader in live.readers}
        labels, rule = timeliner.predictor.net.card.heads[0].labels, timeliner.events
        self.events = {s: live_events(rule, labels) for s in self.readers} if rule else {}
        self.min_score = timeliner.min_score

    def run(self) -> int:
        """The exit code."""
        from vtcli.inference.live import LiveWindow

        failed = 0
        for outcome in self.live.predict():
            if isinstance(outcome, LiveWindow):
                self._window(outcome)
            else:
                self._end(outcome)
                failed += outcome.error is not None
        if self.clips is not None and self.clips.failed:
            whole = self.clips.saved + self.clips.failed
            _note(f"{self.clips.failed} of {whole} clips were not saved")
        if failed == len(self.readers):
            return EXIT_NO_INPUT
        return EXIT_SOME_FAILED if failed else EXIT_OK

    def _window(self, one: LiveWindow) -> None:
        source, window, best = one.source, one.prediction.window, one.prediction.best
        if self.events:
            for event in self.events[source].add(window, one.scores):
                self._event(source, event, window.end - event.end + one.delay)
            if self.clips is not None:
                self.clips.advance(source, self.events[source].decided, self.live.pool)
        elif best.score >= self.min_score:
            self.lines.window(one)
        if self.preview is not None:
            from vtcli.report.preview import write_preview

            try:
                write_preview(one.frame, best.label, best.score, self.preview)
            except DataError as error:
                self.preview = None
                _note(f"there is no preview any more: {str(error).partition(';')[0]}")

    def _end(self, end: LiveEnd) -> None:
        if self.events:
            for event in self.events[end.source].finish():
                self._event(end.source, event, None)
        if self.clips is not None:
            self.clips.finish(end.source, self.live.pool)
        _conclude(end)

    def _event(self, source: str, event: Segment, delay: float | None) -> None:
        clip = None
        if self.clips is not None:
            prefix = source if len(self.readers) > 1 else ""
            began = self.readers[source].began
            assert began is not None
            clip = self.clips.add(source, event, began, prefix)
        self.lines.event(source, event, delay, clip)


def _conclude(end: LiveEnd) -> None:
    """Say how a source ended."""
    if end.error is not None:
        print(f"vt: error: {end.error}", file=sys.stderr)
    elif not end.windows:
        _note(f"{end.source}: there was no window of video")
    if end.skipped:
        _note(
            f"{end.source}: {end.skipped} of {end.windows + end.skipped} windows were skipped, and "
            f"with them {end.dropped} of {end.frames} frames, because they came faster than they "
            "were scored; use a smaller model or a longer --stride"
        )


class _Lines:
    """Writes a line per window or event, at once: JSON, or aligned text for a terminal."""

    def __init__(self, stream: TextIO, format: str, several: bool) -> None:
        self.stream, self.format, self.several = stream, format, several
        self._skipped: dict[str, int] = {}

    def window(self, one: LiveWindow) -> None:
        """Write a window: source, start, end, classes, delay in seconds, and so far dropped frames
        and skipped windows.
        """
        table = one.prediction.to_dict()
        if self.format == "table":
            new = one.skipped - self._skipped.get(one.source, 0)
            self._skipped[one.source] = one.skipped
            segment = {**table, "label": one.prediction.best.label}
            segment["score"] = one.prediction.best.score
            self._row(one.source, segment, one.delay, f"  ({new} skipped before)" if new else "")
            return
        end = {"delay": round(one.delay, 3), "dropped": one.dropped, "skipped": one.skipped}
        self._json({"source": one.source, **table, **end})

    def event(
        self, source: str, event: Segment, delay: float | None, clip: Path | None = None
    ) -> None:
        """Write an event; `delay` is that from its end to its line, in seconds, None where the
        source has ended; `clip` the file that it is saved to.
        """
        table = event.to_dict()
        if self.format == "table":
            self._row(source, table, delay, "")
        else:
            rounded = None if delay is None else round(delay, 3)
            saved = {} if clip is None else {"clip": str(clip)}
            self._json({"source": source, **table, "delay": rounded, **saved})

    def _json(self, table: Mapping[str, Any]) -> None:
        print(json.dumps(table, ensure_ascii=False), file=self.stream, flush=True)

    def _row(self, source: str, table: Mapping[str, Any], delay: float | None, more: str) -> None:
        from vtcli.report.timeline import clock

        times = f"{clock(table['start'])} – {clock(table['end'])}"
        late = "" if delay is None else f"{delay:.2f} s later"
        name = f"  {source}" if self.several else ""
        text = f"{times}  {100 * table['score']:5.1f} %  {late:>13}  {table['label']}{name}{more}"
        print(text, file=self.stream, flush=True)


@contextmanager
def _open(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that can be followed while it is written."""
    if output is None:
        yield sys.stdout
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        file = output.open("w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot write {output} ({error.strerror}); choose another -o") from error
    with file:
        yield file


@contextmanager
def _stopping(live: LivePredictor) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the sources; a second signal ends the command at once."""
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        live.stop()
        for one, handler in before.items():
            signal.signal(one, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:  # a caller that ignores the signal is obeyed
            before[number] = handler
            signal.signal(number, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _note(text: str) -> None:
    print(f"vt: note: {text}", file=sys.stderr, flush=True)
