"""Finding the videos of an annotation: the listed name, the same name with another ending, and for
datasets whose file names are unique, that name anywhere below the data folder.

A folder is listed once, so that no file costs a question to the file system of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vtcli.video.extensions import has_video_suffix


class Finder:
    """Looks below `root`, first in each of `folders` (relative to it)."""

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self._root = str(root)
        self._bases = [os.path.join(self._root, folder) for folder in folders]
        self._names: dict[str, frozenset[str]] = {}
        self._stems: dict[str, dict[str, str | None]] = {}
        self._tree: list[dict[str, str | None]] = []

    def find(self, places: Sequence[str], anywhere: bool) -> Path:
        """The file or folder that one of `places` means; where none is there, the first of them.

        `anywhere`: a video file of that name counts wherever it lies, whatever the case of its
        name, if there is only one.
        """
        found = (
            next(filter(self._is_there, self._paths(places)), None)
            or next(filter(None, map(self._other_ending, self._paths(places))), None)
            or (next(filter(None, map(self._in_tree, places)), None) if anywhere else None)
        )
        return Path(found or next(self._paths(places)))

    def _paths(self, places: Sequence[str]) -> Iterator[str]:
        for base in self._bases:
            for place in places:
                yield os.path.normpath(os.path.join(base, place))

    def _is_there(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = _listed(folder)
        return name in self._names[folder]

    def _other_ending(self, path: str) -> str | None:
        """The only video file beside `path` whose name differs in nothing but the ending."""
        folder, name = os.path.split(path)
        if folder not in self._stems:
            names = self._names.get(folder, frozenset())
            self._stems[folder] = _by_stem((name, os.path.join(folder, name)) for name in names)
        return self._stems[folder].get(_stem(name))

    def _in_tree(self, place: str) -> str | None:
        if not self._tree:
            files = [(os.path.basename(path), path) for path in _below(self._root)]
            folded = [(name.casefold(), path) for name, path in files]
            self._tree = [_by_stem(files), _by_stem(folded)]
        stem = _stem(os.path.basename(place))
        exact, folded_stems = self._tree
        return exact.get(stem) or folded_stems.get(stem.casefold())


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def _below(root: str) -> Iterator[str]:
    """Every file below a folder, through links to folders as well, each folder once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in names)


def _by_stem(files: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Paths of video files by name without the ending; None where two share it."""
    found: dict[str, str | None] = {}
    for name, path in files:
        stem = _stem(name)
        if stem != name:
            found[stem] = None if stem in found else path
    return found


def _stem(name: str) -> str:
    """A name without the ending of a video file; other names stay whole."""
    stem, suffix = os.path.splitext(name)
    return stem if has_video_suffix(suffix) else name
