"""Folders that need no annotation file: one folder per class, or Hugging Face's videofolder with
one folder per split, each with class folders or a metadata file.

A folder without videos is not a class: it is skipped, and reported in the dataset's summary, as is
everything else that is not a video. Splits are recognized by their names and their structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vtcli.data.annotations.base import Annotation, AnnotationRow, Skipped
from vtcli.data.annotations.folder_walk import Entry, list_folder, walk_class
from vtcli.data.annotations.manifest import metadata_file, read_metadata
from vtcli.data.catalog import STANDARD_SPLITS, canonical_split
from vtcli.errors import DataError

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NAMES_SHOWN = 3


def detect_folder_format(folder: Path) -> str | None:
    """`huggingface` for split folders, `class-folders` for class folders, None for neither.

    Raises `DataError` if it could be both, or if two folders are the same split.
    """
    if metadata_file(folder):
        return "huggingface"
    below, _ = list_folder(folder, folder)
    splits = _split_folders(folder, below)
    classes = [p for p in below if p not in splits and _has_videos(p, folder)]
    if splits and classes:
        raise DataError(
            f"{folder} fits two formats, huggingface ('{next(iter(splits)).name}' is a split) and "
            f"class-folders ('{classes[0].name}' is a class); name one with --annotations"
        )
    return "huggingface" if splits else "class-folders" if classes else None


def _split_folders(folder: Path, below: Sequence[Path]) -> dict[Path, str]:
    """The split of each folder that is one: `train`, or a name with such a word in it
    (`training_set`) whose class folders are called like those of another split.

    Raises `DataError` if two folders are the same split.
    """
    exact = {p: canonical_split(p.name) for p in below}
    found = {p: s for p, s in exact.items() if s in STANDARD_SPLITS and _has_classes(p, folder)}
    worded = {p: s for p in below if p not in found and (s := split_in(p.name))}
    if found:  # what has the class folders of a split is another one, whatever it is called
        worded |= {p: exact[p] for p in below if p not in found and p not in worded}
    classes = {p: _class_names(p, folder) for p in (*found, *worded)} if worded else {}
    for path, split in worded.items():
        others = set().union(*(names for other, names in classes.items() if other != path))
        if classes[path] & others:
            found[path] = split
    for split in STANDARD_SPLITS:
        same = [p.name for p in found if found[p] == split]
        if len(same) > 1:
            raise DataError(
                f"{folder} has two folders for the split '{split}', {same[0]} and {same[1]}; "
                "rename one, or write a manifest with the header path,label,split"
            )
    return {path: found[path] for path in below if path in found}


def split_in(name: str) -> str:
    """The split that one word of a name stands for; "" if none does, or if several do."""
    words = {canonical_split(word) for word in _WORDS.findall(name)}
    splits = words & set(STANDARD_SPLITS)
    return splits.pop() if len(splits) == 1 else ""


def read_class_folders(folder: Path) -> Annotation:
    """One row per video, labeled by the name of its class folder.

    Raises `DataError` if there is none.
    """
    rows, skipped = _class_rows(folder, folder)
    if not rows:
        raise DataError(f"{folder} has no folders with videos; make one folder per class")
    description = "folder of class folders"
    parts = _inner_folders(rows)
    if all(split_in(name) for name in parts):
        raise DataError(
            f"{folder} has folders of splits ({_first(list(parts))}) without class folders; make "
            "one folder per class in each, or write a manifest with the header path,label,split"
        )
    inner = sorted(set().union(*parts.values()))
    splits = {name: split for name in inner if (split := split_in(name))}
    if {"train"} < set(splits.values()):
        for row in rows:
            if _inner_folder(row) not in splits:
                raise DataError(
                    f"{folder / row.candidate_paths[0]} is in no split, and other videos are in "
                    f"folders of splits ({_first(list(splits))}); move it into one"
                )
        rows = [row._replace(split=splits[_inner_folder(row)]) for row in rows]
        description += f" with a folder per split ({', '.join(inner)}) in each"
    if len(parts) == 1 and len(inner) > 1:
        description += (
            f" (the only class '{next(iter(parts))}' has the folders {_first(inner)}; if these "
            f"are the classes, give {folder / next(iter(parts))})"
        )
    several = len(parts) > 1 and len(inner) > 1
    alike = several and all(names == set(inner) for names in parts.values())
    if alike and not rows[0].split:
        description += f" ({_first(inner)} in each of them are read as one class)"
    return Annotation(folder, description, rows, skipped=tuple(skipped))


def _inner_folder(row: AnnotationRow) -> str:
    """The folder in the class folder that a video is in, "" if it is in none."""
    _, *inner, _ = row.candidate_paths[0].split("/")
    return inner[0] if inner else ""


def _inner_folders(rows: Sequence[AnnotationRow]) -> Mapping[str, set[str]]:
    """The folders in each class folder that hold its videos."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(str(row.labels[0]), set()).add(_inner_folder(row))
    return found


def _first(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN]) + more


def read_videofolder(folder: Path) -> Annotation:
    """One row per video of every split.

    Raises `DataError` if there is none.
    """
    metadata = metadata_file(folder)
    if metadata:
        return read_metadata(metadata)
    below, rest = list_folder(folder, folder)
    rows: list[AnnotationRow] = []
    skipped = _as_skipped(rest)
    found = []
    splits = {p: s for p in below if (s := canonical_split(p.name)) in STANDARD_SPLITS}
    splits |= _split_folders(folder, below)
    for path in below:
        if path not in splits:
            skipped.append(_without_videos(path, folder, path.name))
            continue
        of_split, without_videos = _split_rows(path, folder, splits[path])
        rows += of_split
        skipped += without_videos
        found += [path.name] * bool(of_split)
    if not rows:
        raise DataError(f"{folder} has no folder 'train', 'validation' or 'test' with videos")
    description = f"Hugging Face videofolder ({', '.join(found)})"
    return Annotation(folder, description, rows, skipped=tuple(skipped))


def _split_rows(folder: Path, root: Path, split: str) -> tuple[list[AnnotationRow], list[Skipped]]:
    metadata = metadata_file(folder)
    if metadata is None:
        return _class_rows(folder, root, split, f"{folder.name}/")
    rows = []
    for row in read_metadata(metadata).rows:
        path = f"{folder.name}/{row.candidate_paths[0]}"
        rows.append(row._replace(candidate_paths=(path,), split=split))
    return rows, []


def _class_rows(
    folder: Path, root: Path, split: str = "", prefix: str = ""
) -> tuple[list[AnnotationRow], list[Skipped]]:
    """The videos of a folder of class folders, and everything else in it."""
    rows: list[AnnotationRow] = []
    below, rest = list_folder(folder, root)
    skipped = _as_skipped(rest, split, prefix)
    for path in below:
        label = f"{prefix}{path.name}"
        entries = list(walk_class(path, root))
        videos = sorted(entry.path for entry in entries if entry.kind is None)
        rows += (
            AnnotationRow((f"{label}/{video}",), (path.name,), split=split) for video in videos
        )
        if videos:
            skipped += _as_skipped(entries, split, f"{label}/")
        else:
            skipped.append(_without_videos(path, root, label, split))
    return rows, skipped


def _as_skipped(entries: Sequence[Entry], split: str = "", prefix: str = "") -> list[Skipped]:
    return [Skipped(f"{prefix}{e.path}", e.kind, split) for e in entries if e.kind is not None]


def _without_videos(path: Path, root: Path, name: str, split: str = "") -> Skipped:
    """A folder without a video; only a hidden file may be in an empty one."""
    empty = all(entry.kind == "system" for entry in walk_class(path, root))
    return Skipped(name, "empty" if empty else "no_videos", split)


def _has_classes(folder: Path, root: Path) -> bool:
    return bool(metadata_file(folder)) or bool(next(_classes(folder, root), None))


def _class_names(folder: Path, root: Path) -> set[str]:
    return {path.name for path in _classes(folder, root)}


def _classes(folder: Path, root: Path) -> Iterator[Path]:
    """The folders with videos in a folder."""
    return (path for path in list_folder(folder, root)[0] if _has_videos(path, root))


def _has_videos(folder: Path, root: Path) -> bool:
    return any(entry.kind is None for entry in walk_class(folder, root))
