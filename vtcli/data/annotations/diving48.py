"""Diving48 (V2): a JSON list of {vid_name, label, start_frame, end_frame}. The files are cut
already: the frames only count what each holds. Diving48_vocab.json has the classes in four parts.
"""

from __future__ import annotations

from pathlib import Path

from vtcli.data.annotations.base import Annotation, Row, beside, json_records, problem, read_json
from vtcli.errors import DataError


def read_diving48(path: Path) -> Annotation:
    """One row per video, labeled by number from 0.

    Raises `DataError` naming a record without a name, or with a label that is no number.
    """
    rows = []
    for number, record in json_records(path, "vid_name"):
        label = record.get("label")
        if not isinstance(label, int) or isinstance(label, bool):
            raise problem(path, number, f"{label!r} is no class number; mend it", "record")
        name = str(record["vid_name"])
        rows.append(Row((f"{name}.mp4",), (label,), number, name))
    source = beside(path, "Diving48_vocab.json")
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
    parts = read_json(path)
    if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
        raise DataError(f"{path} is no list of classes in parts; give the official file")
    return tuple("+".join(map(str, part)) for part in parts)
