"""Files with one video per row and named columns, as csv, JSON or JSON lines.

vt's own manifest has `path,label` and optionally `start,end,split,id`; Hugging Face's metadata has
`file_name,label`; other lists have other names for the same (`vtcli.data.annotations.columns`).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    Label,
    RowProblem,
    annotation_error,
    are_numbers,
    candidate_paths,
    column_names,
    read_json,
    read_json_lines,
    read_records,
    whole_number,
)
from vtcli.data.annotations.columns import Columns, find_columns, is_one
from vtcli.data.annotations.json_tables import records_of
from vtcli.errors import DataError

_CLOCK = re.compile(r"(?:(\d+):)?(\d?\d):([0-5]?\d(?:\.\d+)?)")
# How spreadsheets and pandas write a missing value.
_MISSING = frozenset({"nan", "NaN", "NA", "<NA>", "N/A", "n/a", "#N/A", "null", "NULL"})
_KINDS = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON"}
LABEL_SEPARATOR = ";"
"""Between the labels of a video that has several, in one cell of a csv file."""


def read_manifest(path: Path) -> Annotation:
    """vt's own manifest, or a list with other column names; see `_read`."""
    return _read(path, "manifest", "")


def read_metadata(path: Path) -> Annotation:
    """Hugging Face's metadata of one folder; see `_read`."""
    return _read(path, "Hugging Face", "file_name")


def _kind(path: Path) -> str:
    return _KINDS.get(path.suffix.lower(), "csv")


def _read(path: Path, title: str, key: str) -> Annotation:
    """One row per video. Labels are class numbers if all of them are numbers, else class names;
    `start` and `end` are in seconds. Rows without a label are problems if other rows have one.

    Raises `DataError` naming a row without a path or with a time that is not a number.
    """
    records = _records(path, key)
    columns = find_columns(path, records, key)
    if not columns.label and not columns.classes and _kind(path) == "csv":
        text = f"has no column 'label'; the header must name {columns.path},label"
        raise annotation_error(path, 1, text)
    rows, problems = rows_of(path, records, columns)
    label = columns.label or "label"
    if columns.classes:
        label = f"{len(columns.classes)} columns of 0 and 1"
    description = f"{title} {_kind(path)} '{columns.path},{label}'"
    if any(len(labels) > 1 for labels in {row.labels for row in rows}):
        description += ", several labels per video"
    names = dict.fromkeys(chain.from_iterable(record for _, record in records))
    unused = columns.unused(list(names))
    description += f" (not used: {', '.join(unused)})" if unused else ""
    return Annotation(path, description, rows, problems=tuple(problems), unit=_unit(path))


def _unit(path: Path) -> str:
    return "record" if _kind(path) == "JSON" else "line"


def _records(path: Path, key: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows with their numbers, by column names in lower case."""
    if _kind(path) == "csv":
        return [*read_records(path, (key,) if key else ())]
    records = read_json_lines(path) if _kind(path) == "JSON lines" else _json_records(path)
    lowered = [(n, {name.casefold(): v for name, v in r.items()}) for n, r in records]
    for (number, record), (_, lower) in zip(records, lowered, strict=True):
        if len(record) > len(lower):
            text = "has two keys that differ in letter case; remove one"
            raise annotation_error(path, number, text, _unit(path))
    return lowered


def _json_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    records = records_of(read_json(path))
    if not records:
        raise DataError(f'{path} lists no videos; write a list of {{"path": ..., "label": ...}}')
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise annotation_error(path, number, "is not an object", "record")
    return list(enumerate(records, 1))


def rows_of(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], columns: Columns
) -> tuple[list[AnnotationRow], list[RowProblem]]:
    """The rows of records with named columns, and the rows that lack a label."""
    labels = _multi_hot(path, records, columns.classes) or _labels(path, records, columns.label)
    labeled, has_ids, counted = any(labels), columns.path == "path", bool(columns.frames)
    rows, problems = [], []
    for (line, record), label in zip(records, labels, strict=True):
        listed = str(record.get(columns.path) or "")
        video = listed.strip()
        if not video:
            raise annotation_error(path, line, f"has no '{columns.path}'; fix the row", _unit(path))
        start = _seconds(path, line, record.get(columns.start)) if columns.start else None
        end = _seconds(path, line, record.get(columns.end)) if columns.end else None
        if start is not None and end is not None and end <= start:
            raise annotation_error(
                path, line, "ends before it begins; fix start and end", _unit(path)
            )
        split = str(record.get(columns.split) or "").strip() if columns.split else ""
        first, last = (
            _frame(path, line, record.get(name)) if name else None
            for name in (columns.first_frame, columns.last_frame)
        )
        if first is not None and last is not None and last < first:
            raise annotation_error(path, line, "ends before it begins; fix its frames", _unit(path))
        id_ = str(record["id"] or "").strip() if has_ids and "id" in record else ""
        paths = candidate_paths(video)
        if listed != video and _kind(path) != "csv":
            paths = (listed, *paths)  # in JSON, outer spaces are part of a name
        if labeled and not label:
            text = "has no label; write a class name or number"
            problems.append(RowProblem("unlabeled", video, line, text, split))
        else:
            # Of a segment, nobody knows what was counted.
            whole = all(bound is None for bound in (start, end, first, last))
            frames = whole_number(record.get(columns.frames)) if whole and counted else None
            times = start, end, split, first, last, frames
            rows.append(AnnotationRow(paths, label, line, id_, *times, record))
    return rows, problems


def _labels(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], column: str
) -> list[tuple[Label, ...]]:
    """Each row's labels; csv has only text, so digits are numbers there if every label is. Numbers
    may be written as pandas does where a label is missing (`1.0`).
    """
    cells = [record.get(column, "") if column else "" for _, record in records]
    is_csv = _kind(path) == "csv"
    if is_csv:
        cells = [None if cell.strip() in _MISSING else cell for cell in cells]
        cells = _lists(cells) or cells
    known: dict[str, tuple[str, ...]] = {}  # many rows have few labels, and share them in memory
    found = []
    for (line, _), cell in zip(records, cells, strict=True):
        labels = known.get(cell) if isinstance(cell, str) else None
        if labels is None:
            labels = tuple(_given(path, line, cell))
            if is_csv:
                labels = tuple(part for label in labels for part in _parts(label))
            if isinstance(cell, str):
                known[cell] = labels
        found.append(labels)
    distinct = set(found)
    if not are_numbers([label for labels in distinct for label in labels]):
        return [*found]
    numbers = {labels: tuple(int(float(label)) for label in labels) for labels in distinct}
    return [numbers[labels] for labels in found]


def _lists(cells: Sequence[str | None]) -> list[Any]:
    """The cells as lists, where each is one as pandas writes it; else empty."""
    if not all(cell is None or cell.strip().startswith("[") for cell in cells):
        return []
    try:
        lists = [None if cell is None else ast.literal_eval(cell.strip()) for cell in cells]
    except (ValueError, SyntaxError):
        return []
    if not all(cell is None or isinstance(cell, list) for cell in lists):
        return []
    return [cell and [str(label) for label in cell] for cell in lists]


def _parts(cell: str) -> list[str]:
    """The labels of one cell of a csv file, which semicolons separate."""
    return list(dict.fromkeys(part.strip() for part in cell.split(LABEL_SEPARATOR) if part.strip()))


def _multi_hot(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], classes: Sequence[str]
) -> list[tuple[Label, ...]]:
    """Each row's classes, as the file spells them; empty without a column of 0 and 1 for each."""
    if not classes:
        return []
    spelled = {name.casefold(): name for name in column_names(path)}
    for line, record in records:
        for name in classes:
            if is_one(record.get(name)) is None:
                text = f"has '{record.get(name)}' for the class '{name}'; write 0 or 1"
                raise annotation_error(path, line, text, _unit(path))
    return [tuple(spelled.get(n, n) for n in classes if is_one(r.get(n))) for _, r in records]


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
        raise annotation_error(path, line, text, _unit(path))
    return [text] if (text := str(label).strip()) else []


def _seconds(path: Path, line: int, value: Any) -> float | None:
    """A time as a number or as ffmpeg writes it: `[HH:]MM:SS[.m...]`."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if clock := _CLOCK.fullmatch(text):
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    try:
        seconds = float(text)
    except ValueError as error:
        text = f"'{value}' is not a time; write seconds, such as 1.5, or HH:MM:SS.5"
        raise annotation_error(path, line, text, _unit(path)) from error
    if not 0 <= seconds < float("inf"):
        raise annotation_error(
            path, line, f"'{value}' is not a time; write seconds, 0 or more", _unit(path)
        )
    return seconds


def _frame(path: Path, line: int, value: Any) -> int | None:
    if value is None or str(value).strip() == "":
        return None
    number = whole_number(value)
    if number is None:
        text = f"'{value}' is not a frame number; write a whole number, 0 or more"
        raise annotation_error(path, line, text, _unit(path))
    return number


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
