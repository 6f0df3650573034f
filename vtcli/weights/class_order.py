"""TODO-HEAD"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vtcli.labels import load_permutation
from vtcli.models import Architecture
from vtcli.models.build import select_classes
from vtcli.models.layouts import Layout
from vtcli.weights.registry import Checkpoint, Registry, Source


@dataclass(frozen=True)
class CheckpointOrigin:
    """What is known of a file before its tensors are looked at."""

    row: Checkpoint | None
    source: Source | None
    sha256: str


def find_permutation(identity: CheckpointOrigin, layout: Layout, registry: Registry) -> str:
    """The name of the permutation that brings the file's class order to the row's own ("" for
    none).
    """
    row = identity.row
    if row is None:
        return ""
    if identity.source is not None:
        return identity.source.permutation
    for source in row.sources:
        if source.layout == layout.name:
            return source.permutation
    return _order_of_layout(row, layout, registry)


def _order_of_layout(row: Checkpoint, layout: Layout, registry: Registry) -> str:
    """The permutation that other rows of this dataset state for this upstream's files."""
    for other in registry.checkpoints.values():
        if other.arch == row.arch and other.dataset == row.dataset:
            for source in other.sources:
                if source.layout == layout.name:
                    return source.permutation
    return ""


def reorder_classes(
    tensors: Mapping[str, Tensor], architecture: Architecture, permutation: str, undo: bool = False
) -> dict[str, Tensor]:
    """The classifier's rows in another class order: row i becomes row perm[i] of the source, or
    back.
    """
    if not permutation:
        return dict(tensors)
    rows = load_permutation(permutation)
    if undo:
        rows = tuple(sorted(range(len(rows)), key=rows.__getitem__))
    return select_classes(tensors, architecture.head_tensors, rows)
