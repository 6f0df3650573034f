"""Maps the classes of a dataset to those of a model, by name.

Class orders differ between sources of the same dataset, so an index alone identifies nothing:
wherever both sides have class names, names decide.
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
    """The model's class [i] for each class i of the dataset, for one head."""

    head: str
    classes: tuple[str, ...]
    model_class: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def match_heads(dataset: Dataset, heads: Sequence[HeadSpec]) -> tuple[ClassMapping, ...]:
    """Map each head of the dataset, in its order, to one of the model's.

    If both have a single head, its name is ignored. Raises `DataError` if the model lacks a head or
    a class of the dataset.
    """
    if len(dataset.heads) == 1 == len(heads):
        return (_match(dataset, dataset.heads[0], heads[0]),)
    by_name = {head.name: head for head in heads}
    if missing := [name for name in dataset.heads if name not in by_name]:
        raise DataError(
            f"{dataset.name} is labeled with {' and '.join(dataset.heads)}, but the model predicts "
            f"{' and '.join(by_name)}, not {missing[0]}; choose a model trained on {dataset.name}"
        )
    return tuple(_match(dataset, name, by_name[name]) for name in dataset.heads)


def _match(dataset: Dataset, name: str, head: HeadSpec) -> ClassMapping:
    names = dataset.classes[name]
    unnamed_model = any(map(is_unverified, head.labels))
    if names and not unnamed_model:
        return ClassMapping(head.name, names, _by_name(dataset.name, names, head.labels))
    used = _labels_used(dataset, name)
    count = len(names) or max(used, default=-1) + 1
    if count > head.size or (names and count != head.size):
        raise DataError(
            f"{dataset.name} has {count} classes and the model {head.size}, but "
            f"{'the model' if names else 'the annotation'} does not name them; provide the names "
            f"{'with vt convert --labels' if names else 'in the annotation'}"
        )
    reason = (
        "the model's class order is not verified"
        if names
        else "the annotation has class numbers without names"
    )
    warning = f"{reason}, so class numbers are assumed to mean the same on both sides"
    names = names or head.labels
    return ClassMapping(head.name, names, tuple(range(len(names))), (warning,))


def _labels_used(dataset: Dataset, name: str) -> set[int]:
    """The class numbers that samples of the dataset have in one head."""
    if len(dataset.heads) == 1:
        return {label for sample in dataset.samples for label in sample.labels}
    index = dataset.heads.index(name)
    return {sample.labels[index] for sample in dataset.samples if sample.labels}


def _by_name(dataset: str, names: Sequence[str], model_names: Sequence[str]) -> tuple[int, ...]:
    exact = _unique_indices(model_names)
    simplified = _unique_indices([simplify(name) for name in model_names])
    found = [exact.get(name, simplified.get(simplify(name))) for name in names]
    if missing := [name for name, index in zip(names, found, strict=True) if index is None]:
        shown = ", ".join(f"'{name}'" for name in missing[:NAMES_SHOWN])
        raise DataError(
            f"{len(missing)} of the {len(names)} classes of {dataset} are not among the model's "
            f"{len(model_names)}: {shown}{', ...' if len(missing) > NAMES_SHOWN else ''}; choose a "
            "model with these classes, or correct the names in the annotation"
        )
    return tuple(index for index in found if index is not None)


def _unique_indices(names: Sequence[str]) -> Mapping[str, int]:
    """Index of each name that occurs only once."""
    indices: dict[str, int] = {}
    repeated = set()
    for index, name in enumerate(names):
        if name in indices:
            repeated.add(name)
        indices[name] = index
    return {name: index for name, index in indices.items() if name not in repeated}


def simplify(name: str) -> str:
    """A class name without case, quotes, brackets, underscores and extra spaces.

    Sources of the same dataset differ in these.
    """
    words = re.sub(r"[_\W]+", " ", name.casefold())
    return words.strip()
