"""Resolves the sources of a command to video files: files, folders, shell patterns, lists.

Everything is walked lazily and in a fixed order, so that folders of millions need no memory.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from vtcli.data.annotations.base import delimiter_of
from vtcli.data.annotations.folder_walk import is_document, is_system_name
from vtcli.errors import DataError, UsageError, VideoDecodeError
from vtcli.inference.run_store import Input
from vtcli.runtime.text_files import encoding_of
from vtcli.runtime.words import and_more, first_of, plural
from vtcli.video.extensions import has_video_suffix
from vtcli.video.remote import expand_url, is_url, stat_url

_log = logging.getLogger(__name__)
_NAMED = 3  # of the entries that a walk skips
_REQUESTS = 16
_SLOW_SECONDS = 2e-4
"""A file whose size and time take longer to read is on another machine."""
_REMEASURED = 256
"""Of so many batches of slow files one is measured again: the machine may only have been busy."""
STDIN = "-"
_NOT_LISTS = (".json", ".xlsx", ".xls", ".gz", ".zip")
LIST_COLUMNS = ("path", "video", "video_path", "file", "filename", "url")
"""Columns of a list that are taken for the path, in this order of preference."""


def iter_inputs(
    sources: Iterable[str | Path], listed: Path | None, column: str | None
) -> Iterator[str]:
    """`iter_videos`, and then the paths of a list; one that cannot be read is refused at once."""
    paths = iter(()) if listed is None else iter_list(listed, column)
    first = list(itertools.islice(paths, 1))
    if listed is not None and not first:
        raise DataError(f"the list {listed} names no video; write one path per line")
    return itertools.chain(iter_videos(sources), first, paths)


def find_videos(
    sources: Iterable[str | Path], listed: Path | None = None, column: str | None = None
) -> list[str]:
    """`iter_inputs` as a list."""
    return list(iter_inputs(sources, listed, column))


def iter_videos(sources: Iterable[str | Path]) -> Iterator[str]:
    """The files that the sources name: a folder is searched for videos, a pattern is expanded, `-`
    is a list on standard input, one path per line.

    A path that does not exist, and a folder without videos, is returned as it is, so that it is
    reported in its place.
    """
    for source in map(str, sources):
        if source == STDIN:
            yield from _lines("on standard input", sys.stdin)
        elif is_url(source):
            yield from expand_url(source)
        elif os.path.isdir(source):
            inside = _walk(source)
            first = next(inside, source)
            yield from itertools.chain([first], inside)
        elif not os.path.exists(source) and any(c in source for c in "*?["):
            yield from sorted(glob.glob(source, recursive=True)) or [source]
        else:
            yield source


def iter_list(path: Path, column: str | None = None) -> Iterator[str]:
    """The paths in a list: .txt with one per line (`-`: standard input), .csv, .jsonl or .parquet
    with a column of them.

    `column` names the column; by default it is the first of `LIST_COLUMNS` that is there. Raises
    `DataError` for a list that cannot be read, `UsageError` for a column it does not have.
    """
    kind = path.suffix.lower()
    if str(path) == STDIN:
        yield from iter_videos([STDIN])
        return
    if kind in _NOT_LISTS:
        raise DataError(f"the list {path} is a {kind} file; save it as .txt, .csv or .jsonl")
    try:
        if kind == ".parquet":
            yield from _parquet_column(path, column)
            return
        with path.open("rb") as file:
            encoding = encoding_of(file.read(2))
        errors = "strict" if encoding == "utf-16" else "surrogateescape"
        with path.open(encoding=encoding, errors=errors, newline="") as file:
            yield from _rows(path, file, column)
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise DataError(f"the list {path} is damaged UTF-16 text; save it as UTF-8") from error


def _rows(path: Path, file: TextIO, column: str | None) -> Iterator[str]:
    """The paths in a text file."""
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        header = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter_of(header))
        names = next(rows, [])
        if not column and any(map(has_video_suffix, names)):
            raise UsageError(f"{path} has no header; begin it with a line such as path,label")
        place = names.index(_column(path, column, names))
        yield from (row[place] for row in rows if len(row) > place and row[place])
    elif kind in (".jsonl", ".ndjson"):
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                name = _column(path, column, record)
                yield str(record[name])
            except (json.JSONDecodeError, TypeError) as error:
                text = f"the list {path}, line {number}, is not a JSON object"
                raise DataError(f"{text}; write one per line") from error
    else:
        yield from _lines(str(path), file)


def _lines(name: str, file: Iterable[str]) -> Iterator[str]:
    """The lines of a file that are not blank."""
    for line in file:
        if "\0" in line:
            raise DataError(f"the list {name} has null bytes; write one path per line as UTF-8")
        if line.strip():
            yield line.rstrip("\r\n")


def describe_all(paths: Iterable[str]) -> Iterator[Input]:
    """`describe` of each, in order; several at a time for URLs and in slow folders."""
    from concurrent.futures import ThreadPoolExecutor

    coming, slow = iter(paths), False
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for number in itertools.count():
            batch = list(itertools.islice(coming, 4 * _REQUESTS))
            if not batch:
                return
            if any(map(is_url, batch)) or (slow and number % _REMEASURED):
                yield from pool.map(describe, batch)
                continue
            start = time.perf_counter()
            described = list(map(describe, batch))
            slow = time.perf_counter() - start > _SLOW_SECONDS * len(batch)
            yield from described


def describe(path: str) -> Input:
    """A path with the size and time that tell whether its file changed."""
    if is_url(path):
        try:
            about = stat_url(path)
        except VideoDecodeError:
            return Input(path)
        return Input(path, about.size, etag=about.tag)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Input(path)
    return Input(path, status.st_size, status.st_mtime_ns)


def refuse_longer(path: str, seconds: float, limit: float) -> None:
    """Raise `VideoDecodeError` (reason `limit`) for a video of more seconds than are allowed."""
    if seconds > limit:
        raise VideoDecodeError(
            *(path, "limit"),
            f"lasts {seconds:.0f} s, and at most {limit:g} s are allowed; cut it first",
        )


class _Skipped:
    """How many entries of a kind a walk has skipped, and the names of the first."""

    def __init__(self, one: str, several: str) -> None:
        self.nouns, self.count, self.names = (one, several), 0, list[str]()

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < _NAMED:
            self.names.append(name)

    def __str__(self) -> str:
        names = f"{first_of(self.names)} {and_more(self.count - len(self.names))}".strip()
        return f"{plural(self.count, *self.nouns)} ({names})"


def _walk(folder: str) -> Iterator[str]:
    """The videos below a folder, in the order of their names, folder by folder.

    Hidden files and those of operating systems are none. At the end a line names what else may be a
    video: links, and files whose extension is that of no video and of no document.
    """
    skipped = {
        "closed": _Skipped("folder that cannot be opened", "folders that cannot be opened"),
        "dangling": _Skipped("dangling link", "dangling links"),
        "link": _Skipped("link to a folder", "links to folders"),
        "other": _Skipped("other file", "other files"),
    }
    yield from _videos_below(folder, skipped)
    if found := ", ".join(str(kind) for kind in skipped.values() if kind.count):
        _log.warning("warning: %s: skipped %s; to include one, give its path", folder, found)


def _videos_below(folder: str, skipped: Mapping[str, _Skipped]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        skipped["closed"].add(os.path.basename(folder))
        return
    for entry in entries:
        if is_system_name(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _videos_below(entry.path, skipped)
        elif has_video_suffix(entry.name) and entry.is_file():
            yield entry.path
        elif not os.path.exists(entry.path):
            skipped["dangling"].add(entry.name)
        elif entry.is_dir():
            skipped["link"].add(entry.name)
        elif not is_document(entry.name):
            skipped["other"].add(entry.name)


def _column(path: Path, asked: str | None, names: Iterable[str]) -> str:
    found = list(names)
    by_lower_case = {name.strip().lower(): name for name in found}
    wanted = [asked.lower()] if asked else LIST_COLUMNS
    for name in wanted:
        if name in by_lower_case:
            return by_lower_case[name]
    raise UsageError(
        f"{path} has no column '{asked or 'path'}'; its columns are {', '.join(found)}: name one "
        "with --column"
    )


def _parquet_column(path: Path, column: str | None) -> Iterator[str]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("a Parquet list needs pyarrow: pip install 'vtcli[parquet]'") from error
    try:
        with pq.ParquetFile(path) as file:
            name = _column(path, column, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[name]):
                yield from (value for value in batch.column(0).to_pylist() if value)
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise DataError(f"the list {path} cannot be read: {error}") from error
