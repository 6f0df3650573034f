"""Folders that are their own annotation: one folder per class, or Hugging Face's videofolder with
one folder per split, each with class folders or a metadata file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from vtcli.data.annotations.base import Annotation, Row
from vtcli.data.annotations.manifest import metadata_file, read_metadata
from vtcli.data.catalog import canonical_split
from vtcli.errors import DataError
from vtcli.video.extensions import IMAGE_SUFFIXES, has_video_suffix

_STANDARD = ("train", "validation", "test")


def sniff_folder(folder: Path) -> str | None:
    """`huggingface` for split folders, `class-folders` for class folders, None for neither.

    Raises `DataError` where it could be both.
    """
    if metadata_file(folder):
        return "huggingface"
    below = _subfolders(folder)
    splits = [p for p in below if canonical_split(p.name) in _STANDARD and _holds_classes(p)]
    classes = [p for p in below if p not in splits and _holds_videos(p)]
    if splits and classes:
        raise DataError(
            f"{folder} fits two formats, huggingface ('{splits[0].name}' is a split) and "
            f"class-folders ('{classes[0].name}' is a class); name one with --annotations"
        )
    return "huggingface" if splits else "class-folders" if classes else None


def read_class_folders(folder: Path) -> Annotation:
    """One row per video, labeled by the folder it lies in.

    Raises `DataError` where there is none.
    """
    rows = list(_class_rows(folder, ""))
    if not rows:
        raise DataError(f"{folder} has no folders with videos; make one folder per class")
    return Annotation(folder, "folder of class folders", rows)


def read_videofolder(folder: Path) -> Annotation:
    """One row per video of every split.

    Raises `DataError` where there is none.
    """
    metadata = metadata_file(folder)
    if metadata:
        return read_metadata(metadata)
    rows: list[Row] = []
    found = []
    for below in _subfolders(folder):
        split = canonical_split(below.name)
        if split in _STANDARD:
            part = _split_rows(below, split)
            rows += part
            found += [below.name] * bool(part)
    if not rows:
        raise DataError(f"{folder} has no folder 'train', 'validation' or 'test' with videos")
    return Annotation(folder, f"Hugging Face videofolder ({', '.join(found)})", rows)


def _split_rows(folder: Path, split: str) -> list[Row]:
    metadata = metadata_file(folder)
    if metadata is None:
        return list(_class_rows(folder, split, f"{folder.name}/"))
    rows = read_metadata(metadata).rows
    return [row._replace(places=(f"{folder.name}/{row.places[0]}",), split=split) for row in rows]


def _class_rows(folder: Path, split: str, prefix: str = "") -> Iterator[Row]:
    for below in _subfolders(folder):
        for place in sorted(_videos(below)):
            yield Row((f"{prefix}{below.name}/{place}",), (below.name,), split=split)


def _videos(folder: Path) -> Iterator[str]:
    """Video files and folders of images below a class folder, through links to folders as well, as
    relative paths.

    Raises `DataError` for a folder that cannot be opened.
    """
    above: dict[str, frozenset[str]] = {}
    for path, below, files in os.walk(folder, onerror=_not_opened, followlinks=True):
        real, way = os.path.realpath(path), above.get(os.path.dirname(path), frozenset())
        if real in way:  # a link back to a folder it lies in
            below.clear()
            continue
        above[path] = way | {real}
        below[:] = [name for name in below if not name.startswith(".")]
        place = os.path.relpath(path, folder).replace(os.sep, "/")
        inside = "" if place == "." else f"{place}/"
        seen = [name for name in files if not name.startswith(".")]
        videos = [name for name in seen if has_video_suffix(name)]
        yield from (f"{inside}{name}" for name in videos)
        if inside and not videos and any(n.casefold().endswith(IMAGE_SUFFIXES) for n in seen):
            yield place


def _not_opened(error: OSError) -> NoReturn:
    """Its videos would be missing, and nobody would know."""
    raise DataError(
        f"folder {error.filename} cannot be opened ({error.strerror}); check its permissions"
    ) from error


def _holds_classes(folder: Path) -> bool:
    return bool(metadata_file(folder)) or any(_holds_videos(p) for p in _subfolders(folder))


def _holds_videos(folder: Path) -> bool:
    return next(_videos(folder), None) is not None


def _subfolders(folder: Path) -> list[Path]:
    try:
        below = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir()]
    except OSError as error:
        _not_opened(error)
    return sorted(below, key=lambda p: p.name)
