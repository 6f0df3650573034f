"""From an annotation's labels, names or numbers, to class indices and the names these stand for.

Names are looked up in the list that the annotation states, else in the dataset's own, else they are
sorted. Numbers are indices; what they stand for is said only where a list states it.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vtcli.data.annotations.base import Annotation, Label, Row
from vtcli.data.catalog import CatalogEntry
from vtcli.errors import DataError
from vtcli.labels.heads import HeadSpec

_AGREEMENT = 0.9  # of the folders that must bear their class's name; versions rename a few classes


@dataclass(frozen=True)
class Resolved:
    """The class names of each head, each row's indices, and in words how labels were read."""

    classes: Mapping[str, tuple[str, ...]]
    labels: Sequence[tuple[int, ...]]
    words: str


class _HeadLabels(NamedTuple):
    """What one head's labels become; `words` say where its names come from."""

    names: tuple[str, ...]
    words: str
    index_of: Callable[[Row, Label], int]


def resolve_labels(
    annotation: Annotation, rows: Sequence[Row], entry: CatalogEntry | None
) -> Resolved:
    """Indices for `rows`, which are some or all of the annotation's.

    Raises `DataError` naming a row whose label is no class, and for numbers that seem to count from
    1 where nothing states it.
    """
    heads = [_head_labels(annotation, place, entry) for place in range(len(annotation.heads))]
    several = len(heads) > 1
    labels = [
        tuple(
            heads[place if several else 0].index_of(row, label)
            for place, label in enumerate(row.labels)
        )
        for row in rows
    ]
    classes = {name: head.names for name, head in zip(annotation.heads, heads, strict=True)}
    return Resolved(classes, labels, _in_words(annotation, rows, heads, labels))


def _head_labels(annotation: Annotation, place: int, entry: CatalogEntry | None) -> _HeadLabels:
    name, several = annotation.heads[place], len(annotation.heads) > 1
    stated = annotation.classes.get(name, ())
    known = _known_head(entry, name)
    labeled = [
        (row, row.labels[place : place + 1] if several else row.labels)
        for row in annotation.rows
        if row.labels
    ]
    if not labeled:
        return _numbered(annotation, stated or (known.labels if known else ()), "")
    if isinstance(labeled[0][1][0], str):
        return _from_names(annotation, stated, known)
    numbers = [(row, int(label)) for row, labels in labeled for label in labels]
    return _from_numbers(annotation, numbers, stated, known)


def _known_head(entry: CatalogEntry | None, name: str) -> HeadSpec | None:
    return next((h for h in entry.heads if h.name == name), None) if entry else None


def _from_names(
    annotation: Annotation, stated: tuple[str, ...], known: HeadSpec | None
) -> _HeadLabels:
    if stated:
        names, words = stated, ""
    elif known and known.labels:
        names, words = known.labels, f" as in {known.label_list}"
    else:
        names = tuple(sorted({str(label) for row in annotation.rows for label in row.labels}))
        words = " in sorted order"
    exact = {name: index for index, name in enumerate(names)}
    loose = _by_loose_name(names)

    def index_of(row: Row, label: Label) -> int:
        index = exact.get(str(label), loose.get(_loose(str(label)), -1))
        if index < 0:
            raise annotation.problem(row, _unknown_class(str(label), names))
        return index

    return _HeadLabels(names, words, index_of)


def _unknown_class(label: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; see `vt datasets show`"
    return f"'{label}' is none of the {len(names)} classes{hint}"


def _loose(name: str) -> str:
    """A class name as folders and other files spell it: without case, quotes and underscores."""
    return " ".join(name.replace("_", " ").replace('"', "").casefold().split())


def _by_loose_name(names: Sequence[str]) -> dict[str, int]:
    """Indices by loose name, -1 where two classes share it."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        found[_loose(name)] = -1 if _loose(name) in found else index
    return found


def _from_numbers(
    annotation: Annotation,
    numbers: Sequence[tuple[Row, int]],
    stated: tuple[str, ...],
    known: HeadSpec | None,
) -> _HeadLabels:
    if stated:
        return _numbered(annotation, stated, "")
    _check_base(annotation, numbers, known.size if known else len({n for _, n in numbers}))
    names, words = _order_of(annotation, numbers, known) if known else ((), "")
    return _numbered(annotation, names, words)


def _numbered(annotation: Annotation, names: tuple[str, ...], words: str) -> _HeadLabels:
    first = annotation.index_base or 0

    def index_of(row: Row, label: Label) -> int:
        index = int(label) - first
        if index < 0 or (names and index >= len(names)):
            limits = f"{first} to {first + len(names) - 1}" if names else f"{first} and more"
            text = f"label {label} is outside the classes, which are numbered {limits}; mend it"
            raise annotation.problem(row, text)
        return index

    return _HeadLabels(names, words, index_of)


def _check_base(annotation: Annotation, numbers: Sequence[tuple[Row, int]], count: int) -> None:
    """Refuse numbers from 1 to the number of classes, unless the format says what they mean."""
    values = {number for _, number in numbers}
    if annotation.index_base is None and count > 1 and (min(values), max(values)) == (1, count):
        raise DataError(
            f"{annotation.path}: labels run from 1 to {count}, so they seem to count from 1; "
            "number the classes from 0, or write class names"
        )


def _order_of(
    annotation: Annotation, numbers: Sequence[tuple[Row, int]], known: HeadSpec
) -> tuple[tuple[str, ...], str]:
    """The class order that the names of the videos' folders show, else the usual one, and the words
    that say which.
    """
    orders = known.known_orders()
    if not orders:
        return (), ""
    usual = orders[known.label_list]
    pairs = _folder_pairs(numbers, usual)
    if not pairs:
        others = f" ({' and '.join(list(orders)[1:])} in use too)" if len(orders) > 1 else ""
        return usual, f" taken to be in the order of {known.label_list}{others}"
    for stem, names in orders.items():
        if sum(_agrees(pair, names) for pair in pairs) >= _AGREEMENT * len(pairs):
            return names, f" in the order of {stem} as their folders show"
    folder, number = min(pair for pair in pairs if not _agrees(pair, usual))
    raise DataError(
        f"{annotation.path}: videos in folder '{folder}' have class {number}, which fits no known "
        f"class order ({', '.join(orders)}); write a manifest with class names"
    )


def _agrees(pair: tuple[str, int], names: Sequence[str]) -> bool:
    folder, number = pair
    return 0 <= number < len(names) and _loose(names[number]) == folder


def _folder_pairs(numbers: Sequence[tuple[Row, int]], names: Sequence[str]) -> set[tuple[str, int]]:
    """(folder, number) of all videos that lie in a folder named after a class."""
    known = {_loose(name) for name in names}
    pairs = {(posixpath.basename(posixpath.dirname(row.places[0])), n) for row, n in numbers}
    return {(_loose(folder), n) for folder, n in pairs if _loose(folder) in known}


def _in_words(
    annotation: Annotation,
    rows: Sequence[Row],
    heads: Sequence[_HeadLabels],
    labels: Sequence[tuple[int, ...]],
) -> str:
    """The part of the sentence on labels and classes."""
    given = next((row.labels[0] for row in rows if row.labels), None)
    if given is None:
        kind = "no labels"
    elif isinstance(given, str):
        kind = "labels by name"
    else:
        kind = f"labels {annotation.index_base or 0}-based"
        kind += " as its class list shows" if annotation.index_base else ""
    parts = []
    for place, (name, head) in enumerate(zip(annotation.heads, heads, strict=True)):
        several = len(heads) > 1
        found = {row[place] for row in labels if row} if several else {n for r in labels for n in r}
        which = ("" if head.names else "unnamed ") + (f"{name} " if several else "") + "class"
        parts.append(plural(len(head.names) or len(found), which, "es") + head.words)
    return f"{kind}, {' and '.join(parts)}"


def plural(count: int, word: str, ending: str = "s") -> str:
    """A count with its word, such as `1 sample` or `1,200 samples`."""
    return f"{count:,} {word}{ending * (count != 1)}"
