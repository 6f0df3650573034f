"""Diving48 (V2): a JSON list of {vid_name, label, start_frame, end_frame}.

The video files are already cut, so the frame numbers only say how long each is.
Diving48_vocab.json lists the classes, each as four attributes of the dive.
"""

from __future__ import annotations

from pathlib import Path

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    json_records,
    read_json,
    sibling,
)
from vtcli.errors import DataError


def read_diving48(path: Path) -> Annotation:
    """One row per video, labeled by class number from 0.

    Raises `DataError` naming a record without a name, or with a label that is not a number.
    """
    rows = []
    for number, record in json_records(path, "vid_name"):
        label = record.get("label")
        if not isinstance(label, int) or isinstance(label, bool):
            text = f"{label!r} is not a class number; write a whole number"
            raise annotation_error(path, number, text, "record")
        name = str(record["vid_name"])
        rows.append(AnnotationRow((f"{name}.mp4",), (label,), number, name))
    source = sibling(path, "Diving48_vocab.json")
    classes = {"action": _vocabulary(source)} if source else {}
    return Annotation(
        path,
        "Diving48 json",
        rows,
        classes=classes,
        index_base=0,
        unique_filenames=True,
        unit="record",
    )


def _vocabulary(path: Path) -> tuple[str, ...]:
    classes = read_json(path)
    if not isinstance(classes, list) or not all(isinstance(parts, list) for parts in classes):
        raise DataError(f"{path} is not a list of classes as lists; give the official file")
    return tuple("+".join(map(str, parts)) for parts in classes)
