"""Folders that need no annotation file: one folder per class, or Hugging Face's videofolder with
one folder per split, each with class folders or a metadata file.

A folder without videos is not a class: it is skipped, and reported in the dataset's summary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from vtcli.data.annotations.base import Annotation, AnnotationRow, SkippedFolder
from vtcli.data.annotations.manifest import metadata_file, read_metadata
from vtcli.data.catalog import canonical_split
from vtcli.errors import DataError
from vtcli.video.extensions import IMAGE_SUFFIXES, has_video_suffix

_STANDARD_SPLITS = ("train", "validation", "test")


def detect_folder_format(folder: Path) -> str | None:
    """`huggingface` for split folders, `class-folders` for class folders, None for neither.

    Raises `DataError` if it could be both.
    """
    if metadata_file(folder):
        return "huggingface"
    below = _subfolders(folder)
    splits = [p for p in below if canonical_split(p.name) in _STANDARD_SPLITS and _has_classes(p)]
    classes = [p for p in below if p not in splits and _has_videos(p)]
    if splits and classes:
        raise DataError(
            f"{folder} fits two formats, huggingface ('{splits[0].name}' is a split) and "
            f"class-folders ('{classes[0].name}' is a class); name one with --annotations"
        )
    return "huggingface" if splits else "class-folders" if classes else None


def read_class_folders(folder: Path) -> Annotation:
    """One row per video, labeled by the name of its class folder.

    Raises `DataError` if there is none.
    """
    rows, skipped = _class_rows(folder)
    if not rows:
        raise DataError(f"{folder} has no folders with videos; make one folder per class")
    return Annotation(folder, "folder of class folders", rows, skipped_folders=tuple(skipped))


def read_videofolder(folder: Path) -> Annotation:
    """One row per video of every split.

    Raises `DataError` if there is none.
    """
    metadata = metadata_file(folder)
    if metadata:
        return read_metadata(metadata)
    rows: list[AnnotationRow] = []
    skipped: list[SkippedFolder] = []
    found = []
    for below in _subfolders(folder):
        split = canonical_split(below.name)
        if split in _STANDARD_SPLITS:
            of_split, without_videos = _split_rows(below, split)
            rows += of_split
            skipped += without_videos
            found += [below.name] * bool(of_split)
    if not rows:
        raise DataError(f"{folder} has no folder 'train', 'validation' or 'test' with videos")
    description = f"Hugging Face videofolder ({', '.join(found)})"
    return Annotation(folder, description, rows, skipped_folders=tuple(skipped))


def _split_rows(folder: Path, split: str) -> tuple[list[AnnotationRow], list[SkippedFolder]]:
    metadata = metadata_file(folder)
    if metadata is None:
        return _class_rows(folder, split, f"{folder.name}/")
    rows = []
    for row in read_metadata(metadata).rows:
        path = f"{folder.name}/{row.candidate_paths[0]}"
        rows.append(row._replace(candidate_paths=(path,), split=split))
    return rows, []


def _class_rows(
    folder: Path, split: str = "", prefix: str = ""
) -> tuple[list[AnnotationRow], list[SkippedFolder]]:
    """The videos of a folder of class folders, and the folders that have none."""
    rows: list[AnnotationRow] = []
    skipped = []
    for below in _subfolders(folder):
        videos = sorted(_videos(below))
        rows += (
            AnnotationRow((f"{prefix}{below.name}/{video}",), (below.name,), split=split)
            for video in videos
        )
        if not videos:
            skipped.append(SkippedFolder(f"{prefix}{below.name}", split, _is_empty(below)))
    return rows, skipped


def _videos(folder: Path) -> Iterator[str]:
    """Relative paths of the video files and folders of images below a class folder, following
    links to folders.

    Raises `DataError` for a folder that cannot be opened.
    """
    above: dict[str, frozenset[str]] = {}
    for path, below, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        real, ancestors = os.path.realpath(path), above.get(os.path.dirname(path), frozenset())
        if real in ancestors:  # a link to a folder that contains it
            below.clear()
            continue
        above[path] = ancestors | {real}
        below[:] = [name for name in below if not name.startswith(".")]
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
        inside = "" if relative == "." else f"{relative}/"
        visible = [name for name in files if not name.startswith(".")]
        videos = [name for name in visible if has_video_suffix(name)]
        yield from (f"{inside}{name}" for name in videos)
        if inside and not videos and any(n.casefold().endswith(IMAGE_SUFFIXES) for n in visible):
            yield relative


def _raise_unreadable(error: OSError) -> NoReturn:
    """Raise `DataError`; skipping the folder would silently drop its videos."""
    raise DataError(
        f"folder {error.filename} cannot be opened ({error.strerror}); check its permissions"
    ) from error


def _has_classes(folder: Path) -> bool:
    return bool(metadata_file(folder)) or any(_has_videos(p) for p in _subfolders(folder))


def _has_videos(folder: Path) -> bool:
    return next(_videos(folder), None) is not None


def _is_empty(folder: Path) -> bool:
    """Whether there is no file below a folder; hidden files do not count."""
    return all(
        name.startswith(".")
        for _, _, files in os.walk(folder, onerror=_raise_unreadable)
        for name in files
    )


def _subfolders(folder: Path) -> list[Path]:
    try:
        below = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir()]
    except OSError as error:
        _raise_unreadable(error)
    return sorted(below, key=lambda p: p.name)
