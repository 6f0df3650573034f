"""With `--csv-safe`, no cell of any CSV begins like a formula; without it, none is changed."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtcli
from vtcli.runtime.csv_cells import CSV_SAFE, SafeDictWriter, write_csv

ROWS = [["id", "=label"], ["-clip.mp4", "=1+1"], ["@x", "-0.5"], ["+49 1", "a"], ["\tb", 2.5]]
SAFE = [
    ["id", "'=label"],
    ["'-clip.mp4", "'=1+1"],
    ["'@x", "-0.5"],
    ["'+49 1", "a"],
    ["'\tb", "2.5"],
]


@pytest.fixture
def safe() -> Iterator[None]:
    token = CSV_SAFE.set(True)
    yield
    CSV_SAFE.reset(token)


def written() -> list[list[str]]:
    file = io.StringIO(newline="")
    write_csv(file, ROWS)
    return [*csv.reader(io.StringIO(file.getvalue(), newline=""))]


def test_rows_are_written_as_they_are() -> None:
    assert written() == [[str(value) for value in row] for row in ROWS]


def test_formulas_get_an_apostrophe_on_request(safe: None) -> None:
    assert written() == SAFE
    file = io.StringIO(newline="")
    writer = SafeDictWriter(file, ["id", "label"])
    writer.writerows([dict(zip(("id", "label"), row, strict=True)) for row in ROWS[1:]])
    assert [*csv.reader(io.StringIO(file.getvalue(), newline=""))] == SAFE[1:]


def test_every_csv_is_written_by_these_two() -> None:
    names = {"writer", "DictWriter"}
    found = [
        path.name
        for path in Path(vtcli.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in names
        if isinstance(node.value, ast.Name) and node.value.id == "csv"
    ]
    assert set(found) == {"csv_cells.py"}
