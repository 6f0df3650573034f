"""A dataset's classes found among a model's, by name.

Class orders differ between sources of the same dataset, so a number alone says nothing: wherever
both sides have names, names decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtcli.data.samples import Dataset
from vtcli.errors import DataError
from vtcli.labels import is_unverified
from vtcli.weights.checkpoint import HeadSpec

NAMES_SHOWN = 3


@dataclass(frozen=True)
class ClassMapping:
    """The model's class [i] of each class i of the dataset, for one head."""

    head: str
    classes: tuple[str, ...]
    model_class: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def match_heads(dataset: Dataset, heads: Sequence[HeadSpec]) -> tuple[ClassMapping, ...]:
    """The dataset's heads, in its order, among the model's.

    A single head of each fit together whatever they are called. Raises `DataError` where a head or
    a class of the dataset is not the model's.
    """
    if len(dataset.heads) == 1 == len(heads):
        return (_match(dataset, dataset.heads[0], heads[0]),)
    by_name = {head.name: head for head in heads}
    if missing := [name for name in dataset.heads if name not in by_name]:
        raise DataError(
            f"{dataset.name} is labeled with {' and '.join(dataset.heads)}, and the model answers "
            f"{' and '.join(by_name)}, not {missing[0]}; take a model made for {dataset.name}"
        )
    return tuple(_match(dataset, name, by_name[name]) for name in dataset.heads)


def _match(dataset: Dataset, name: str, head: HeadSpec) -> ClassMapping:
    ours = dataset.classes[name]
    nameless_model = any(map(is_unverified, head.labels))
    if ours and not nameless_model:
        return ClassMapping(head.name, ours, _by_name(dataset.name, ours, head.labels))
    used = _labels_used(dataset, name)
    count = len(ours) or max(used, default=-1) + 1
    if count > head.size or (ours and count != head.size):
        raise DataError(
            f"{dataset.name} has {count} classes and the model {head.size}, and "
            f"{'the model' if ours else 'the annotation'} does not name them; give the names "
            f"{'with vt convert --labels' if ours else 'in the annotation'}"
        )
    whose = "the model's class order is not verified" if ours else "the annotation gives numbers"
    warning = f"{whose}, so class numbers are taken to mean the same on both sides"
    names = ours or head.labels
    return ClassMapping(head.name, names, tuple(range(len(names))), (warning,))


def _labels_used(dataset: Dataset, name: str) -> set[int]:
    """The class numbers that samples of the dataset have in one head."""
    if len(dataset.heads) == 1:
        return {label for sample in dataset.samples for label in sample.labels}
    place = dataset.heads.index(name)
    return {sample.labels[place] for sample in dataset.samples if sample.labels}


def _by_name(dataset: str, ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    exact, plain = _places(theirs), _places([simplify(name) for name in theirs])
    found = [exact.get(name, plain.get(simplify(name))) for name in ours]
    if missing := [name for name, place in zip(ours, found, strict=True) if place is None]:
        shown = ", ".join(f"'{name}'" for name in missing[:NAMES_SHOWN])
        raise DataError(
            f"{len(missing)} of the {len(ours)} classes of {dataset} are not among the model's "
            f"{len(theirs)}: {shown}{', ...' if len(missing) > NAMES_SHOWN else ''}; take a model "
            "with these classes, or correct the names in the annotation"
        )
    return tuple(place for place in found if place is not None)


def _places(names: Sequence[str]) -> Mapping[str, int]:
    """Index of each name that stands only once."""
    places: dict[str, int] = {}
    doubled = set()
    for index, name in enumerate(names):
        if name in places:
            doubled.add(name)
        places[name] = index
    return {name: index for name, index in places.items() if name not in doubled}


def simplify(name: str) -> str:
    """What is left of a class name when case, quotes, brackets, underscores and blanks are taken
    from it: sources of one dataset differ in these.
    """
    words = re.sub(r"[_\W]+", " ", name.casefold())
    return words.strip()
