"""Which images of a folder are its frames, and in which order.

Names are cut into text and numbers. The number that varies is the frame's; names whose other parts
differ belong to different naming schemes, and a folder must have one.
"""

from __future__ import annotations

import itertools
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
_KINDS_SHOWN = 3
_OTHER_IMAGES = frozenset(
    {
        ".avif",
        ".dng",
        ".dpx",
        ".exr",
        ".gif",
        ".heic",
        ".jp2",
        ".jxl",
        ".npy",
        ".pgm",
        ".ppm",
        ".tga",
    }
)


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
        raise VideoDecodeError(folder, "not_video", _without_images(names))
    scheme, strays = _one_scheme(folder, visible)
    found = []
    if hidden := len(images) - len(visible):
        found.append(f"{plural(hidden, 'hidden image')} skipped")
    if strays:
        found.append(
            f"{plural(len(strays), 'image')} with another kind of name skipped: {strays[0]}"
        )
    return FolderImages(tuple(folder / name for name in _in_order(folder, scheme)), tuple(found))


def _without_images(names: Sequence[str]) -> str:
    """What a folder without images that are read has instead."""
    kinds = Counter(os.path.splitext(n)[1].lower() for n in names if not n.startswith("."))
    kind, count = max(kinds.items(), key=lambda item: item[1], default=("", 0))
    if kind in _OTHER_IMAGES:
        found = plural(count, f"{kind} file")
        return f"has {found}, which are not read as frames; convert them to PNG"
    return "is a folder without images; extract the frames again"


def _one_scheme(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of the folder's only naming scheme, and single ones that are unlike all others."""
    schemes: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        texts, _ = _cut(name)
        schemes[texts].append(name)
    ordered = sorted(schemes.values(), key=len, reverse=True)
    if len(ordered) == len(names) or len(ordered) == 1:
        return list(names), []  # names without a common form, or with one
    largest, *others = ordered
    single = all(len(group) == 1 for group in others)
    if single and len(largest) >= _FEW and len(others) < len(largest):
        return largest, [name for group in others for name in group]
    shown = [f"{group[0]} ({len(group)})" for group in ordered[:_KINDS_SHOWN]]
    raise VideoDecodeError(
        folder,
        "unsupported",
        f"has {len(ordered)} kinds of images, such as {', '.join(shown[:-1])} and {shown[-1]}; put "
        "each kind into a folder of its own",
    )


def _in_order(folder: Path, names: Sequence[str]) -> list[str]:
    """By the number that is different in every name; where no single one is, by all numbers from
    the left (minutes, seconds, milliseconds).

    Raises `VideoDecodeError` `unsupported` where the names leave several orders.
    """
    cut = {name: _cut(name) for name in names}
    if len({texts for texts, _ in cut.values()}) > 1:
        return sorted(names)
    columns = list(zip(*(numbers for _, numbers in cut.values()), strict=True))
    unique = [place for place, column in enumerate(columns) if len(set(column)) == len(names)]
    orders = {
        tuple(sorted(names, key=lambda name: cut[name][1][place])): columns[place]
        for place in reversed(unique)
    }
    if len(orders) > 1:
        counting = {order: c for order, c in orders.items() if max(c) - min(c) == len(names) - 1}
        orders = counting or orders
    if len(orders) > 1:
        first = next(iter(orders))
        raise _without_order(
            folder, f"names with two numbers that give different orders, such as {first[0]}"
        )
    if orders:
        return list(next(iter(orders)))
    ordered = sorted(names, key=lambda name: cut[name][1])
    for name, following in itertools.pairwise(ordered):
        if cut[name][1] == cut[following][1]:
            raise _without_order(folder, f"two images with one number, {name} and {following}")
    return ordered


def _without_order(folder: Path, what: str) -> VideoDecodeError:
    return VideoDecodeError(
        folder, "unsupported", f"has {what}; number its images from 1 in the order of time"
    )


def frame_numbers(names: Sequence[str]) -> list[float]:
    """The number that grows from frame to frame, in names that are in order; empty if none does.

    Where several do, such as a number and a time, the one that grows the least.
    """
    cut = [_cut(name) for name in names]
    if len({texts for texts, _ in cut}) > 1:
        return []
    columns = zip(*(numbers for _, numbers in cut), strict=True)
    growing = [[*c] for c in columns if all(a < b for a, b in itertools.pairwise(c))]
    return min(growing, key=lambda column: column[-1] - column[0], default=[])


def _cut(name: str) -> Parts:
    stem, suffix = os.path.splitext(name)
    numbers = tuple(float(number) for number in _NUMBER.findall(stem))
    return (*_NUMBER.split(stem.casefold()), suffix.casefold()), numbers
