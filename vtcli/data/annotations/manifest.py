"""Files with one video per row and named columns, as csv or JSON lines.

vt's own manifest has `path,label` and optionally `start,end,split,id`; Hugging Face's metadata has
`file_name,label`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    Label,
    annotation_error,
    read_json_lines,
    read_records,
)
from vtcli.errors import DataError


def read_manifest(path: Path) -> Annotation:
    """vt's own manifest; see `_read`."""
    return Annotation(path, f"manifest {_kind(path)} 'path,label'", _read(path, "path"))


def read_metadata(path: Path) -> Annotation:
    """Hugging Face's metadata of one folder; see `_read`."""
    description = f"Hugging Face {_kind(path)} 'file_name,label'"
    return Annotation(path, description, _read(path, "file_name"))


def _kind(path: Path) -> str:
    return "JSON lines" if path.suffix.lower() == ".jsonl" else "csv"


def _read(path: Path, key: str) -> list[AnnotationRow]:
    """One row per video. Labels are class numbers if all of them are numbers, else class names;
    `start` and `end` are in seconds.

    Raises `DataError` naming a row without a path, with a time that is not a number or, if other
    rows have one, without a label.
    """
    records: list[tuple[int, dict[str, Any]]]
    if path.suffix.lower() == ".jsonl":
        records = read_json_lines(path)
    else:
        records = [*read_records(path, (key, "label"))]
    labels = _labels(path, records)
    rows = []
    for (line, record), label in zip(records, labels, strict=True):
        video = str(record.get(key) or "").strip()
        if not video:
            raise annotation_error(path, line, f"has no '{key}'; fix the row")
        start, end = (_seconds(path, line, record.get(name)) for name in ("start", "end"))
        if start is not None and end is not None and end <= start:
            raise annotation_error(path, line, "ends before it begins; fix start and end")
        id_, split = (str(record.get(name) or "").strip() for name in ("id", "split"))
        rows.append(AnnotationRow((video,), label, line, id_, start, end, split, columns=record))
    return rows


def _labels(path: Path, records: list[tuple[int, dict[str, Any]]]) -> list[tuple[Label, ...]]:
    """Each row's label; csv has only text, so digits are numbers there if every label is."""
    found: list[Label] = []
    for line, record in records:
        label = record.get("label", "")
        if isinstance(label, bool) or not isinstance(label, int | str):
            text = f"{label!r} is not a label; write a class name or number"
            raise annotation_error(path, line, text)
        found.append(label.strip() if isinstance(label, str) else label)
    given = [label for label in found if label != ""]
    if not given:
        return [() for _ in found]
    if len(given) < len(found):
        line = next(n for (n, _), label in zip(records, found, strict=True) if label == "")
        raise annotation_error(path, line, "has no label; write a class name or number")
    as_text = [str(label) for label in given]
    if all(text.isdecimal() for text in as_text):
        return [(int(text),) for text in as_text]
    return [(text,) for text in as_text]


def _seconds(path: Path, line: int, value: Any) -> float | None:
    if value is None or str(value).strip() == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError) as error:
        raise annotation_error(path, line, f"'{value}' is not a time; write seconds") from error
    if not 0 <= seconds < float("inf"):
        raise annotation_error(path, line, f"'{value}' is not a time; write seconds, 0 or more")
    return seconds


def metadata_file(folder: Path) -> Path | None:
    """The metadata file of a folder, if there is one.

    Raises `DataError` for two of them, and for a format that is not supported.
    """
    found = [p for name in ("metadata.csv", "metadata.jsonl") if (p := folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has metadata.csv and metadata.jsonl; remove one of them")
    if not found and (folder / "metadata.parquet").is_file():
        raise DataError(f"{folder}/metadata.parquet is not supported; save it as metadata.csv")
    return found[0] if found else None
