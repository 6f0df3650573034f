"""Finds the videos of an annotation: the listed name, the same name with another extension, and for
datasets with unique file names, that name anywhere below the data folder.

Every folder is listed once, so that a large dataset does not cost one file system call per file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vtcli.video.extensions import has_video_suffix


class Finder:
    """Searches below `root`, in each of `folders` (relative to it) in turn."""

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self._root = str(root)
        self._bases = [os.path.join(self._root, folder) for folder in folders]
        self._names: dict[str, frozenset[str]] = {}
        self._stems: dict[str, dict[str, str | None]] = {}
        self._tree: list[dict[str, str | None]] = []

    def find(self, candidate_paths: Sequence[str], anywhere: bool) -> Path:
        """The first of the candidate paths that exists; if none does, the first of them.

        anywhere: also accept a video file of that name in any folder and in any letter case, if
        there is only one.
        """
        paths = [
            os.path.normpath(os.path.join(base, path))
            for base in self._bases
            for path in candidate_paths
        ]
        found = (
            next(filter(self._exists, paths), None)
            or next(filter(None, map(self._other_extension, paths)), None)
            or (next(filter(None, map(self._in_tree, candidate_paths)), None) if anywhere else None)
        )
        return Path(found or paths[0])

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = _listed(folder)
        return name in self._names[folder]

    def _other_extension(self, path: str) -> str | None:
        """The only video file next to `path` whose name differs in nothing but the extension."""
        folder, name = os.path.split(path)
        if folder not in self._stems:
            names = self._names.get(folder, frozenset())
            self._stems[folder] = _by_stem((name, os.path.join(folder, name)) for name in names)
        return self._stems[folder].get(_stem(name))

    def _in_tree(self, path: str) -> str | None:
        if not self._tree:
            files = [(os.path.basename(path), path) for path in _below(self._root)]
            folded = [(name.casefold(), path) for name, path in files]
            self._tree = [_by_stem(files), _by_stem(folded)]
        stem = _stem(os.path.basename(path))
        exact, folded_stems = self._tree
        return exact.get(stem) or folded_stems.get(stem.casefold())


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


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
