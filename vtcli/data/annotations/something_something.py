"""Something-Something and Jester.

Version 2: a JSON list of {id, label, template, placeholders}; the class is the template without its
brackets, and labels.json numbers the classes. Version 1 and Jester: csv lines `id;class name`, one
class name per line in {dataset}-labels.csv, each video a folder of images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    indexed_names,
    json_records,
    read_json,
    read_lines,
    sibling,
)
from vtcli.errors import DataError


def read_something_json(path: Path) -> Annotation:
    """One row per video, labeled by class name if the file has templates or, for the test list, if
    the file of test answers is next to it.

    Raises `DataError` naming a record without an id or, if other records have one, a template.
    """
    records = list(json_records(path, "id"))
    labels = _templates(path, records) or _test_answers(path, records)
    rows = []
    for number, record in records:
        id_ = str(record["id"])
        label = (labels[number],) if labels else ()
        rows.append(AnnotationRow((f"{id_}.webm", id_), label, number, id_))
    source = sibling(path, "something-something-v2-labels.json", "labels.json")
    classes = {"action": _numbered_classes(source)} if source else {}
    description = "Something-Something v2 json"
    return Annotation(
        path, description, rows, classes=classes, unique_filenames=True, unit="record"
    )


def _templates(path: Path, records: list[tuple[int, dict[str, Any]]]) -> dict[int, str]:
    """The class of each record by its number; empty if no record has a template."""
    found = {
        number: str(record["template"]).replace("[", "").replace("]", "")
        for number, record in records
        if record.get("template")
    }
    if found and len(found) < len(records):
        number, record = next((n, r) for n, r in records if n not in found)
        text = f"video {record['id']} has no template; fix the record"
        raise annotation_error(path, number, text, "record")
    return found


def _test_answers(path: Path, records: list[tuple[int, dict[str, Any]]]) -> dict[int, str]:
    """The class of each test video from the file of test answers, if it is next to `path`."""
    source = sibling(path, "something-something-v2-test-answers.csv", "test-answers.csv")
    if source is None or "test" not in path.stem:
        return {}
    answers = {row.id: str(row.labels[0]) for row in read_id_label(source).rows if row.labels}
    missing = next(((n, r) for n, r in records if str(r["id"]) not in answers), None)
    if missing is not None:
        number, record = missing
        text = f"video {record['id']} has no label in {source.name}; give the official file"
        raise annotation_error(path, number, text, "record")
    return {number: answers[str(record["id"])] for number, record in records}


def _numbered_classes(path: Path) -> tuple[str, ...]:
    """The class names of labels.json, which maps each to its number as a string."""
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path} does not map class names to numbers; give the official file")
    return indexed_names(path, [(0, str(number), name) for name, number in table.items()], 0)


def read_id_label(path: Path) -> Annotation:
    """One row per line `id;class name`; a file without any `;` is a test list without labels.

    Raises `DataError` naming a line without an id or class name.
    """
    lines = read_lines(path)
    labeled = any(";" in line for _, line in lines)
    rows = []
    for number, line in lines:
        id_, mark, label = (part.strip() for part in line.partition(";"))
        if not id_ or (labeled and not (mark and label)):
            raise annotation_error(path, number, "is not 'id;class name'; fix the line")
        rows.append(AnnotationRow((id_,), (label,) if label else (), number, id_))
    source = sibling(path, f"{path.stem.rpartition('-')[0]}-labels.csv")
    classes = {"action": tuple(name for _, name in read_lines(source))} if source else {}
    description = "csv 'id;class name'" if labeled else "list of ids"
    return Annotation(path, description, rows, classes=classes)
