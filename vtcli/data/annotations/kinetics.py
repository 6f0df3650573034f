"""Kinetics' official csv: label, youtube_id, time_start, time_end, split; and its official JSON,
`{youtube_id: {"annotations": {"label": ..., "segment": [start, end]}, "subset": ...}}`.

A video is the trimmed clip {youtube_id}_{start:06d}_{end:06d}, either in a folder named after its
class (with spaces or underscores) or in one folder with all others. The test file has no labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    read_json,
    read_records,
)

COLUMNS = ("youtube_id", "time_start", "time_end")


def read_kinetics(path: Path) -> Annotation:
    """One row per clip, labeled by class name.

    Raises `DataError` naming a line without an id, with a time that is not a number or, if other
    lines have one, without a label.
    """
    is_json = path.suffix.lower() == ".json"
    records = _json_records(path) if is_json else read_records(path, COLUMNS)
    labeled = any(record.get("label", "").strip() for _, record in records)
    unit = "record" if is_json else "line"
    rows = [_row(path, line, record, labeled, unit) for line, record in records]
    title = f"Kinetics {'json' if is_json else 'csv'}"
    return Annotation(path, title, rows, unique_filenames=True, unit=unit)


def is_kinetics_json(content: Any) -> bool:
    """Whether this is the content of an official JSON file."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    if not isinstance(first, dict) or "subset" not in first:
        return False
    about = first.get("annotations")
    return (isinstance(about, dict) and "label" in about) or {"duration", "url"} <= set(first)


def _json_records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The videos as rows of the csv file."""
    records = []
    content = read_json(path)
    for number, (video, entry) in enumerate(content.items(), 1):
        try:
            about = entry.get("annotations") or {}
            start, end = about.get("segment") or (0, entry.get("duration", 10))
            values = (video, about.get("label", ""), start, end, entry.get("subset", ""))
        except (AttributeError, TypeError, ValueError) as error:
            text = f"video {video} has no usable label and segment ({error}); fix the record"
            raise annotation_error(path, number, text, "record") from error
        names = ("youtube_id", "label", "time_start", "time_end", "split")
        records.append((number, dict(zip(names, map(str, values), strict=True))))
    return records


def _row(path: Path, line: int, record: dict[str, str], labeled: bool, unit: str) -> AnnotationRow:
    video, label = record["youtube_id"].strip(), record.get("label", "").strip().strip('"')
    if not video or (labeled and not label):
        text = f"has no {'label' if video else 'youtube_id'}; fix the row"
        raise annotation_error(path, line, text, unit)
    try:
        start, end = (int(float(record[name])) for name in COLUMNS[1:])
    except (ValueError, OverflowError) as error:
        text = f"has a time that is not a number ({error}); fix the row"
        raise annotation_error(path, line, text, unit) from error
    stem = f"{video}_{start:06d}_{end:06d}"
    folders = (f"{label}/", f"{label.replace(' ', '_')}/") if label else ()
    paths = tuple(dict.fromkeys(f"{folder}{stem}.mp4" for folder in ("", *folders)))
    split = record.get("split", "")
    return AnnotationRow(paths, (label,) if label else (), line, stem, split=split)
