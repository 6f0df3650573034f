"""Exports of annotation tools: Label Studio, FiftyOne, CVAT for video 1.1 and VGG Image Annotator.

A labeled range of a video is one row; several labels of the same range are one row with several.
Frame numbers are converted to count from 0: Label Studio's and FiftyOne's count from 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    candidate_paths,
    json_records,
    read_json,
    read_text,
)
from vtcli.data.annotations.columns import LABELS
from vtcli.errors import DataError
from vtcli.runtime.words import plural
from vtcli.video.extensions import has_video_suffix

VIA_HEADER = "metadata_id,file_list,flags,temporal_coordinates"
VIA2_COLUMNS = ("filename", "file_attributes")
# What Label Studio puts before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


def merge_rows(
    path: Path, title: str, rows: Iterable[AnnotationRow], left_out: int, unit: str = "record"
) -> Annotation:
    """The rows, with one row per range of a video; those without a label are left out."""
    merged: dict[tuple[object, ...], AnnotationRow] = {}
    for row in rows:
        key = row[:1] + row[3:9]
        first = merged.setdefault(key, row)
        merged[key] = first._replace(labels=tuple(dict.fromkeys((*first.labels, *row.labels))))
    if not merged:
        raise DataError(f"{path} has no labeled video; label some and export it again")
    kept = list(merged.values())
    segments = sum(row.first_frame is not None or row.start is not None for row in kept)
    title += f", {plural(segments, 'segment')}" if segments else ", whole videos"
    title += f", {plural(left_out, 'video')} without a label left out" if left_out else ""
    return Annotation(path, title, kept, unique_filenames=True, unit=unit)


def is_label_studio(record: Mapping[str, Any]) -> bool:
    """Whether a record of a JSON list is a task of Label Studio, in full or as JSON-MIN."""
    full = isinstance(record.get("data"), dict) and "annotations" in record
    return full or ("annotator" in record and "annotation_id" in record)


def read_label_studio(path: Path) -> Annotation:
    """Timeline labels as segments, else choices as labels of whole videos.

    Raises `DataError` naming a task without a video.
    """
    rows: list[AnnotationRow] = []
    whole: list[AnnotationRow] = []
    left_out = 0
    for number, task in json_records(path):
        paths = _label_studio_paths(path, number, task)
        results = list(_label_studio_results(task))
        before = len(rows) + len(whole)
        for value in results:
            labels = tuple(map(str, value.get("timelinelabels") or ()))
            for span in value.get("ranges") or ():
                first, last = int(span["start"]) - 1, int(span["end"]) - 1
                rows.append(
                    AnnotationRow(paths, labels, number, first_frame=max(first, 0), last_frame=last)
                )
            choices = value.get("choices") or ()
            names = (choices,) if isinstance(choices, str) else tuple(map(str, choices))
            whole += [AnnotationRow(paths, names, number)] * bool(names)
        left_out += len(rows) + len(whole) == before
    title = "Label Studio export"
    if rows and whole:
        title += f" (not used: {plural(len(whole), 'choice')} of whole videos)"
    return merge_rows(path, title, rows or whole, left_out)


def _label_studio_paths(path: Path, number: int, task: Mapping[str, Any]) -> tuple[str, ...]:
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    listed = texts.get("video") or next((v for v in texts.values() if _file_of(v)[1]), "")
    if not listed:
        raise annotation_error(path, number, "has no video; export its data too", "record")
    parts = [part for part in _file_of(listed)[0].replace("\\", "/").split("/") if part]
    paths = ["/".join(parts[start:]) for start in range(len(parts))]
    paths += [name] if (name := str(task.get("file_upload") or "")) else []
    paths += [f"/{paths[0]}"] if paths else []  # relative to the root of the file system
    stripped = [_UPLOAD_PREFIX.sub("", name.rsplit("/", 1)[-1]) for name in paths]
    return tuple(dict.fromkeys((*paths, *stripped)))


def _file_of(url: str) -> tuple[str, bool]:
    """The path in a URL of Label Studio, and whether it is that of a video."""
    parts = urlsplit(url)
    query = parse_qs(parts.query).get("d")
    path = query[0] if query else unquote(parts.path)
    return path, has_video_suffix(path)


def _label_studio_results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The values of the first annotation that was not cancelled, or of a JSON-MIN record."""
    annotations = task.get("annotations")
    if isinstance(annotations, list):
        used = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
        used.sort(key=lambda a: not a.get("ground_truth"))
        for result in used[0].get("result", ()) if used else ():
            if isinstance(result.get("value"), dict):
                yield result["value"]
        return
    for key, value in task.items():
        if isinstance(value, list):
            yield from (entry for entry in value if isinstance(entry, dict))
        elif isinstance(value, dict):
            yield value
        elif isinstance(value, str) and key in LABELS:
            yield {"choices": value}


def is_fiftyone(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an export of FiftyOne."""
    return isinstance(content.get("labels"), dict) and "classes" in content


def read_fiftyone(path: Path) -> Annotation:
    """FiftyOne's video classification or temporal detection: labels.json with the videos in data/.

    Raises `DataError` naming a video whose labels have another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not is_fiftyone(content):
        raise DataError(f"{path} has no 'classes' and 'labels'; give the file labels.json")
    classes = content.get("classes") or []
    rows: list[AnnotationRow] = []
    left_out = 0
    for number, (video, target) in enumerate(content["labels"].items(), 1):
        found = target if isinstance(target, list) else [] if target is None else [target]
        for entry in found:
            rows.append(_fiftyone_row(path, number, video, entry, classes))
        left_out += not found
    read = merge_rows(path, "FiftyOne export", rows, left_out)
    listed = {"action": tuple(map(str, classes))} if classes else {}
    return Annotation(
        path, read.description, read.rows, classes=listed, unique_filenames=True, unit="record"
    )


def _fiftyone_row(
    path: Path, number: int, video: str, entry: Any, classes: Sequence[str]
) -> AnnotationRow:
    paths = (f"data/{video}.mp4", f"{video}.mp4", f"data/{video}", video)
    found = entry if isinstance(entry, dict) else {"label": entry}
    label = found.get("label")
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        label = str(classes[label])
    if not isinstance(label, str):
        text = f"video '{video}' has the label {label!r}, which is not one of the classes"
        raise annotation_error(path, number, text, "record")
    row = AnnotationRow(paths, (label,), number)
    if support := found.get("support"):
        return row._replace(first_frame=int(support[0]) - 1, last_frame=int(support[1]) - 1)
    if times := found.get("timestamps"):
        return row._replace(start=float(times[0]), end=float(times[1]))
    return row


def is_via_project(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a project of VGG's video annotator."""
    return {"metadata", "file", "view"} <= content.keys()


def read_via(path: Path) -> Annotation:
    """VGG Image Annotator: a project or csv of version 3 with segments in seconds, or a csv of
    version 2 with attributes of whole files.

    Raises `DataError` naming a line that does not fit.
    """
    if path.suffix.lower() == ".json":
        return merge_rows(path, "VIA project", _via_project(read_json(path)), 0)
    text = read_text(path)
    if VIA_HEADER in text:
        return merge_rows(path, "VIA csv", _via_rows(path, text), 0, "line")
    rows = []
    for number, record in enumerate(csv.DictReader(io.StringIO(text)), 2):
        labels = _attribute(_json_cell(path, number, record["file_attributes"]))
        rows += [AnnotationRow(candidate_paths(record["filename"]), labels, number)] * bool(labels)
    return merge_rows(path, "VIA csv of files", rows, 0, "line")


def _via_project(content: Mapping[str, Any]) -> Iterator[AnnotationRow]:
    options = {key: value.get("options") or {} for key, value in content["attribute"].items()}
    for number, entry in enumerate(content["metadata"].values(), 1):
        view = content["view"][entry["vid"]]
        file = content["file"][str(view["fid_list"][0])]
        names = tuple(
            name
            for key, value in entry["av"].items()
            for name in _chosen(options.get(key) or {}, str(value))
        )
        times = [float(t) for t in entry.get("z") or ()]
        start, end = (times[0], times[-1]) if len(times) > 1 else (None, None)
        paths = candidate_paths(str(file["fname"]))
        yield AnnotationRow(paths, names, number, start=start, end=end)


def _chosen(options: Mapping[str, Any], value: str) -> list[str]:
    """The names of the options that an attribute has: check boxes list several numbers."""
    numbers = value.split(",")
    if value not in options and all(number in options for number in numbers):
        return [str(options[number]) for number in numbers]
    return [str(options.get(value, value))]


def _via_rows(path: Path, text: str) -> Iterator[AnnotationRow]:
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in lines:
        if line.startswith("#"):
            continue
        fields = next(csv.reader([line], escapechar="\\"), [])
        if len(fields) < 6:
            fields = next(csv.reader([line]), [])
        if len(fields) != 6:
            raise annotation_error(path, number, f"has {len(fields)} fields, VIA's csv has 6")
        files, times = (_json_cell(path, number, fields[place]) for place in (1, 3))
        labels = _attribute(_json_cell(path, number, fields[5]))
        start, end = (float(times[0]), float(times[-1])) if len(times) > 1 else (None, None)
        paths = candidate_paths(str(files[0]))
        yield AnnotationRow(paths, labels, number, start=start, end=end)


def _json_cell(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        text = f"holds {text[:40]!r}, which is not JSON ({error.msg}); export it again"
        raise annotation_error(path, number, text) from error


def _attribute(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels in the attributes of a file or segment: those with a known name, else all."""
    known = [value for name, value in values.items() if name.casefold() in LABELS]
    found = known[:1] or list(values.values())
    names: list[str] = []
    for value in found:
        names += [k for k, on in value.items() if on] if isinstance(value, dict) else [str(value)]
    return tuple(name.strip() for name in names if name.strip())
