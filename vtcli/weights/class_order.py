"""From a file's class order to its registry entry's, and back: which permutation, and applying it.

Upstreams number the classes of one dataset differently; a permutation of `vtcli/labels/perm` brings
the rows of a classifier from one order to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vtcli.labels import load_permutation
from vtcli.models import Architecture
from vtcli.models.build import select_classes
from vtcli.models.layouts import Layout
from vtcli.weights.formats.transformers_repo import Stated
from vtcli.weights.registry import Checkpoint, Registry, Source


@dataclass(frozen=True)
class CheckpointOrigin:
    """What is known of a file before its tensors are read; None and "" where it is not known.

    `stated` is what the files beside it state, `size` the bytes of the file or of all shards.
    """

    entry: Checkpoint | None
    source: Source | None
    sha256: str
    stated: Stated | None = None
    size: int = 0


def find_permutation(origin: CheckpointOrigin, layout: Layout, registry: Registry) -> str:
    """The name of the permutation from the file's class order to the entry's ("" for none)."""
    entry = origin.entry
    if entry is None:
        return ""
    if origin.source is not None:
        return origin.source.permutation
    for source in entry.sources:
        if source.layout == layout.name:
            return source.permutation
    return _permutation_of_layout(entry, layout, registry)


def _permutation_of_layout(entry: Checkpoint, layout: Layout, registry: Registry) -> str:
    """The permutation that other entries of this dataset state for this upstream's files."""
    for other in registry.checkpoints.values():
        if other.arch == entry.arch and other.dataset == entry.dataset:
            for source in other.sources:
                if source.layout == layout.name:
                    return source.permutation
    return ""


def reorder_classes(
    tensors: Mapping[str, Tensor], architecture: Architecture, permutation: str, undo: bool = False
) -> dict[str, Tensor]:
    """The weights with the classifier's rows in another class order.

    Row i becomes row perm[i] of the source; with `undo`, the inverse. "" changes nothing.
    """
    if not permutation:
        return dict(tensors)
    rows = load_permutation(permutation)
    if undo:
        rows = tuple(sorted(range(len(rows)), key=rows.__getitem__))
    return select_classes(tensors, architecture.head_tensors, rows)
