"""EPIC-Kitchens-100: csv with one segment of a long video per row, labeled by verb and noun."""

from __future__ import annotations

import re
from pathlib import Path

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    indexed_names,
    read_records,
    sibling,
)

COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
HEADS = ("verb", "noun")


def read_epic(path: Path) -> Annotation:
    """One row per segment, in seconds; the test file has no labels.

    Raises `DataError` naming a line whose time or class number cannot be parsed.
    """
    records = read_records(path, COLUMNS)
    labeled = "verb_class" in records[0][1]
    rows = [_row(path, line, record, labeled) for line, record in records]
    classes = {}
    for head in HEADS:
        source = sibling(path, f"EPIC_100_{head}_classes.csv")
        if source:
            names = [(n, r["id"], r["key"]) for n, r in read_records(source, ("id", "key"))]
            classes[head] = indexed_names(source, names, 0)
    description = "EPIC-Kitchens-100 csv, segments of long videos"
    return Annotation(path, description, rows, HEADS, classes, 0, True)


def _row(path: Path, line: int, record: dict[str, str], labeled: bool) -> AnnotationRow:
    person, video = record["participant_id"].strip(), record["video_id"].strip()
    start, end = (_seconds(path, line, record[name]) for name in COLUMNS[3:])
    numbers = [record.get(f"{head}_class", "").strip() for head in HEADS] if labeled else []
    for number in numbers:
        if not number.isdecimal():
            text = f"'{number}' is not a class number; write a whole number"
            raise annotation_error(path, line, text)
    paths = (f"{person}/videos/{video}.MP4", f"{person}/{video}.MP4", f"{video}.MP4")
    labels = tuple(int(number) for number in numbers)
    return AnnotationRow(paths, labels, line, record["narration_id"].strip(), start, end)


def _seconds(path: Path, line: int, text: str) -> float:
    """Seconds of a time written as HH:MM:SS.ss."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    if found is None:
        raise annotation_error(path, line, f"'{text}' is not a time; write HH:MM:SS.ss")
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
