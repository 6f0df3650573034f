"""Timelines as files of annotation tools, each as the tool's own importer defines it.

`label-studio`: tasks with `timelinelabels` as predictions, frames counted from 1. `fiftyone`:
labels.json of FiftyOneTemporalDetectionDataset, by the name of the video without its extension
or, for a second one of that name, its absolute path.
`cvat`: CVAT for video 1.1 of one video, whose segments are tracks of the whole image, frames
counted from 0. `elan`: tab-delimited text, times in milliseconds. `via`: CSV of VIA 3, times in
seconds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from vtcli.report.predictions import Outcome, Writer
from vtcli.runtime.csv_cells import write_csv

Tables = Sequence[Mapping[str, Any]]
"""The JSON forms of timelines."""


def frames_of(segment: Mapping[str, Any], video: Mapping[str, Any]) -> tuple[int, int]:
    """The first and the last frame of a segment, counted from 0, at the video's mean rate."""
    last_of_all = max(0, video["frames"] - 1)
    first = min(round(segment["start"] * video["fps"]), last_of_all)
    last = round(segment["end"] * video["fps"]) - 1
    return first, max(first, min(last, last_of_all))


def _labels(tables: Tables) -> list[str]:
    return sorted({segment["label"] for table in tables for segment in table["segments"]})


def _label_studio(tables: Tables, model: str) -> str:
    tasks = []
    for number, table in enumerate(tables, 1):
        result = []
        for place, segment in enumerate(table["segments"]):
            first, last = frames_of(segment, table)
            ranges = [{"start": first + 1, "end": last + 1}]
            value = {"ranges": ranges, "timelinelabels": [segment["label"]]}
            head = {"id": f"{number}-{place}", "from_name": "videoLabels", "to_name": "video"}
            result.append(
                {**head, "type": "timelinelabels", "value": value, "score": segment["score"]}
            )
        predictions = [{"model_version": model, "result": result}]
        tasks.append({"data": {"video": table["path"]}, "predictions": predictions})
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _fiftyone(tables: Tables, model: str) -> str:
    names = _labels(tables)
    place = {name: index for index, name in enumerate(names)}
    labels: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        path = Path(table["path"])
        # The importer also takes absolute paths: for a second video of one name.
        key = str(path.absolute()) if path.stem in labels else path.stem
        found = labels.setdefault(key, [])
        for segment in table["segments"]:
            first, last = frames_of(segment, table)
            found.append(
                {
                    "label": place[segment["label"]],
                    "support": [first + 1, last + 1],
                    "confidence": segment["score"],
                }
            )
    return json.dumps({"classes": names, "labels": labels}, ensure_ascii=False, indent=1) + "\n"


def _cvat(tables: Tables, model: str) -> str:
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for table in tables:
        facts = {"name": Path(table["path"]).stem, "size": table["frames"]}
        for name, value in {**facts, "mode": "interpolation"}.items():
            SubElement(task, name).text = str(value)
        size = SubElement(task, "original_size")
        SubElement(size, "width").text = str(table["width"])
        SubElement(size, "height").text = str(table["height"])
        box = {"occluded": "0", "keyframe": "1", "xtl": "0", "ytl": "0", "z_order": "0"}
        box |= {"xbr": str(table["width"]), "ybr": str(table["height"])}
        for number, segment in enumerate(table["segments"]):
            head = {"id": str(number), "label": segment["label"], "source": "auto"}
            track = SubElement(root, "track", head)
            first, last = frames_of(segment, table)
            shown = [(frame, "0") for frame in dict.fromkeys((first, last))]
            shown += [(last + 1, "1")] if last + 1 < table["frames"] else []
            for frame, outside in shown:
                SubElement(track, "box", {"frame": str(frame), "outside": outside} | box)
    labels = SubElement(task, "labels")
    for name in _labels(tables):
        SubElement(SubElement(labels, "label"), "name").text = name
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, "unicode") + "\n"


def _elan(tables: Tables, model: str) -> str:
    rows: list[tuple[str, ...]] = [
        ("Tier", "Begin Time - msec", "End Time - msec", "Annotation", "File")
    ]
    for table in tables:
        for segment in table["segments"]:
            times = (str(round(1000 * segment[name])) for name in ("start", "end"))
            rows.append(("events", *times, segment["label"], table["path"]))
    lines = ("\t".join(" ".join(cell.split()) for cell in row) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _via(tables: Tables, model: str) -> str:
    header = "metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
    text = io.StringIO()
    text.write(f"# Events of {' '.join(model.split())}\n# CSV_HEADER = {header}\n")
    rows: Iterator[Sequence[Any]] = (
        (f"{number}_{place}", [table["path"]], 0, [segment["start"], segment["end"]], [], label)
        for number, table in enumerate(tables, 1)
        for place, segment in enumerate(table["segments"])
        for label in [{"1": segment["label"]}]
    )
    cells = (
        [cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in row]
        for row in rows
    )
    write_csv(text, cells, line_end="\n", quoting=csv.QUOTE_ALL)
    return text.getvalue()


WRITERS: Mapping[str, Callable[[Tables, str], str]] = {
    "label-studio": _label_studio,
    "fiftyone": _fiftyone,
    "cvat": _cvat,
    "elan": _elan,
    "via": _via,
}
"""The text of a file in each format, from the timelines and the name of the model."""


class EventFile:
    """Collects timelines and writes them at the end; a failed file is left out."""

    def __init__(self, format: str, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.format, self.stream, self.model = format, stream, str(header["model"])
        self.tables: list[Mapping[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        if not outcome.failed:
            self.tables.append(outcome.to_dict())

    def close(self) -> None:
        self.stream.write(WRITERS[self.format](self.tables, self.model))


def event_file_writers() -> dict[str, Callable[[TextIO, Mapping[str, Any]], Writer]]:
    """A writer of timelines for each format."""
    return {format: partial(EventFile, format) for format in WRITERS}
