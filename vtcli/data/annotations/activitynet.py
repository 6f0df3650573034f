"""ActivityNet and HACS: one JSON database with the subset, the duration and the labeled segments
of every video. Whole videos are classified, so a video takes the labels of all its segments, which
are kept as a column of its row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import Annotation, AnnotationRow, annotation_error, read_json
from vtcli.errors import DataError

SEGMENTS = "annotations"
"""Column of the segments: records with `label` and `segment`, start and end in seconds."""


def read_activitynet(path: Path) -> Annotation:
    """One row per video, labeled by class name; the subset is its split.

    Videos without a segment in an otherwise labeled subset are left out and counted in the
    description. Raises `DataError` naming a record without a subset or a segment without a label.
    """
    database = read_json(path)
    database = database.get("database") if isinstance(database, dict) else None
    if not isinstance(database, dict) or not database:
        raise DataError(f"{path} has no 'database' with at least one video; give the official file")
    rows = [_row(path, n, id_, entry) for n, (id_, entry) in enumerate(database.items(), 1)]
    labeled = {row.split for row in rows if row.labels}
    kept = [row for row in rows if row.labels or row.split not in labeled]
    description = "ActivityNet json, whole videos with the labels of their segments"
    if len(kept) < len(rows):
        description += f", {len(rows) - len(kept):,} videos without a segment left out"
    return Annotation(path, description, kept, unique_filenames=True, unit="record")


def _row(path: Path, number: int, video: str, entry: Any) -> AnnotationRow:
    try:
        split = str(entry["subset"])
        labels = tuple(dict.fromkeys(str(a["label"]) for a in entry.get("annotations", ())))
    except (KeyError, TypeError, AttributeError) as error:
        text = f"video {video} has no usable subset and labels ({error}); give the official file"
        raise annotation_error(path, number, text, "record") from error
    files = (f"v_{video}.mp4", f"{video}.mp4")
    folders = tuple(f"{label.replace(' ', '_')}/{files[0]}" for label in labels)
    columns = {SEGMENTS: entry.get("annotations", ())}
    return AnnotationRow((*files, *folders), labels, number, video, split=split, columns=columns)
