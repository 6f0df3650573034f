"""The page of a timeline: the video beside its scores and events, which it can be played by.

The file is self-contained: a small video is part of it, a larger one is referred to by its relative
path. It loads nothing else.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from vtcli.inference.windows import Window, window_territories
from vtcli.report.pages import render_page
from vtcli.report.predictions import Outcome
from vtcli.video.remote import is_url

EMBEDDED_BYTES = 8 << 20
"""A video of at most so many bytes is part of the page."""

MAX_ROWS = 12
"""Classes with a row of scores."""

_MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/webm",
    ".ogv": "video/ogg",
}


class TimelinePage:
    """Writes the page of one video; `folder` is where the page will be."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any], folder: Path) -> None:
        self.stream, self.header, self.folder = stream, header, folder
        self.notice = ""
        self._table: Mapping[str, Any] | None = None

    def add(self, outcome: Outcome) -> None:
        """Keep the timeline of the video."""
        if not outcome.failed:
            self._table = outcome.to_dict()

    def close(self) -> None:
        """Write the page."""
        if self._table is None:
            return
        table = self._table
        address, where = self._video(str(table["path"]))
        kind = "events" if "events" in self.header else "segments"
        is_inside = address.startswith("data:")
        if address and not is_inside:
            self.notice = f"the page plays {where}, which must stay where it is"
        page = render_page(
            "timeline.html.j2",
            script="timeline.js",
            media="data:" if is_inside else "'self' file:",
            title=Path(str(table["path"])).name,
            video=address,
            where=where,
            is_inside=is_inside,
            kind=kind,
            lines=[self._settings(table, kind)],
            segments=table["segments"],
            data=timeline_data(table),
        )
        self.stream.write(page)

    def _video(self, path: str) -> tuple[str, str]:
        """The address of the video in the page, and how it is called; empty for a URL."""
        if is_url(path):
            return "", path
        file = Path(path)
        kind = _MEDIA_TYPES.get(file.suffix.lower())
        if kind and file.stat().st_size <= EMBEDDED_BYTES:
            content = base64.b64encode(file.read_bytes()).decode("ascii")
            return f"data:{kind};base64,{content}", file.name
        try:
            relative = os.path.relpath(file.resolve(), self.folder.resolve())
        except ValueError:  # on another drive
            return file.resolve().as_uri(), str(file)
        name = relative.replace(os.sep, "/")
        # A name with a colon would be taken for a scheme.
        return quote(os.fsencode(name if "/" in name else f"./{name}")), relative

    def _settings(self, table: Mapping[str, Any], kind: str) -> str:
        h = self.header
        return (
            f"{h['model']} · {h['window']:g} s every {h['stride']:g} s · "
            f"{len(table['windows'])} windows · {len(table['segments'])} {kind}"
        )


def timeline_data(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the page draws: the duration, the part of each window, rows of scores, and the segments.

    A row is a class: first those of segments, then the others by their highest score. A score is
    None where the class is not among the best of the window.
    """
    windows = table["windows"]
    spans = window_territories([Window(w["start"], w["end"], 0, 1) for w in windows])
    best: dict[int, tuple[float, str]] = {}
    for window in windows:
        for p in window["predictions"]:
            known = best.get(p["index"], (0.0, ""))[0]
            best[p["index"]] = (max(known, p["score"]), p["label"])
    first = dict.fromkeys(segment["index"] for segment in table["segments"])
    others = sorted(best.keys() - first.keys(), key=lambda index: (-best[index][0], index))
    rows = [*first, *others][:MAX_ROWS]
    labels = {s["index"]: s["label"] for s in table["segments"]}
    labels |= {index: label for index, (_, label) in best.items()}
    return {
        "duration": max([table["duration"], *(w["end"] for w in windows)]),
        "spans": [[round(start, 3), round(end, 3)] for start, end in spans],
        "rows": [
            {"index": index, "label": labels[index], "scores": _scores(windows, index)}
            for index in rows
        ],
        "segments": [
            {key: segment[key] for key in ("start", "end", "index", "label")}
            for segment in table["segments"]
        ],
    }


def _scores(windows: Sequence[Mapping[str, Any]], index: int) -> list[float | None]:
    found = ({p["index"]: p["score"] for p in window["predictions"]} for window in windows)
    return [None if index not in scores else round(scores[index], 3) for scores in found]
