"""Evaluates the events that a model finds in videos whose events are labeled.

The scores of all windows are kept in the run directory: another rule needs neither the network nor
the videos.

Shape legend: W windows, K classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.data.annotations.activitynet import SEGMENTS
from vtcli.data.samples import Dataset
from vtcli.errors import DataError, VideoDecodeError
from vtcli.evaluation.event_fit import ScoredVideo
from vtcli.evaluation.event_metrics import (
    Event,
    EventMetrics,
    background_seconds,
    false_events,
    score_events,
)
from vtcli.inference.events import EventRule, find_events
from vtcli.inference.results import Failure
from vtcli.inference.rows import run_settings
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Window
from vtcli.runtime.files import atomic_write
from vtcli.runtime.progress import ProgressCallback

SETTINGS_NAME = "events.json"
LABELED_NAME = "labeled.json"


@dataclass(frozen=True)
class LabeledEvents:
    """The labeled events of videos, each with the path of its video."""

    videos: tuple[str, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class EventReport:
    """What an evaluation found; `minutes` of video were read, `background` of them without labeled
    events, where `false` events were found.
    """

    settings: Mapping[str, Any]
    videos: int
    minutes: float
    background: float
    false: int
    failures: tuple[Failure, ...]
    metrics: EventMetrics

    @property
    def false_per_minute(self) -> float | None:
        """False events per minute of background; None where there is no background."""
        return self.false / self.background if self.background > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **self.settings,
            "videos": self.videos,
            "minutes": round(self.minutes, 3),
            "background_minutes": round(self.background, 3),
            "false_events": self.false,
            "false_per_minute": self.false_per_minute,
            **self.metrics.to_dict(),
            "failures": [failure.to_dict() for failure in self.failures],
        }


def labeled_events(dataset: Dataset) -> LabeledEvents:
    """The events of a dataset: segments of ActivityNet's JSON, or rows with `start` and `end`.

    Raises `DataError` for a sample without times.
    """
    (names,) = list(dataset.classes.values())[:1]
    events: list[Event] = []
    for sample in dataset.samples:
        path = str(sample.path)
        if SEGMENTS in sample.columns:
            events += _of_record(path, sample.columns[SEGMENTS])
        elif sample.start is None or sample.end is None:
            raise DataError(
                f"{sample.id} has no start and end; --events needs a list with the columns path, "
                "label, start and end, or ActivityNet's JSON"
            )
        else:
            events += (Event(path, sample.start, sample.end, names[n]) for n in sample.labels)
    if not events:
        raise DataError(f"{dataset.name} has no labeled event; --events needs some to compare with")
    return LabeledEvents(tuple(dict.fromkeys(str(s.path) for s in dataset.samples)), tuple(events))


def _of_record(path: str, segments: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    for one in segments:
        try:
            start, end = (float(time) for time in one["segment"])
        except (KeyError, TypeError, ValueError) as error:
            text = f"{path} has a segment without start and end ({error}); give the official file"
            raise DataError(text) from error
        yield Event(path, start, end, str(one["label"]))


class EventEvaluator:
    """Finds events with a `TimelinePredictor` and compares them with labeled ones.

    `folder` keeps the scores of all windows, None: they are not kept. Raises `DataError` for a
    folder with scores of another model or of other windows, and for labels that the model does not
    have.
    """

    def __init__(self, timeliner: TimelinePredictor, folder: Path | None) -> None:
        self.timeliner, self.folder = timeliner, folder
        self.labels = tuple(timeliner.predictor.net.card.heads[0].labels)
        self.settings = run_settings(timeliner.predictor, None, "events", timeliner)
        if folder is not None:
            self._claim(folder)

    def _claim(self, folder: Path) -> None:
        path = folder / SETTINGS_NAME
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        if not path.exists():
            with atomic_write(path) as part:
                part.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{folder} has the scores of another model or of other windows; name another "
                "folder with -o"
            )

    def run(self, labeled: LabeledEvents, on_video: ProgressCallback | None = None) -> EventReport:
        """Score the windows of all videos, or take kept scores, and compare their events.

        `on_video` is called with the path, the number of videos that are done, and of all.
        """
        unknown = sorted({e.label for e in labeled.events} - set(self.labels))
        if unknown:
            raise DataError(
                f"the model has no class '{unknown[0]}' of the labeled events; its classes are "
                f"{', '.join(self.labels[:8])}{', ...' if len(self.labels) > 8 else ''}"
            )
        rule = self.timeliner.events or EventRule()
        if self.folder is not None:
            timeliner = self.timeliner
            write_labeled(self.folder, labeled, timeliner.window, timeliner.stride)
        predicted: list[Event] = []
        failures: list[Failure] = []
        lengths: dict[str, float] = {}
        for number, path in enumerate(labeled.videos, 1):
            try:
                windows, score_WK = self._scores(path)
            except VideoDecodeError as error:
                failures.append(Failure(path, error))
            else:
                lengths[path] = windows[-1].end
                predicted += (
                    Event(path, s.start, s.end, s.label, s.score)
                    for s in find_events(windows, score_WK, self.labels, rule)
                )
            if on_video is not None:
                on_video(path, number, len(labeled.videos))
        settings = {**self.settings, "rule": rule.to_dict()}
        metrics = score_events(predicted, labeled.events)
        return EventReport(
            settings,
            len(lengths),
            sum(lengths.values()) / 60,
            background_seconds(labeled.events, lengths) / 60,
            false_events(predicted, labeled.events),
            tuple(failures),
            metrics,
        )

    def _scores(self, path: str) -> tuple[list[Window], NDArray[np.float64]]:
        """The windows of a video and their probabilities [W,K], kept ones where there are any."""
        if self.folder is None:
            return self._computed(path)
        kept = _kept(self.folder, path)
        if kept.exists():
            return _read(kept)
        windows, score_WK = self._computed(path)
        times = np.array([(w.start, w.end) for w in windows])
        with atomic_write(kept) as part, part.open("wb") as stream:
            np.savez_compressed(stream, times=times, scores=score_WK, path=np.array(path))
        return windows, score_WK

    def _computed(self, path: str) -> tuple[list[Window], NDArray[np.float64]]:
        _, windows, logits = self.timeliner.score_windows(path)
        return windows, self.timeliner.first_head(logits)


@dataclass(frozen=True)
class EventRun:
    """What an evaluation kept in a folder: its settings, its windows in seconds, the events."""

    folder: Path
    settings: Mapping[str, Any]
    window: float
    stride: float
    labeled: LabeledEvents

    @classmethod
    def read(cls, folder: Path) -> EventRun:
        """Raises `DataError` for a folder that `vt eval --events` did not write, or not now."""
        try:
            settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
            table = json.loads((folder / LABELED_NAME).read_text(encoding="utf-8"))
            events = tuple(Event(**event) for event in table["events"])
            labeled = LabeledEvents(tuple(table["videos"]), events)
            return cls(folder, settings, table["window"], table["stride"], labeled)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder} has no labeled events ({error}); run vt eval --events ... -o {folder} "
                "again, which computes nothing twice"
            ) from error

    def videos(self) -> list[ScoredVideo]:
        """The videos whose scores were kept."""
        found = []
        for path in self.labeled.videos:
            if (kept := _kept(self.folder, path)).exists():
                own = tuple(event for event in self.labeled.events if event.video == path)
                found.append(ScoredVideo(path, *_read(kept), own))
        return found


def write_labeled(folder: Path, labeled: LabeledEvents, window: float, stride: float) -> None:
    """Write what `EventRun` reads besides the scores."""
    events = [dict(vars(event)) for event in labeled.events]
    table = {"window": window, "stride": stride, "videos": labeled.videos, "events": events}
    with atomic_write(folder / LABELED_NAME) as part:
        part.write_text(json.dumps(table), encoding="utf-8")


def _kept(folder: Path, path: str) -> Path:
    """Where the scores of a video are kept."""
    return folder / "windows" / f"{hashlib.sha256(path.encode()).hexdigest()[:24]}.npz"


def _read(kept: Path) -> tuple[list[Window], NDArray[np.float64]]:
    with np.load(kept, allow_pickle=False) as file:
        times_W2, score_WK = file["times"], file["scores"].astype(np.float64)
    return [Window(start, end, 0, 0) for start, end in times_W2.tolist()], score_WK
