"""From an annotation's rows to a dataset: one split, class indices for labels, files for names, and
the summary of what was read.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vtcli.data.annotations.base import (
    SKIPPED,
    Annotation,
    AnnotationRow,
    RowProblem,
    Skipped,
)
from vtcli.data.catalog import CatalogEntry, canonical_split
from vtcli.data.find_files import Finder
from vtcli.data.label_map import resolve_labels
from vtcli.data.samples import Dataset, Sample
from vtcli.errors import DataError
from vtcli.runtime.words import plural
from vtcli.video.remote import is_url

_DEFAULT_SPLITS = ("validation", "test", "1")
_NAMES_SHOWN = 3


def splits_of(annotation: Annotation) -> tuple[str, ...]:
    """The splits that the rows name, in order of appearance; empty if they name none."""
    words = dict.fromkeys(row.split for row in annotation.rows if row.split)
    return tuple(dict.fromkeys(map(canonical_split, words)))


def build_dataset(
    annotation: Annotation,
    name: str,
    root: Path,
    split: str | None,
    entry: CatalogEntry | None,
    known_split: str = "",
) -> Dataset:
    """The dataset of one split.

    split: None takes the only one the rows name, else the one meant for testing.
    known_split: the split of an annotation that consists of one split and does not name it.
    Rows that repeat another are left out, and are in the dataset's `problems`. Raises `DataError`
    if the split does not exist or a label is not a class.
    """
    chosen, rows = _choose(annotation, split, known_split)
    named, twice = _ids(annotation, rows, root)
    rows = list(named.values())
    resolved = resolve_labels(annotation, rows, entry)
    finder = Finder(root, _folders(annotation, entry, chosen))
    anywhere = annotation.unique_filenames
    samples = [
        Sample(
            id=id_,
            path=finder.find(row.candidate_paths, anywhere),
            labels=labels,
            start=row.start,
            end=row.end,
            first_frame=row.first_frame,
            last_frame=row.last_frame,
            frames=row.frames,
            split=chosen,
            columns=row.columns,
        )
        for (id_, row), labels in zip(named.items(), resolved.labels, strict=True)
    ]
    skipped = [s for s in annotation.skipped if s.split in ("", chosen)]
    description = f"{annotation.path.absolute().name}: {annotation.description}"
    description += f", split {chosen}" if chosen else ""
    return Dataset(
        name=name,
        samples=tuple(samples),
        classes=resolved.classes,
        summary=f"{description}, {resolved.description}, {_counted(rows)}{_listed(skipped)}",
        root=root,
        split=chosen,
        frame_rate=entry.frame_rate if entry else None,
        metric=entry.metric if entry else "top-1",
        skipped=tuple(skipped),
        problems=tuple([p for p in annotation.problems if canonical_split(p.split) in ("", chosen)])
        + tuple(twice),
    )


def _choose(
    annotation: Annotation, split: str | None, known_split: str
) -> tuple[str, Sequence[AnnotationRow]]:
    """The split and its rows."""
    offered = splits_of(annotation)
    if not offered:
        if split is not None and canonical_split(split) != known_split:
            raise DataError(f"{annotation.path} names no splits; leave the split out")
        return known_split, annotation.rows
    without = next((row for row in annotation.rows if not row.split), None)
    if without is not None:
        raise annotation.row_error(without, "names no split, but other rows do; write one")
    if split is None and len(offered) > 1:
        official = _DEFAULT_SPLITS if "train1" in offered else _DEFAULT_SPLITS[:2]
        split = next((name for name in official if name in offered), None)
        if split is None:
            listed = ", ".join(offered)
            raise DataError(f"{annotation.path} has the splits {listed}; name one with --split")
    chosen = canonical_split(split) if split else offered[0]
    rows = [row for row in annotation.rows if canonical_split(row.split) == chosen]
    if not rows:
        raise DataError(f"{annotation.path} has no split '{split}'; it has {', '.join(offered)}")
    return chosen, rows


def _folders(annotation: Annotation, entry: CatalogEntry | None, split: str) -> tuple[str, ...]:
    """Folders below the root to search for videos: for lists, paths as listed come first."""
    if entry is None:
        return ("",)
    own = entry.splits[split].folders if split in entry.splits else ()
    known = (*own, *entry.folders)
    return (*known, "") if annotation.unique_filenames else ("", *known)


def _tidy(path: str) -> str:
    """A path without `.` and `..`; a URL as it is, whose two slashes are no folder."""
    return path if is_url(path) else posixpath.normpath(path)


def _ids(
    annotation: Annotation, rows: Sequence[AnnotationRow], root: Path
) -> tuple[dict[str, AnnotationRow], list[RowProblem]]:
    """The rows by their ids, which are the same on every machine, and the rows that repeat one."""
    ids = [row.id or _tidy(row.candidate_paths[0]) for row in rows]
    if any(map(os.path.isabs, ids)):
        ids = _relative(ids, root)
    first = dict(zip(ids, rows, strict=True))
    if len(first) == len(rows):
        return first, []
    counts = Counter(ids)
    ids = [
        id_ + _segment(row) if counts[id_] > 1 and not row.id else id_
        for id_, row in zip(ids, rows, strict=True)
    ]
    first, twice = {}, []
    for id_, row in zip(ids, rows, strict=True):
        if id_ not in first:
            first[id_] = row
            continue
        line = first[id_].line
        text = f"'{id_}' is listed twice" + (f", first in {annotation.unit} {line}" if line else "")
        if first[id_].labels != row.labels:
            text += ", with another label"
        path = row.candidate_paths[0]
        twice.append(RowProblem("listed_twice", path, row.line, f"{text}; remove one", row.split))
    return first, twice


def _segment(row: AnnotationRow) -> str:
    """The end of an id that tells the segments of one video apart; "" for a whole video."""
    if row.first_frame is not None or row.last_frame is not None:
        return f":{row.first_frame or 0}-{'' if row.last_frame is None else row.last_frame}"
    if row.start is not None or row.end is not None:
        return f":{row.start or 0:.3f}-{'' if row.end is None else f'{row.end:.3f}'}"
    return ""


def _relative(ids: Sequence[str], root: Path) -> list[str]:
    """Absolute paths made relative to the root, or else to their common folder."""
    absolute = [id_ for id_ in ids if os.path.isabs(id_)]
    base = str(root.absolute())
    if not all(PurePosixPath(id_).is_relative_to(base) for id_ in absolute):
        base = os.path.commonpath([posixpath.dirname(id_) for id_ in absolute])
    return [posixpath.relpath(id_, base) if os.path.isabs(id_) else id_ for id_ in ids]


def _counted(rows: Sequence[AnnotationRow]) -> str:
    count = plural(len(rows), "sample")
    if any(_segment(row) for row in rows):
        count += f" from {plural(len({row.candidate_paths for row in rows}), 'video')}"
    return count


def _listed(skipped: Sequence[Skipped]) -> str:
    """The end of a summary: what was skipped, by kind, with the first of their names."""
    text = ""
    by_words: dict[tuple[str, str], list[str]] = {words: [] for words in SKIPPED.values()}
    for found in skipped:
        by_words[SKIPPED[found.kind]].append(found.path)
    for words, paths in by_words.items():
        if paths:
            names = ", ".join(f"'{path}'" for path in paths[:_NAMES_SHOWN])
            more = ", ..." if len(paths) > _NAMES_SHOWN else ""
            text += f", {plural(len(paths), *words)} skipped ({names}{more})"
    return text
