"""Kinetics' official csv: label, youtube_id, time_start, time_end, split.

A video is the trimmed clip {youtube_id}_{start:06d}_{end:06d}, either in a folder named after its
class (with spaces or underscores) or in one folder with all others. The test file has no labels.
"""

from __future__ import annotations

from pathlib import Path

from vtcli.data.annotations.base import Annotation, AnnotationRow, annotation_error, read_records

COLUMNS = ("youtube_id", "time_start", "time_end")


def read_kinetics(path: Path) -> Annotation:
    """One row per clip, labeled by class name.

    Raises `DataError` naming a line without an id, with a time that is not a number or, if other
    lines have one, without a label.
    """
    records = read_records(path, COLUMNS)
    labeled = any(record.get("label", "").strip() for _, record in records)
    rows = [_row(path, line, record, labeled) for line, record in records]
    return Annotation(path, "Kinetics csv", rows, unique_filenames=True)


def _row(path: Path, line: int, record: dict[str, str], labeled: bool) -> AnnotationRow:
    video, label = record["youtube_id"].strip(), record.get("label", "").strip().strip('"')
    if not video or (labeled and not label):
        text = f"has no {'label' if video else 'youtube_id'}; fix the row"
        raise annotation_error(path, line, text)
    try:
        start, end = (int(float(record[name])) for name in COLUMNS[1:])
    except (ValueError, OverflowError) as error:
        text = f"has a time that is not a number ({error}); fix the row"
        raise annotation_error(path, line, text) from error
    stem = f"{video}_{start:06d}_{end:06d}"
    folders = (f"{label}/", f"{label.replace(' ', '_')}/") if label else ()
    paths = tuple(dict.fromkeys(f"{folder}{stem}.mp4" for folder in ("", *folders)))
    split = record.get("split", "")
    return AnnotationRow(paths, (label,) if label else (), line, stem, split=split)
