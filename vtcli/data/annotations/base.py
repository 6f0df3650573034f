"""What every annotation format is read into, and the text parsing that all formats share.

A reader turns one annotation file or folder into an `Annotation`, a list of `AnnotationRow`s.
Finding the video files and turning labels into class indices comes later (`vtcli.data.build`).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vtcli.errors import DataError
from vtcli.runtime.text_files import encoding_of

Label = int | str

# What Excel writes above the header to name the separator.
SEPARATOR_LINE = re.compile(r"sep=.", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"\d+(\.0+)?")
_PIECE = 1 << 20
# What is not text by its first bytes -> what to do with it.
_BINARY = (
    (b"PK\x03\x04", "is an Excel workbook or another archive, not text; save it as csv"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook, not text; save it as csv"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it"),
    (b"PAR1", "is a Parquet file; give it the extension .parquet"),
)
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class AnnotationRow(NamedTuple):
    """One labeled video as an annotation states it.

    `candidate_paths` are the relative paths at which the video may be found, most likely first.
    `labels` are class names, or class numbers as the file counts them: one per head, or any number
    of them if there is one head; empty if the annotation gives none. `line` is the number of the
    line or record. An empty `id` stands for the first candidate path. `start` and `end` are in
    seconds, `first_frame` and `last_frame` are frame numbers from 0, both inclusive; `frames` is
    how many frames the annotation states. `columns` are all columns of the row.
    """

    candidate_paths: tuple[str, ...]
    labels: tuple[Label, ...] = ()
    line: int = 0
    id: str = ""
    start: float | None = None
    end: float | None = None
    split: str = ""
    first_frame: int | None = None
    last_frame: int | None = None
    frames: int | None = None
    columns: Mapping[str, Any] = MappingProxyType({})


SkipKind: TypeAlias = Literal[
    "loose",
    "not_video",
    "dangling",
    "link",
    "image",
    "document",
    "system",
    "no_videos",
    "empty",
]
SKIPPED: Mapping[SkipKind, tuple[str, str]] = {
    "loose": ("video outside the class folders", "videos outside the class folders"),
    "not_video": ("file that is not a video", "files that are not videos"),
    "dangling": ("dangling link", "dangling links"),
    "link": ("link to another part of the dataset", "links to other parts of the dataset"),
    "image": ("image outside a folder of frames", "images outside folders of frames"),
    "document": ("document", "documents"),
    "system": ("hidden or system entry", "hidden or system entries"),
    "no_videos": ("folder without videos", "folders without videos"),
    "empty": ("folder without videos", "folders without videos"),
}
"""What a file or folder that was skipped is called, one of them and several, in the order of
messages; an `empty` folder contains no file at all.
"""
HARMLESS: tuple[SkipKind, ...] = ("document", "system")
"""What is expected next to videos; everything else that was skipped may be a lost video."""


class Skipped(NamedTuple):
    """A file or folder of a dataset that was not used; `path` is relative to the dataset folder."""

    path: str
    kind: SkipKind
    split: str = ""


class RowProblem(NamedTuple):
    """A row that cannot be used: what is wrong with it as one word and as a sentence.

    `path` is the video as listed.
    """

    kind: Literal["unlabeled", "listed_twice"]
    path: str
    line: int
    text: str
    split: str = ""


@dataclass(frozen=True)
class Annotation:
    """One annotation file or folder, before video files and class indices are looked up.

    `description` says what was read. `classes` are the class names that the annotation itself
    lists for a head, in index order. `index_base` is the number of the first class if the format
    defines it, None if lists of this format differ. `unique_filenames`: a video's file name is
    unique within the dataset, whatever folder it is in. `unit` is what `AnnotationRow.line` counts.
    `problems` are rows that are left out of `rows`: an error, except for a check.
    """

    path: Path
    description: str
    rows: Sequence[AnnotationRow]
    heads: tuple[str, ...] = ("action",)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    index_base: int | None = None
    unique_filenames: bool = False
    unit: str = "line"
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[RowProblem, ...] = ()

    def row_error(self, row: AnnotationRow, text: str) -> DataError:
        """The error for one row; see `annotation_error`."""
        return annotation_error(self.path, row.line, text, self.unit)


def annotation_error(path: Path, line: int, text: str, unit: str = "line") -> DataError:
    """An error that names the file, the line (0: the whole file) and what is wrong with it."""
    return DataError(f"{path}, {unit} {line}: {text}" if line else f"{path}: {text}")


_TEXTS: ContextVar[dict[Path, str] | None] = ContextVar("annotation texts", default=None)


@contextmanager
def share_texts(texts: dict[Path, str]) -> Iterator[None]:
    """Within this block, read each file from disk once and keep its text in `texts`.

    Detecting a format and reading it both need the text, and large lists are on slow disks.
    """
    token = _TEXTS.set(texts)
    try:
        yield
    finally:
        _TEXTS.reset(token)


def read_text(path: Path) -> str:
    """The text of a file without its byte order mark.

    Raises `DataError` if it cannot be read or is not UTF-8, naming the line.
    """
    texts = _TEXTS.get()
    if texts is None:
        return _read_text(path)
    if path not in texts:
        texts[path] = _read_text(path)
    return texts[path]


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    for magic, what in _BINARY:
        if data.startswith(magic):
            raise DataError(f"{path} {what}")
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise annotation_error(path, line, "is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise annotation_error(path, line, "contains null bytes, not text; save it as UTF-8")
    return text if "\n" in text else text.replace("\r", "\n")  # as old spreadsheets save it


def read_lines(path: Path, limit: int | None = None) -> list[tuple[int, str]]:
    """The first `limit` lines that are not blank, by default all, with their numbers; only \\n and
    \\r\\n end a line.

    Raises `DataError` for a file without any.
    """
    kept = list(itertools.islice(_filled_lines(path), limit))
    if kept and SEPARATOR_LINE.fullmatch(kept[0][1]):
        kept = kept[1:]
    if not kept:
        raise DataError(f"{path} is empty; give an annotation with at least one video")
    return kept


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    pieces = (piece.removesuffix("\n").split("\n") for piece in _pieces(read_text(path)))
    lines = enumerate(map(str.rstrip, itertools.chain.from_iterable(pieces)), 1)
    return ((number, line) for number, line in lines if line)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of many whole lines: a copy of a large list's text is never made."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:end]
        start = end


def read_records(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a csv file with a header as {column: value}, with their line numbers.

    Columns are separated as `delimiter_of` says; their names are lowercased and stripped. Raises
    `DataError` if a column of `needed` is missing or two have one name, a row has more or fewer
    fields than the header, or there are no rows.
    """
    text = read_text(path)
    skipped = 0
    if SEPARATOR_LINE.fullmatch(text.split("\n", 1)[0].rstrip()):
        text, skipped = text.partition("\n")[2], 1
    delimiter = delimiter_of(text.split("\n", 1)[0])
    pieces = (io.StringIO(piece, newline="") for piece in _pieces(text))
    reader = csv.reader(itertools.chain.from_iterable(pieces), delimiter=delimiter)
    records: list[tuple[int, dict[str, str]]] = []
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        if twice := next((name for name in header if name and header.count(name) > 1), ""):
            raise annotation_error(path, 1, f"has two columns '{twice}'; rename or remove one")
        missing = [name for name in needed if name not in header]
        if missing:
            text = f"has no column '{missing[0]}'; the header must name {','.join(needed)}"
            raise annotation_error(path, 1, text)
        for fields in reader:
            if not any(fields):
                continue
            if len(fields) != len(header):
                text = f"has {len(fields)} fields, but the header has {len(header)}; fix the row"
                raise annotation_error(path, reader.line_num + skipped, text)
            records.append((reader.line_num + skipped, dict(zip(header, fields, strict=False))))
    except csv.Error as error:
        text = f"is not valid csv ({error}); fix the row"
        raise annotation_error(path, reader.line_num, text) from error
    if not records:
        raise DataError(f"{path} is empty; give an annotation with at least one video")
    return records


def column_names(path: Path) -> list[str]:
    """The column names of a csv file as they are written; empty for another kind of file."""
    lines = [line for line in read_text(path).split("\n")[:2] if not SEPARATOR_LINE.fullmatch(line)]
    return csv_fields(lines[0], delimiter_of(lines[0])) if path.suffix == ".csv" and lines else []


def delimiter_of(header: str) -> str:
    """The column separator of a csv file: a comma, a semicolon, a tab or a vertical bar."""
    return max(",;\t" if header.startswith("|") else ",;\t|", key=header.count)


def csv_fields(line: str, delimiter: str = ",") -> list[str]:
    """The stripped fields of one csv line; empty if it is not valid csv."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read_json(path: Path) -> Any:
    """The content of a JSON file; of one with an object per line, the list of the objects.

    Raises `DataError` naming the line if it is not valid.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos] == "{" and text[0] == "{":
            return [record for _, record in read_json_lines(path)]
        raise annotation_error(path, error.lineno, f"is not valid JSON ({error.msg})") from error


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with one JSON object per line, with their line numbers.

    Raises `DataError` naming a line that is not a JSON object.
    """
    records = []
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise annotation_error(path, number, f"is not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            text = "is not a JSON object; write one object per line"
            raise annotation_error(path, number, text)
        records.append((number, record))
    return records


def json_records(path: Path, key: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list, numbered from 1.

    Raises `DataError` if there are none, or if one of them does not have `key` (if it is given).
    """
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is not a list with at least one record; give the official file")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or (key and key not in record):
            text = f"has no '{key}'; give the official file" if key else "is not an object"
            raise annotation_error(path, number, text, "record")
        yield number, record


def whole_number(text: Any) -> int | None:
    """A number such as a count of frames; None for anything else."""
    text = str(text).strip()
    return int(float(text)) if WHOLE_NUMBER.fullmatch(text) else None


def are_numbers(labels: Sequence[str]) -> bool:
    """Whether the labels of a text file are class numbers; they may be written as `1.0`."""
    return bool(labels) and all(WHOLE_NUMBER.fullmatch(label) for label in labels)


def candidate_paths(listed: str) -> tuple[str, ...]:
    """Where a listed video may be: as written and, for a path of Windows, with slashes; below the
    data folder if it is absolute there. The URL of a file is its path, `~/` the user's folder.
    """
    if listed.startswith("file://"):
        return (url2pathname(urlsplit(listed).path),)
    if listed.startswith("~/"):
        return (listed, os.path.expanduser(listed))
    if "\\" not in listed:
        return (listed,)
    parts = [part for part in listed.split("\\") if part]
    if not _WINDOWS_ABSOLUTE.match(listed):
        return (listed, "/".join(parts))
    return (listed, *("/".join(parts[start:]) for start in range(1, len(parts))))


def indexed_names(path: Path, pairs: Sequence[tuple[int, str, str]], first: int) -> tuple[str, ...]:
    """Class names in index order.

    pairs: (line, class number, class name); the numbers are consecutive from `first`.
    Raises `DataError` for a number that is not a whole number, is repeated or is missing.
    """
    names: dict[int, str] = {}
    for line, number, name in pairs:
        if not number.strip().isdecimal():
            text = f"'{number}' is not a class number; write a whole number"
            raise annotation_error(path, line, text)
        if int(number) in names:
            text = f"class number {number} is used twice; give each class its own"
            raise annotation_error(path, line, text)
        names[int(number)] = name.strip()
    wanted = range(first, first + len(names))
    missing = next((n for n in wanted if n not in names), None)
    if missing is not None:
        raise DataError(
            f"{path} does not list class {missing}; number the classes from {first} without gaps"
        )
    return tuple(names[n] for n in wanted)


def sibling(path: Path, *names: str) -> Path | None:
    """The first of the named files that exists in the folder of `path`."""
    return next((p for name in names if (p := path.parent / name).is_file()), None)
