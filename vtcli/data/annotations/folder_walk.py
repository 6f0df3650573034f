"""The videos below one class folder, and everything there that is not one, by kind.

A file whose extension says nothing is opened: its content decides. A link to a folder or file of
another part of the dataset, or to a folder above, is never followed: its videos have another label.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from vtcli.data.annotations.base import SkipKind
from vtcli.errors import DataError, VideoDecodeError
from vtcli.video.extensions import IMAGE_SUFFIXES, has_video_suffix

# Folders and files that operating systems, storage devices and notebooks add; in lower case.
_SYSTEM_NAMES = frozenset(
    {
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "recycler",
        "system volume information",
        "thumbs.db",
    }
)
# Extensions that say that a file is not a video; others are opened.
_DOCUMENTS = (
    *(".ass", ".cfg", ".csv", ".db", ".doc", ".docx", ".eaf", ".h5", ".hdf5", ".html", ".idx"),
    *(".ini", ".json", ".jsonl", ".lab", ".log", ".lst", ".mat", ".md", ".md5", ".npy", ".npz"),
    *(".parquet", ".pdf", ".pickle", ".pkl", ".py", ".rst", ".rtf", ".sha1", ".sha256", ".srt"),
    *(".ssa", ".sub", ".tfrecord", ".toml", ".tsv", ".txt", ".url", ".vtt", ".xls", ".xlsx"),
    *(".xml", ".yaml", ".yml"),
)
_NO_ENDING = frozenset(
    {"license", "licence", "readme", "notice", "checksums", "md5sums", "makefile"}
)


class Entry(NamedTuple):
    """A video or a folder of frames (`kind` is None), or something else below a folder."""

    path: str
    kind: SkipKind | None = None


def is_system_name(name: str) -> bool:
    """Whether a name is hidden, or one that an operating system or tool gives its own files."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def walk_class(folder: Path, root: Path) -> Iterator[Entry]:
    """Everything below a class folder; paths are relative to it and separated by `/`.

    root: the folder of the dataset. Raises `DataError` for a folder that cannot be opened.
    """
    yield from _Walk(folder, root).below(str(folder), "")


def list_folder(folder: Path, root: Path) -> tuple[list[Path], list[Entry]]:
    """The folders in a folder of class folders, in sorted order, and everything else in it.

    Raises `DataError` if it cannot be opened.
    """
    walk = _Walk(folder, root)
    folders, rest = [], []
    for entry in _scan(str(folder)):
        kind = walk.skipped(entry, folder=True)
        if kind:
            rest.append(Entry(entry.name, kind))
        elif entry.is_dir():
            folders.append(folder / entry.name)
        else:
            rest.append(Entry(entry.name, "loose" if is_video(entry.path) else _other(entry.name)))
    return folders, rest


class _Walk:
    """The state of one walk: what may be followed depends on where it began."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._own, self._root = os.path.realpath(folder), os.path.realpath(root)
        self._followed: set[str] = set()

    def below(self, path: str, inside: str) -> Iterator[Entry]:
        """Everything below `path`, whose own relative path is `inside`."""
        files: list[os.DirEntry[str]] = []
        folders: list[os.DirEntry[str]] = []
        for entry in _scan(path):
            kind = self.skipped(entry)
            if kind:
                yield Entry(inside + entry.name, kind)
            else:
                (folders if entry.is_dir() else files).append(entry)
        videos = {e.name for e in files if has_video_suffix(e.name)}
        images = {e.name for e in files if e.name.casefold().endswith(IMAGE_SUFFIXES)} - videos
        rest = [e for e in files if e.name not in videos and e.name not in images]
        videos |= {e.name for e in rest if is_video(e.path)}
        yield from (Entry(inside + name) for name in videos)
        yield from (Entry(inside + e.name, _other(e.name)) for e in rest if e.name not in videos)
        if images and inside and not videos:
            yield Entry(inside.rstrip("/"))
        else:
            yield from (Entry(inside + name, "image") for name in images)
        for entry in folders:
            yield from self.below(entry.path, f"{inside}{entry.name}/")

    def skipped(self, entry: os.DirEntry[str], folder: bool = False) -> SkipKind | None:
        """Why an entry is not looked at, None if it is.

        folder: the entry is a class folder itself, which may be anywhere below the dataset.
        """
        if is_system_name(entry.name):
            return "system"
        if not entry.is_symlink():
            return None
        if not os.path.exists(entry.path):
            return "dangling"
        target = os.path.realpath(entry.path)
        if not entry.is_dir():
            within = _is_below(target, self._own) or self._outside(target)
            return None if within else "link"
        above = any(_is_below(place, target) for place in (self._own, self._root, entry.path))
        if above or target in self._followed or not self._outside(target):
            return "link"
        self._followed.add(target)
        return None

    def _outside(self, target: str) -> bool:
        """Whether a path is not among the videos of the dataset: elsewhere, or in a hidden folder
        of it, where tools keep the content of links.
        """
        if not _is_below(target, self._root):
            return True
        return any(is_system_name(n) for n in os.path.relpath(target, self._root).split(os.sep))


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise_unreadable(error)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_video(path: str) -> bool:
    """Whether a file is a video: by its extension, else by its content."""
    name = os.path.basename(path)
    if has_video_suffix(name):
        return True
    if _other(name) == "document" or name.casefold().endswith(IMAGE_SUFFIXES):
        return False
    from vtcli.video.container import checked_path, open_video

    try:
        with open_video(checked_path(path)):
            return True
    except VideoDecodeError as error:
        # A video that is damaged or in an unsupported codec is a video; reading it says so.
        return error.reason in ("corrupt", "unsupported", "io_error")


def is_document(name: str) -> bool:
    """Whether a name is that of a document or an image, which are expected next to videos."""
    return _other(name) != "not_video"


def _other(name: str) -> SkipKind:
    """What a file that is not a video is called."""
    plain = name.casefold()
    stem, extension = os.path.splitext(plain)
    if extension in _DOCUMENTS or re.sub(r"[^a-z0-9]", "", stem) in _NO_ENDING:
        return "document"
    return "image" if plain.endswith(IMAGE_SUFFIXES) else "not_video"


def raise_unreadable(error: OSError) -> NoReturn:
    """Raise `DataError`; skipping the folder would silently drop its videos."""
    raise DataError(
        f"folder {error.filename} cannot be opened ({error.strerror}); check its permissions"
    ) from error
