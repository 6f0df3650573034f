"""Files with one video per row and named columns, as csv, JSON or JSON lines.

vt's own manifest has `path,label` and optionally `start,end,split,id`; Hugging Face's metadata has
`file_name,label`; other lists have other names for the same (`vtcli.data.annotations.columns`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    WHOLE_NUMBER,
    Annotation,
    AnnotationRow,
    Label,
    RowProblem,
    annotation_error,
    candidate_paths,
    json_records,
    read_json_lines,
    read_records,
)
from vtcli.data.annotations.columns import Columns, find_columns
from vtcli.errors import DataError


def read_manifest(path: Path) -> Annotation:
    """vt's own manifest, or a list with other column names; see `_read`."""
    return _read(path, "manifest", "")


def read_metadata(path: Path) -> Annotation:
    """Hugging Face's metadata of one folder; see `_read`."""
    return _read(path, "Hugging Face", "file_name")


def _kind(path: Path) -> str:
    return {".jsonl": "JSON lines", ".json": "JSON"}.get(path.suffix.lower(), "csv")


def _read(path: Path, title: str, key: str) -> Annotation:
    """One row per video. Labels are class numbers if all of them are numbers, else class names;
    `start` and `end` are in seconds. Rows without a label are problems if other rows have one.

    Raises `DataError` naming a row without a path or with a time that is not a number.
    """
    records: list[tuple[int, dict[str, Any]]]
    if path.suffix.lower() == ".jsonl":
        records = read_json_lines(path)
    elif path.suffix.lower() == ".json":
        records = [*json_records(path)]
    else:
        records = [*read_records(path, (key,) if key else ())]
    if _kind(path) != "csv":
        records = [(n, {name.casefold(): v for name, v in r.items()}) for n, r in records]
    columns = find_columns(path, records, key)
    if not columns.label and _kind(path) == "csv":
        text = f"has no column 'label'; the header must name {columns.path},label"
        raise annotation_error(path, 1, text)
    rows, problems = rows_of(path, records, columns)
    description = f"{title} {_kind(path)} '{columns.path},{columns.label or 'label'}'"
    unused = columns.unused(list(dict.fromkeys(name for _, record in records for name in record)))
    description += f" (not used: {', '.join(unused)})" if unused else ""
    unit = "record" if _kind(path) == "JSON" else "line"
    return Annotation(path, description, rows, problems=tuple(problems), unit=unit)


def rows_of(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], columns: Columns
) -> tuple[list[AnnotationRow], list[RowProblem]]:
    """The rows of records with named columns, and the rows that lack a label."""
    labels = _labels(path, records, columns.label)
    labeled = any(labels)
    rows, problems = [], []
    for (line, record), label in zip(records, labels, strict=True):
        video = str(record.get(columns.path) or "").strip()
        if not video:
            raise annotation_error(path, line, f"has no '{columns.path}'; fix the row")
        start, end = (
            _seconds(path, line, record.get(n) if n else None) for n in (columns.start, columns.end)
        )
        if start is not None and end is not None and end <= start:
            raise annotation_error(path, line, "ends before it begins; fix start and end")
        split = str(record.get(columns.split) or "").strip() if columns.split else ""
        id_ = str(record.get("id") or "").strip() if columns.path == "path" else ""
        paths = candidate_paths(video)
        if labeled and not label:
            text = "has no label; write a class name or number"
            problems.append(RowProblem("unlabeled", video, line, text, split))
        else:
            rows.append(AnnotationRow(paths, label, line, id_, start, end, split, columns=record))
    return rows, problems


def _labels(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], column: str
) -> list[tuple[Label, ...]]:
    """Each row's labels; csv has only text, so digits are numbers there if every label is. Numbers
    may be written as pandas does where a label is missing (`1.0`).
    """
    found = [_given(path, line, r.get(column, "") if column else "") for line, r in records]
    given = [label for labels in found for label in labels]
    if given and all(WHOLE_NUMBER.fullmatch(label) for label in given):
        return [tuple(int(float(label)) for label in labels) for labels in found]
    return [tuple(labels) for labels in found]


def _given(path: Path, line: int, label: Any) -> list[str]:
    """The labels in one cell as text; several are a list of names."""
    if isinstance(label, list) and all(isinstance(name, str) for name in label):
        return [name.strip() for name in label if name.strip()]
    if isinstance(label, float) and math.isnan(label):
        return []
    if label is None or label == "":
        return []
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        text = f"{label!r} is not a label; write a class name or number"
        raise annotation_error(path, line, text)
    return [text] if (text := str(label).strip()) else []


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
