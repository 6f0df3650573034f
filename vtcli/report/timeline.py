"""Writes timelines (temporal localization) as a table, JSON, JSON lines, CSV, SubRip or WebVTT
subtitles, the JSON that ActivityNet's evaluation reads, a page that plays them, or as annotation
tools read them.

Writers take outcomes like those of `predictions`. The table of a timeline has `segments`, each with
start and end in seconds, index, label, score and the number of its windows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from vtcli.report.event_formats import event_file_writers
from vtcli.report.player import TimelinePage
from vtcli.report.predictions import CsvWriter, JsonLinesWriter, JsonWriter, Outcome, Writer


def make_timeline_writer(
    format: str, stream: TextIO, header: Mapping[str, Any], folder: Path = Path()
) -> Writer:
    """The writer for `table`, `json`, `jsonl`, `csv`, `srt`, `vtt`, `activitynet`, `html`, or a
    format of `vtcli.report.event_formats`, of a file in `folder`.
    """
    if format == "html":
        return TimelinePage(stream, header, folder)
    makers: Mapping[str, Callable[[TextIO, Mapping[str, Any]], Writer]] = {
        "table": TimelineTable,
        "json": JsonWriter,
        "jsonl": JsonLinesWriter,
        "csv": partial(CsvWriter, columns=SEGMENT_COLUMNS, rows_of=segment_rows),
        "srt": SubRip,
        "vtt": WebVtt,
        "activitynet": ActivityNet,
        **event_file_writers(),
    }
    return makers[format](stream, header)


SEGMENT_COLUMNS = (
    *("path", "model", "start", "end", "index", "label", "score", "windows", "error"),
    *("warnings", "others"),
)


def segment_rows(table: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The CSV rows of a timeline: one per segment; `others` are the next classes of the `-k` that
    were asked for.
    """
    for segment in table["segments"]:
        others = _other_classes(segment, table.get("windows", ()))
        words = (f"{label} {score:.3f}" for label, score in others)
        yield {**segment, "others": "; ".join(words)}


def _other_classes(
    segment: Mapping[str, Any], windows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, float]]:
    """The classes of a segment's windows besides its own, with their mean probabilities.

    A class that is not among the best of a window counts as 0 there.
    """
    sums: Counter[str] = Counter()
    rankings = [
        window["predictions"]
        for window in windows
        if window["predictions"][0]["index"] == segment["index"]
        and segment["start"] <= (window["start"] + window["end"]) / 2 <= segment["end"]
    ]
    for ranking in rankings:
        sums.update({prediction["label"]: prediction["score"] for prediction in ranking[1:]})
    most = max((len(ranking) - 1 for ranking in rankings), default=0)
    return [(label, total / len(rankings)) for label, total in sums.most_common(most)]


class SubRip:
    """SubRip subtitles (.srt): numbered from 1, times with a comma."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.stream = stream

    def add(self, outcome: Outcome) -> None:
        for number, segment in enumerate(outcome.to_dict().get("segments", ()), 1):
            times = f"{clock(segment['start'], ',')} --> {clock(segment['end'], ',')}"
            self.stream.write(f"{number}\n{times}\n{_caption(segment)}\n\n")

    def close(self) -> None: ...


class WebVtt:
    """WebVTT subtitles (.vtt), https://www.w3.org/TR/webvtt1/: the text is escaped as in HTML."""

    ESCAPES: Mapping[int, str] = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.stream = stream
        stream.write("WEBVTT\n\n")

    def add(self, outcome: Outcome) -> None:
        for segment in outcome.to_dict().get("segments", ()):
            times = f"{clock(segment['start'])} --> {clock(segment['end'])}"
            self.stream.write(f"{times}\n{_caption(segment).translate(self.ESCAPES)}\n\n")

    def close(self) -> None: ...


class ActivityNet:
    """The input of ActivityNet's evaluation of temporal localization: the segments per video id.

    The id is the file name without its extension, and without the `v_` that ActivityNet puts before
    an id of eleven characters. If two files have the same id, that of the second is its path.
    """

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.stream = stream
        self.results: dict[str, list[dict[str, Any]]] = {}

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            return
        name = re.sub(r"^v_(?=[\w-]{11}$)", "", Path(outcome.path).stem, flags=re.ASCII)
        self.results[outcome.path if name in self.results else name] = [
            {
                "label": segment["label"],
                "score": segment["score"],
                "segment": [segment["start"], segment["end"]],
            }
            for segment in outcome.to_dict()["segments"]
        ]

    def close(self) -> None:
        table = {"version": "VERSION 1.3", "results": self.results, "external_data": {}}
        json.dump(table, self.stream, ensure_ascii=False, indent=2)
        self.stream.write("\n")


BAR = 20  # cells of a probability of 1
BESIDE_BAR = 60  # cells for times, score and label


class TimelineTable:
    """A line with a bar per segment, and at the end the model and the settings."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        from rich.console import Console

        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.header, self.has_results = header, False

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            return
        from rich.text import Text

        self.has_results = True
        self.console.print(Text(outcome.path, style="bold"))
        segments = outcome.to_dict()["segments"]
        left = self.console.width - BESIDE_BAR if self.console.is_terminal else BAR
        bar_width = max(0, min(BAR, left))
        for segment in segments:
            self.console.print(_segment_line(segment, bar_width))
        if not segments:
            least = self.header.get("events", {}).get("on", self.header["min_score"])
            text = f"  no window reaches a score of {least:g}"
            self.console.print(Text(text, style="dim"))
        self.console.print()

    def close(self) -> None:
        from rich.text import Text

        if not self.has_results:
            return
        h = self.header
        text = (
            f"{h['model']} · {h['window']:g} s every {h['stride']:g} s · "
            f"{h['precision']} on {h['device']}"
        )
        self.console.print(Text(text, style="dim"))


def clock(seconds: float, point: str = ".") -> str:
    """Hours, minutes, seconds and milliseconds, as in both subtitle formats."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    whole, fraction = divmod(milliseconds, 1000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{whole:02d}{point}{fraction:03d}"


def _caption(segment: Mapping[str, Any]) -> str:
    """The label on one line, and the score in percent."""
    return f"{' '.join(segment['label'].split())} ({100 * segment['score']:.0f} %)"


def _segment_line(segment: Mapping[str, Any], bar_width: int) -> Any:
    from rich.text import Text

    bar = "█" * round(bar_width * segment["score"])
    line = Text(f"  {clock(segment['start'])} – {clock(segment['end'])}  ")
    line.append(f"{100 * segment['score']:5.1f} %  ")
    line.append(f"{bar:<{bar_width}}", style="green")
    line.append(f"  {segment['label']}")
    return line
