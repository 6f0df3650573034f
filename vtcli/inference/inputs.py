"""Resolves the sources of a command to video files: files, folders, shell patterns, lists.

Everything is walked lazily and in a fixed order, so that folders of millions need no memory.
"""

from __future__ import annotations

import csv
import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from vtcli.errors import DataError, UsageError, VideoDecodeError
from vtcli.inference.run_store import Input
from vtcli.video.extensions import has_video_suffix
from vtcli.video.remote import expand_url, is_url, stat_url

_REQUESTS = 16
STDIN = "-"
LIST_COLUMNS = ("path", "video", "video_path", "file", "filename", "url")
"""Columns of a list that are taken for the path, in this order of preference."""


def find_videos(sources: Iterable[str | Path]) -> list[str]:
    """`iter_videos` as a list."""
    return list(iter_videos(sources))


def iter_videos(sources: Iterable[str | Path]) -> Iterator[str]:
    """The files that the sources name: a folder is searched for videos, a pattern is expanded, `-`
    is a list on standard input, one path per line.

    A path that does not exist, and a folder without videos, is returned as it is, so that it is
    reported in its place.
    """
    for source in map(str, sources):
        if source == STDIN:
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
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
    """The paths in a list: .txt with one per line, .csv or .parquet with a column of them.

    `column` names the column; by default it is the first of `LIST_COLUMNS` that is there. Raises
    `DataError` for a list that cannot be read, `UsageError` for a column it does not have.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_column(path, column)
        elif path.suffix.lower() in (".csv", ".tsv"):
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                rows = csv.DictReader(file, delimiter=delimiter)
                name = _column(path, column, rows.fieldnames or ())
                yield from (row[name] for row in rows if row[name])
        else:
            with path.open(encoding="utf-8", errors="surrogateescape") as lines:
                yield from (line.rstrip("\r\n") for line in lines if line.strip())
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror or error}") from error


def describe_all(paths: Iterable[str]) -> Iterator[Input]:
    """`describe` of each, in order; URLs are asked for several at a time."""
    from concurrent.futures import ThreadPoolExecutor

    coming = iter(paths)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while batch := list(itertools.islice(coming, 4 * _REQUESTS)):
            if any(map(is_url, batch)):
                yield from pool.map(describe, batch)
            else:
                yield from map(describe, batch)


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


def _walk(folder: str) -> Iterator[str]:
    """The videos below a folder, in the order of their names, folder by folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif has_video_suffix(entry.name) and not entry.name.startswith(".") and entry.is_file():
            yield entry.path


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
