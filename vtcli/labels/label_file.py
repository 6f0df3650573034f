"""Reads a file of class names in the forms that people have: names in index order, one per line;
`0 name`, `0,name` or `name,0` lines in any order; JSON id2label, label2id or a list.

The index base is that of the numbers, 0 or 1. What fits two readings is refused, never guessed.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vtcli.errors import DataError
from vtcli.runtime.text_files import encoding_of

_NUMBER = re.compile(r"\d+(\.0+)?")
_FIRST = re.compile(r"(\d+(?:\.0+)?)\s*[:=\s]\s*(\S.*)")
_ITEM = re.compile(r"\[?(\d+)(?:[.)\]-]|\s+[-:=])\s+(\S.*)")
_LAST = re.compile(r"(.*[^\s:=])\s*[:=\s]\s*(\d+(?:\.0+)?)")
_NAME_HEADERS = frozenset(
    {
        "name",
        "label",
        "labels",
        "class",
        "classes",
        "class_name",
        "label_name",
        "category",
        "action",
    }
)
_INDEX_HEADERS = frozenset(
    {"", "id", "index", "idx", "label_id", "class_id", "label_index", "class_index", "number"}
)
_NOT_TEXT = (".yaml", ".yml", ".xml", ".pbtxt", ".pkl", ".npy")
_SHOWN = 3


@dataclass(frozen=True)
class LabelFile:
    """Class names in index order, and the form in which the file states them."""

    names: tuple[str, ...]
    form: str

    def describe(self) -> str:
        """The form, the number of names, the first three and the last."""
        text = f"{len(self.names):,} class names ({self.form}): {first_and_last(self.names)}"
        twice = next((name for name, n in Counter(self.names).items() if n > 1), None)
        return text + (f" (warning: '{twice}' is there more than once)" if twice else "")


def first_and_last(names: Sequence[str]) -> str:
    """The first three names and the last one, in quotes."""
    shown = [f"'{name}'" for name in names[:_SHOWN]]
    if len(names) > _SHOWN + 1:
        shown.append("...")
    if len(names) > _SHOWN:
        shown.append(f"'{names[-1]}'")
    return ", ".join(shown)


def read_label_file(path: Path) -> LabelFile:
    """The class names in a file.

    Raises `DataError` if it cannot be read as text, and where it is not clear which class each
    name belongs to.
    """
    if path.suffix.lower() in _NOT_TEXT:
        raise _error(path, f"is a {path.suffix.lower()} file, which is not read")
    text = _text(path)
    if not text.strip():
        raise _error(path, "is empty")
    numbered = _ITEM.match(text.lstrip())
    if path.suffix.lower() == ".json" or (text.lstrip()[0] in "{[" and not numbered):
        return _from_json(path, text)
    if "\0" in text or text.startswith("PK\x03\x04"):
        raise _error(path, "is not a text file")
    lines = text.rstrip().splitlines()
    if blank := next((n for n, line in enumerate(lines, 1) if not line.strip()), 0):
        raise _error(path, f"has an empty line {blank} between names, which may be a class")
    table = _from_table(path, lines)
    return table or _from_lines(path, [line.strip() for line in lines])


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode(encoding_of(data))
    except (OSError, UnicodeDecodeError) as error:
        way = "save it as UTF-8" if isinstance(error, ValueError) else "check the path"
        raise DataError(f"the labels file {path} cannot be read as text: {error}; {way}") from error


def _error(path: Path, what: str) -> DataError:
    return DataError(
        f"the labels file {path} {what}; write one class name per line in index order, or JSON "
        '{"0": "name", ...}'
    )


def _from_json(path: Path, text: str) -> LabelFile:
    try:
        content = json.loads(text, object_pairs_hook=partial(_without_repeats, path))
    except json.JSONDecodeError as error:
        raise _error(path, f"is not valid JSON (line {error.lineno}: {error.msg})") from error
    if isinstance(content, dict):
        for key in ("id2label", "label2id", "classes", "names", "labels"):
            if isinstance(content.get(key), dict | list):
                content = content[key]
                break
    if isinstance(content, list):
        return _from_json_list(path, content)
    if not isinstance(content, dict) or not content:
        raise _error(path, "holds neither names nor a mapping between names and numbers")
    keys = [str(key) for key in content]
    values = [_as_text(path, value) for value in content.values()]
    by_key, by_value = _all_numbers(keys), _all_numbers(values)
    if by_key and by_value and keys != values:
        raise _error(path, "maps numbers to numbers, so either side may be the names")
    if by_key:
        return LabelFile(_numbered(path, keys, values), _base("JSON id2label", keys))
    if by_value:
        return LabelFile(_numbered(path, values, keys), _base("JSON label2id", values))
    raise _error(path, "maps names to names, and no side numbers the classes")


def _from_json_list(path: Path, content: list[Any]) -> LabelFile:
    if content and all(isinstance(entry, dict) for entry in content):
        pairs = [(_field(path, e, _INDEX_HEADERS), _field(path, e, _NAME_HEADERS)) for e in content]
        numbers = [number for number, _ in pairs]
        names = _numbered(path, numbers, [name for _, name in pairs])
        return LabelFile(names, _base("JSON list of numbers and names", numbers))
    if not content or not all(isinstance(entry, str) and entry.strip() for entry in content):
        raise _error(path, "is a JSON list that is not one of names")
    return LabelFile(tuple(content), "JSON list in index order")


def _without_repeats(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise _error(path, f"has the key '{twice[:40]}' twice")
    return table


def _field(path: Path, record: Mapping[str, Any], names: frozenset[str]) -> str:
    found = [value for key, value in record.items() if key.casefold() in names]
    if len(found) != 1:
        raise _error(path, f"has the record {str(record)[:60]}, which is not one number and name")
    return str(found[0])


def _as_text(path: Path, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _error(path, f"maps to {str(value)[:40]}, which is neither a name nor a number")
    return str(value)


def _from_table(path: Path, lines: Sequence[str]) -> LabelFile | None:
    """Names in a csv file of one or two columns; None for other files."""
    if lines[0].casefold().startswith("sep="):
        lines = lines[1:]
    marks = [m for m in "\t;," if all(m in line for line in lines)]
    if not marks:
        title = lines[0].strip().strip('"').casefold()
        if path.suffix.lower() in (".csv", ".tsv") and title in _NAME_HEADERS:
            listed = [line.strip().strip('"') for line in lines[1:]]
            return LabelFile(tuple(listed), "column of names in index order")
        return None
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=marks[0]))
    except csv.Error:
        return None
    rows = [[cell.strip() for cell in row] for row in rows]
    header = [cell.casefold() for cell in rows[0]]
    named = [place for place, cell in enumerate(header) if cell in _NAME_HEADERS]
    numbered = [place for place, cell in enumerate(header) if cell in _INDEX_HEADERS]
    if len(named) == 1 and len(numbered) == 1 and len({len(row) for row in rows}) == 1:
        numbers = [row[numbered[0]] for row in rows[1:]]
        names = _numbered(path, numbers, [row[named[0]] for row in rows[1:]])
        return LabelFile(names, _base(f"csv '{header[numbered[0]]},{header[named[0]]}'", numbers))
    if len(named) == 1 and not numbered and path.suffix.lower() in (".csv", ".tsv"):
        raise _error(path, f"has the column '{header[named[0]]}' and none that numbers the classes")
    if {len(row) for row in rows} != {2}:
        return None
    first, last = [row[0] for row in rows], [row[1] for row in rows]
    if _all_numbers(first) and _all_numbers(last):
        raise _error(path, "has two columns of numbers, so either may be the names")
    for form, numbers, names_of in (("index,name", first, last), ("name,index", last, first)):
        if _all_numbers(numbers):
            return LabelFile(_numbered(path, numbers, names_of), _base(f"csv '{form}'", numbers))
        if _all_numbers(numbers[1:]) and len(numbers) > 1:
            ordered = _numbered(path, numbers[1:], names_of[1:])
            return LabelFile(ordered, _base(f"csv '{form}' below a header", numbers[1:]))
    return None


def _from_lines(path: Path, lines: Sequence[str]) -> LabelFile:
    if _all_numbers(lines):
        raise _error(path, "has only numbers and no names")
    items = [found for line in lines if (found := _ITEM.fullmatch(line))]
    if len(items) == len(lines) and _is_numbering([found[1] for found in items]):
        numbers = [found[1] for found in items]
        names = _numbered(path, numbers, [found[2] for found in items])
        return LabelFile(names, _base("lines 'N. name'", numbers))
    first = [found for line in lines if (found := _FIRST.fullmatch(line))]
    if len(first) == len(lines):
        numbers = [found[1] for found in first]
        names = _numbered(path, numbers, [found[2] for found in first])
        return LabelFile(names, _base("lines 'N name'", numbers))
    last = [found for line in lines if (found := _LAST.fullmatch(line))]
    distinct = len({found[1] for found in last}) == len(lines)
    if len(last) == len(lines) and distinct and _is_numbering([found[2] for found in last]):
        numbers = [found[2] for found in last]
        names = _numbered(path, numbers, [found[1] for found in last])
        return LabelFile(names, _base("lines 'name N'", numbers))
    return LabelFile(tuple(lines), "one per line in index order")


def _all_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts)


def _is_numbering(numbers: Sequence[str]) -> bool:
    values = sorted(int(float(number)) for number in numbers)
    return (
        bool(values)
        and values[0] in (0, 1)
        and values == list(range(values[0], values[0] + len(values)))
    )


def _numbered(path: Path, numbers: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of their numbers, which run from 0 or 1 without gaps."""
    if not _all_numbers(numbers):
        wrong = next(number for number in numbers if not _NUMBER.fullmatch(number))
        raise _error(path, f"has '{wrong}' where other lines have a class number")
    if not _is_numbering(numbers):
        values = [int(float(number)) for number in numbers]
        repeated = next((v for v in values if values.count(v) > 1), None)
        why = f"number {repeated} is used twice" if repeated is not None else "some are missing"
        raise _error(
            path,
            f"begins or ends its lines with numbers ({min(values)} to {max(values)} for "
            f"{len(values)} names) that do not number the classes: {why}",
        )
    pairs = sorted(zip(numbers, names, strict=True), key=lambda pair: float(pair[0]))
    if any(not name for _, name in pairs):
        raise _error(path, "has a number without a name")
    return tuple(name for _, name in pairs)


def _base(form: str, numbers: Sequence[str]) -> str:
    return f"{form}, numbered from {min(int(float(number)) for number in numbers)}"
