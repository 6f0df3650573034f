"""What every annotation format is read into before files are looked for and labels become indices,
and the reading of text that all formats share.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vtcli.errors import DataError

Label = int | str


class Row(NamedTuple):
    """One labeled video as an annotation states it.

    `places` are relative paths where the video may lie, the likeliest first. `labels` are names, or
    numbers as the file counts them: one per head, or several for the only head; none where the
    annotation gives none. `line` is the line or record it stands in. `id` "": the first place.
    `start` and `end` are seconds.
    """

    places: tuple[str, ...]
    labels: tuple[Label, ...] = ()
    line: int = 0
    id: str = ""
    start: float | None = None
    end: float | None = None
    split: str = ""


@dataclass(frozen=True)
class Annotation:
    """One annotation, read but not yet fitted to files and classes.

    `description` says in words what was read. `classes` are the names that the annotation itself
    states for a head, in index order. `index_base` is the number of the first class where the
    format fixes it, None where lists differ. `unique_filenames`: the names of video files are unique
    in the whole dataset, whatever folder they lie in. `unit` is what `Row.line` counts.
    """

    path: Path
    description: str
    rows: Sequence[Row]
    heads: tuple[str, ...] = ("action",)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    index_base: int | None = None
    unique_filenames: bool = False
    unit: str = "line"

    def problem(self, row: Row, text: str) -> DataError:
        """The error that says what is wrong with one row."""
        return problem(self.path, row.line, text, self.unit)


def problem(path: Path, line: int, text: str, unit: str = "line") -> DataError:
    """The error that names the file, the line (0: the whole file) and what is wrong with it."""
    return DataError(f"{path}, {unit} {line}: {text}" if line else f"{path}: {text}")


def read_text(path: Path) -> str:
    """A whole text file, without a byte order mark.

    Raises `DataError` where it cannot be read or is not UTF-8, naming the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise problem(path, line, "is not text in UTF-8; save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise problem(path, line, "holds zero bytes and is no text; save it as UTF-8")
    return text


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers; only \\n and \\r\\n end a line.

    Raises `DataError` for a file without any.
    """
    lines = [(n, line.rstrip()) for n, line in enumerate(read_text(path).split("\n"), 1)]
    kept = [(n, line) for n, line in lines if line]
    if not kept:
        raise DataError(f"{path} is empty; give an annotation with at least one video")
    return kept


def read_records(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a csv file with a header, by column name, with their line numbers.

    Commas, semicolons or tabs separate the columns, which are named in lower case and
    without blanks around them. Raises `DataError` where a
    column of `needed` is missing, a row has fewer or more fields than the header, or none is there.
    """
    text = read_text(path)
    delimiter = delimiter_of(text.split("\n", 1)[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    records: list[tuple[int, dict[str, str]]] = []
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if missing:
            raise problem(path, 1, f"has no column '{missing[0]}'; write {','.join(needed)}")
        for fields in reader:
            if not any(fields):
                continue
            if len(fields) != len(header):
                text = f"has {len(fields)} fields where the header has {len(header)}; mend the row"
                raise problem(path, reader.line_num, text)
            records.append((reader.line_num, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise problem(path, reader.line_num, f"is not valid csv ({error})") from error
    if not records:
        raise DataError(f"{path} is empty; give an annotation with at least one video")
    return records


def delimiter_of(header: str) -> str:
    """What separates the columns of a csv file: a comma, a semicolon or a tab."""
    return max(",;\t", key=header.count)


def csv_fields(line: str, delimiter: str = ",") -> list[str]:
    """The fields of one line of csv, without blanks around them; none where it is not valid."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises `DataError` naming the line where it is not valid.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise problem(path, error.lineno, f"is not valid JSON ({error.msg})") from error


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with one JSON object per line, with their line numbers.

    Raises `DataError` naming the line where one is not.
    """
    records = []
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise problem(path, number, f"is not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise problem(path, number, "is no JSON object; write one object per line")
        records.append((number, record))
    return records


def json_records(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list with their numbers from 1; each must have `key`."""
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is no list with at least one record; give the official file")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or key not in record:
            raise problem(path, number, f"has no '{key}'; give the official file", "record")
        yield number, record


def indexed_names(path: Path, pairs: Sequence[tuple[int, str, str]], first: int) -> tuple[str, ...]:
    """Class names in index order from (line, number, name); numbers run on from `first`.

    Raises `DataError` for a number that is none, comes twice or leaves a gap.
    """
    names: dict[int, str] = {}
    for line, number, name in pairs:
        if not number.strip().isdecimal():
            raise problem(path, line, f"'{number}' is no class number; write a whole number")
        if int(number) in names:
            raise problem(path, line, f"class number {number} comes twice; give each its own")
        names[int(number)] = name.strip()
    wanted = range(first, first + len(names))
    missing = next((n for n in wanted if n not in names), None)
    if missing is not None:
        raise DataError(f"{path} names no class {missing}; number the classes from {first} on")
    return tuple(names[n] for n in wanted)


def beside(path: Path, *names: str) -> Path | None:
    """The first of these files that lies beside `path`."""
    return next((p for name in names if (p := path.parent / name).is_file()), None)
