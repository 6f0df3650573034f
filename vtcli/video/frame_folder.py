"""Which images of a folder are its frames, and in which order.

Names are cut into text and numbers. The number that varies is the frame's; names whose other parts
differ belong to different naming schemes, and a folder must have one.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vtcli.errors import VideoDecodeError
from vtcli.runtime.words import plural
from vtcli.video.extensions import IMAGE_SUFFIXES

Parts: TypeAlias = tuple[tuple[str, ...], tuple[float, ...]]
"""The texts of a name, and the numbers between them."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# One stray picture among this many frames or more is skipped; below, nobody can tell.
_FEW = 3


@dataclass(frozen=True)
class FolderImages:
    """The frames in order, and a sentence for each kind of file that was skipped."""

    images: tuple[Path, ...]
    skipped: tuple[str, ...] = ()


def list_frames(folder: Path) -> FolderImages:
    """The images of a folder, in the order of the number that varies in their names.

    Hidden files are skipped, and so are single pictures whose names are unlike all others. Raises
    `VideoDecodeError`: `not_found`, `not_video` for a folder without images, `unsupported` for one
    with two naming schemes, such as RGB and optical flow.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise VideoDecodeError(
            folder, "not_found", f"cannot be opened ({error.strerror}); check its permissions"
        ) from error
    images = sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES))
    visible = [name for name in images if not name.startswith(".")]
    if not visible:
        raise VideoDecodeError(
            folder, "not_video", "is a folder without images; extract the frames again"
        )
    scheme, strays = _one_scheme(folder, visible)
    found = []
    if hidden := len(images) - len(visible):
        found.append(f"{plural(hidden, 'hidden image')} skipped")
    if strays:
        found.append(
            f"{plural(len(strays), 'image')} with another kind of name skipped: {strays[0]}"
        )
    return FolderImages(tuple(folder / name for name in _in_order(scheme)), tuple(found))


def _one_scheme(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of the folder's only naming scheme, and single ones that are unlike all others."""
    schemes: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        texts, _ = _cut(name)
        schemes[texts].append(name)
    ordered = sorted(schemes.values(), key=len, reverse=True)
    if len(ordered) == len(names) or len(ordered) == 1:
        return list(names), []  # names without a common form, or with one
    largest, others = ordered[0], ordered[1:]
    single = all(len(group) == 1 for group in others)
    if single and len(largest) >= _FEW and len(others) < len(largest):
        return largest, [name for group in others for name in group]
    raise VideoDecodeError(
        folder,
        "unsupported",
        f"has two kinds of images, such as {largest[0]} ({len(largest)}) and {others[0][0]} "
        f"({len(others[0])}); put each kind into a folder of its own",
    )


def _in_order(names: Sequence[str]) -> list[str]:
    """By the numbers that vary: the one with the most values last, others only break ties."""
    cut = [_cut(name) for name in names]
    if len({texts for texts, _ in cut}) > 1:
        return sorted(names)
    columns = list(zip(*(numbers for _, numbers in cut), strict=True))
    values = Counter({place: len(set(column)) for place, column in enumerate(columns)})
    places = [place for place, count in values.most_common() if count > 1]
    keys = {
        name: (*(numbers[place] for place in places), name)
        for name, (_, numbers) in zip(names, cut, strict=True)
    }
    return sorted(names, key=keys.__getitem__)


def frame_numbers(names: Sequence[str]) -> list[float]:
    """The number that varies in the names of a folder's frames; empty where they have none."""
    cut = [_cut(name) for name in names]
    if len({texts for texts, _ in cut}) > 1 or not cut[0][1]:
        return []
    columns = list(zip(*(numbers for _, numbers in cut), strict=True))
    return list(max(columns, key=lambda column: len(set(column))))


def _cut(name: str) -> Parts:
    stem, suffix = os.path.splitext(name)
    numbers = tuple(float(number) for number in _NUMBER.findall(stem))
    return (*_NUMBER.split(stem.casefold()), suffix.casefold()), numbers
