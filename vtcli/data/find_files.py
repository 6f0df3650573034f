"""Finds the videos of an annotation: the listed name, the same name with another extension, and for
datasets with unique file names, that name anywhere below the data folder.

Every folder is listed once, so that a large dataset does not cost one file system call per file.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from vtcli.video.extensions import has_video_suffix
from vtcli.video.remote import is_url


class _Folder:
    """A normalized folder; what is in it is read when it is first asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.start = "" if path in ("", ".") else path if path.endswith(os.sep) else path + os.sep

    @cached_property
    def names(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.path))
        except OSError:
            return frozenset()

    @cached_property
    def by_stem(self) -> dict[str, str | None]:
        return _by_stem((name, self.start + name) for name in self.names)


class Finder:
    """Searches below `root`, in each of `folders` (relative to it) in turn."""

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self._root = str(root)
        self._bases = [os.path.join(self._root, folder) for folder in folders]
        self._by_prefix: dict[tuple[str, str], _Folder] = {}
        self._folders: dict[str, _Folder] = {}
        self._tree: list[dict[str, str | None]] = []

    def find(self, candidate_paths: Sequence[str], anywhere: bool) -> str:
        """The first of the candidate paths that exists; if none does, the first of them.

        anywhere: also accept a video file of that name in any folder and in any letter case, if
        there is only one. A URL is taken as it is.
        """
        if is_url(first := candidate_paths[0]):
            return first
        folder, name = self._place(self._bases[0], first)
        if name in folder.names:
            return folder.start + name
        paths = [form for path in candidate_paths for form in _forms(path)]
        places = [self._place(base, path) for base in self._bases for path in paths]
        return (
            next((place.start + known for place, known in places if known in place.names), None)
            or next(filter(None, (p.by_stem.get(_stem(own)) for p, own in places if p.names)), None)
            or (next(filter(None, map(self._in_tree, candidate_paths)), None) if anywhere else None)
            or folder.start + name
        )

    def _place(self, base: str, path: str) -> tuple[_Folder, str]:
        """The folder and the name of a path below `base`; each folder is normalized once."""
        cut = path.rfind("/") + 1
        name = path[cut:]
        if name in ("", ".", "..") or os.sep != "/":
            folder, name = os.path.split(os.path.normpath(os.path.join(base, path)))
            return self._folder(folder), name
        key = base, path[:cut]
        found = self._by_prefix.get(key)
        if found is None:
            joined = os.path.join(*key)
            found = self._folder(os.path.normpath(joined) if joined else "")
            self._by_prefix[key] = found
        return found, name

    def _folder(self, path: str) -> _Folder:
        return self._folders.setdefault(path, _Folder(path))

    def _in_tree(self, path: str) -> str | None:
        if not self._tree:
            files = [(os.path.basename(path), path) for path in _below(self._root)]
            folded = [(name.casefold(), path) for name, path in files]
            self._tree = [_by_stem(files), _by_stem(folded)]
        stem = _stem(os.path.basename(path))
        exact, folded_stems = self._tree
        return exact.get(stem) or folded_stems.get(stem.casefold())


def _forms(path: str) -> list[str]:
    """A path as listed and in Unicode's composed and decomposed forms, of which lists have one and
    file systems another.
    """
    if path.isascii():
        return [path]
    forms = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return list(dict.fromkeys(forms))


def _below(root: str) -> Iterator[str]:
    """Every file below a folder, following links to folders; each folder is visited once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in names)


def _by_stem(files: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Paths of video files by name without extension; None if two files share it."""
    found: dict[str, str | None] = {}
    for name, path in files:
        stem = _stem(name)
        if stem != name:
            found[stem] = None if stem in found else path
    return found


def _stem(name: str) -> str:
    """A name without its video extension; other names stay whole."""
    stem, suffix = os.path.splitext(name)
    return stem if has_video_suffix(suffix) else name
