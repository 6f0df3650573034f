"""Something-Something and Jester.

Version 2: a JSON list of {id, label, template, placeholders}; the class is the template without its
brackets, labels.json numbers them. Version 1 and Jester: csv lines `id;class name`, one class name
per line in {dataset}-labels.csv, videos as one folder of images each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    Annotation,
    Row,
    beside,
    indexed_names,
    json_records,
    problem,
    read_json,
    read_lines,
)
from vtcli.errors import DataError


def read_something_json(path: Path) -> Annotation:
    """One row per video, labeled by class name where the file has templates or, for the test
    list, the answers lie beside it.

    Raises `DataError` naming a record without an id or, where others have one, a template.
    """
    records = list(json_records(path, "id"))
    labels = _templates(path, records) or _answers(path, records)
    rows = []
    for number, record in records:
        id_ = str(record["id"])
        label = (labels[number],) if labels else ()
        rows.append(Row((f"{id_}.webm", id_), label, number, id_))
    source = beside(path, "something-something-v2-labels.json", "labels.json")
    classes = {"action": _numbered(source)} if source else {}
    description = "Something-Something v2 json"
    return Annotation(
        path, description, rows, classes=classes, unique_filenames=True, unit="record"
    )


def _templates(path: Path, records: list[tuple[int, dict[str, Any]]]) -> dict[int, str]:
    """The class of each record by its number; nothing where no record has one."""
    found = {
        number: str(record["template"]).replace("[", "").replace("]", "")
        for number, record in records
        if record.get("template")
    }
    if found and len(found) < len(records):
        number, record = next((n, r) for n, r in records if n not in found)
        raise problem(path, number, f"video {record['id']} has no template; mend it", "record")
    return found


def _answers(path: Path, records: list[tuple[int, dict[str, Any]]]) -> dict[int, str]:
    """The class of each test video from the file of answers, where that lies beside."""
    source = beside(path, "something-something-v2-test-answers.csv", "test-answers.csv")
    if source is None or "test" not in path.stem:
        return {}
    answers = {row.id: str(row.labels[0]) for row in read_id_label(source).rows if row.labels}
    missing = next((n for n, record in records if str(record["id"]) not in answers), None)
    if missing is not None:
        raise problem(path, missing, f"its video has no answer in {source.name}", "record")
    return {number: answers[str(record["id"])] for number, record in records}


def _numbered(path: Path) -> tuple[str, ...]:
    """The class names of labels.json, which maps each to its number in quotes."""
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path} is no table of class names and numbers; give the official file")
    return indexed_names(path, [(0, str(number), name) for name, number in table.items()], 0)


def read_id_label(path: Path) -> Annotation:
    """One row per line `id;class name`; a file without any `;` is a test list and has no labels.

    Raises `DataError` naming a line without id or name.
    """
    lines = read_lines(path)
    labeled = any(";" in line for _, line in lines)
    rows = []
    for number, line in lines:
        id_, mark, label = (part.strip() for part in line.partition(";"))
        if not id_ or (labeled and not (mark and label)):
            raise problem(path, number, "is not 'id;class name'; mend the line")
        rows.append(Row((id_,), (label,) if label else (), number, id_))
    source = beside(path, f"{path.stem.rpartition('-')[0]}-labels.csv")
    classes = {"action": tuple(name for _, name in read_lines(source))} if source else {}
    description = "csv 'id;class name'" if labeled else "list of ids"
    return Annotation(path, description, rows, classes=classes)
