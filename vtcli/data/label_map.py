"""From an annotation's labels, which are class names or numbers, to class indices and class names.

Names are looked up in the list that the annotation gives, else in the dataset's own, else sorted.
Numbers are indices; they get names only from a list that states their order.
"""

from __future__ import annotations

import difflib
import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vtcli.data.annotations.base import Annotation, AnnotationRow, Label
from vtcli.data.catalog import CatalogEntry
from vtcli.errors import DataError
from vtcli.labels.heads import HeadSpec
from vtcli.labels.label_file import first_and_last
from vtcli.runtime.words import plural

# Fraction of class folders that must agree with a class order; versions rename a few classes.
_MIN_AGREEMENT = 0.9


@dataclass(frozen=True)
class ResolvedLabels:
    """The class names of each head, each row's class indices, and how the labels were read."""

    classes: Mapping[str, tuple[str, ...]]
    labels: Sequence[tuple[int, ...]]
    description: str


class _HeadLabels(NamedTuple):
    """One head's class names, where they come from, and the function from label to class index."""

    names: tuple[str, ...]
    description: str
    index_of: Callable[[AnnotationRow, Label], int]


def resolve_labels(
    annotation: Annotation, rows: Sequence[AnnotationRow], entry: CatalogEntry | None
) -> ResolvedLabels:
    """Class indices for `rows`, which are some or all of the annotation's rows.

    Raises `DataError` naming a row whose label is not a class, and for numbers that appear to count
    from 1 if the format does not define it.
    """
    heads = [_head_labels(annotation, position, entry) for position in range(len(annotation.heads))]
    several = len(heads) > 1
    known: dict[tuple[Label, ...], tuple[int, ...]] = {}
    labels = []
    for row in rows:
        found = known.get(row.labels)
        if found is None:
            found = known[row.labels] = tuple(
                heads[position if several else 0].index_of(row, label)
                for position, label in enumerate(row.labels)
            )
        labels.append(found)
    classes = {name: head.names for name, head in zip(annotation.heads, heads, strict=True)}
    return ResolvedLabels(classes, labels, _describe(annotation, rows, heads, labels))


def _head_labels(annotation: Annotation, position: int, entry: CatalogEntry | None) -> _HeadLabels:
    name, several = annotation.heads[position], len(annotation.heads) > 1
    listed = annotation.classes.get(name, ())
    known = _known_head(entry, name)
    own = slice(position, position + 1) if several else slice(None)
    first = next((row.labels[own] for row in annotation.rows if row.labels), None)
    if first is None:
        return _numbered(annotation, listed or (known.labels if known else ()), "")
    if isinstance(first[0], str):
        return _from_names(annotation, listed, known)
    numbers = [(row, int(label)) for row in annotation.rows for label in row.labels[own]]
    return _from_numbers(annotation, numbers, listed, known)


def _known_head(entry: CatalogEntry | None, name: str) -> HeadSpec | None:
    return next((h for h in entry.heads if h.name == name), None) if entry else None


def _from_names(
    annotation: Annotation, listed: tuple[str, ...], known: HeadSpec | None
) -> _HeadLabels:
    if listed:
        names, description = listed, ""
    elif known and known.labels:
        names, description = known.labels, f" as in {known.label_list}"
    else:
        distinct = {row.labels for row in annotation.rows}
        names = tuple(sorted({_composed(str(label)) for labels in distinct for label in labels}))
        description = f" in sorted order ({first_and_last(names)})"
    exact = {name: index for index, name in enumerate(names)}
    normalized = _by_normalized_name(names)

    def index_of(row: AnnotationRow, label: Label) -> int:
        index = exact.get(_composed(str(label)), exact.get(str(label), -1))
        if index < 0:
            index = normalized.get(_normalized(str(label)), -1)
        if index < 0:
            raise annotation.row_error(row, _unknown_class(str(label), names))
        return index

    return _HeadLabels(names, description, index_of)


def _composed(name: str) -> str:
    """A name in Unicode's composed form: macOS writes the accents of file names apart."""
    return unicodedata.normalize("NFC", name)


def _unknown_class(label: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; see `vt datasets show`"
    return f"'{label}' is not one of the {len(names)} classes{hint}"


def _normalized(name: str) -> str:
    """A class name without letter case, quotes and underscores, which folders and files vary in."""
    return " ".join(name.replace("_", " ").replace('"', "").casefold().split())


def _by_normalized_name(names: Sequence[str]) -> dict[str, int]:
    """Class indices by normalized name, -1 if two classes share it."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        found[_normalized(name)] = -1 if _normalized(name) in found else index
    return found


def _from_numbers(
    annotation: Annotation,
    numbers: Sequence[tuple[AnnotationRow, int]],
    listed: tuple[str, ...],
    known: HeadSpec | None,
) -> _HeadLabels:
    if listed:
        return _numbered(annotation, listed, "")
    _check_base(annotation, numbers, known.size if known else len({n for _, n in numbers}))
    names, description = _order_of(annotation, numbers, known) if known else ((), "")
    return _numbered(annotation, names, description)


def _numbered(annotation: Annotation, names: tuple[str, ...], description: str) -> _HeadLabels:
    first = annotation.index_base or 0

    def index_of(row: AnnotationRow, label: Label) -> int:
        index = int(label) - first
        if index < 0 or (names and index >= len(names)):
            limits = f"{first} to {first + len(names) - 1}" if names else f"from {first}"
            text = f"label {label} is outside the classes, which are numbered {limits}; fix it"
            raise annotation.row_error(row, text)
        return index

    return _HeadLabels(names, description, index_of)


def _check_base(
    annotation: Annotation, numbers: Sequence[tuple[AnnotationRow, int]], count: int
) -> None:
    """Refuse numbers from 1 to the number of classes, unless the format defines its index base."""
    values = {number for _, number in numbers}
    if annotation.index_base is None and count > 1 and (min(values), max(values)) == (1, count):
        raise DataError(
            f"{annotation.path}: labels run from 1 to {count}, so they appear to count from 1; "
            "number the classes from 0, or write class names"
        )


def _order_of(
    annotation: Annotation, numbers: Sequence[tuple[AnnotationRow, int]], known: HeadSpec
) -> tuple[tuple[str, ...], str]:
    """The class order that agrees with the names of the videos' folders, else the usual one, and a
    description of which it is.
    """
    orders = known.known_orders()
    if not orders:
        return (), ""
    usual = orders[known.label_list]
    pairs = _folder_pairs(numbers, usual)
    if not pairs:
        others = " and ".join(list(orders)[1:])
        verb = "are" if len(orders) > 2 else "is"
        note = f" ({others} {verb} also in use)" if others else ""
        return usual, f" assumed to be in the order of {known.label_list}{note}"
    for stem, names in orders.items():
        if sum(_agrees(pair, names) for pair in pairs) >= _MIN_AGREEMENT * len(pairs):
            return names, f" in the order of {stem} as the folder names show"
    folder, number = min(pair for pair in pairs if not _agrees(pair, usual))
    raise DataError(
        f"{annotation.path}: videos in folder '{folder}' have class {number}, which fits no known "
        f"class order ({', '.join(orders)}); write a manifest with class names"
    )


def _agrees(pair: tuple[str, int], names: Sequence[str]) -> bool:
    folder, number = pair
    return 0 <= number < len(names) and _normalized(names[number]) == folder


def _folder_pairs(
    numbers: Sequence[tuple[AnnotationRow, int]], names: Sequence[str]
) -> set[tuple[str, int]]:
    """(normalized folder name, class number) of all videos in a folder named after a class."""
    known = {_normalized(name) for name in names}
    pairs = {
        (posixpath.basename(posixpath.dirname(row.candidate_paths[0])), number)
        for row, number in numbers
    }
    return {(_normalized(folder), n) for folder, n in pairs if _normalized(folder) in known}


def _describe(
    annotation: Annotation,
    rows: Sequence[AnnotationRow],
    heads: Sequence[_HeadLabels],
    labels: Sequence[tuple[int, ...]],
) -> str:
    """The part of a dataset's summary on labels and classes."""
    given = next((row.labels[0] for row in rows if row.labels), None)
    if given is None:
        kind = "no labels"
    elif isinstance(given, str):
        kind = "labels by name"
    else:
        kind = f"labels {annotation.index_base or 0}-based"
        kind += " as its class list shows" if annotation.index_base else ""
    parts = []
    for position, (name, head) in enumerate(zip(annotation.heads, heads, strict=True)):
        if len(heads) > 1:
            found, prefix = {row[position] for row in set(labels) if row}, f"{name} "
        else:
            found, prefix = {label for row in set(labels) for label in row}, ""
        noun = f"{'' if head.names else 'unnamed '}{prefix}class"
        count = plural(len(head.names) or len(found), noun, f"{noun}es")
        if not head.names and found and max(found) >= len(found):
            count += f" numbered {min(found)} to {max(found)}"
        parts.append(count + head.description + _alike(head.names))
    return f"{kind}, {' and '.join(parts)}"


def _alike(names: Sequence[str]) -> str:
    """A warning where the names of two classes differ in case or in what separates words."""
    by_word: dict[str, list[str]] = {}
    for name in names:
        plain = "".join(c for c in unicodedata.normalize("NFKC", name) if c.isprintable())
        word = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", plain).strip().casefold()
        by_word.setdefault(word, []).append(name)
    found = [alike for alike in by_word.values() if len(alike) > 1]
    known = set(names)
    for name in names:
        parts = [part.strip() for part in re.split(r"[,|+/&]", name)]
        if len(parts) > 1 and known.issuperset(parts):
            return f" (warning: '{name}' may be several labels; separate them by semicolons)"
    if not found:
        return ""
    shown = " and ".join(f"'{name}'" for name in found[0][:2])
    more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
    return f" (warning: {shown}{more} may be one class; write its name in one way)"
