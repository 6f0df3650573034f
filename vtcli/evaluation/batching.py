"""Fixed batches of a dataset: which views go through the network together, and in which slot.

They depend only on the number of samples, the views per sample and the batch size, so that a score
is the same whichever process computes it and however often the run was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class ViewIndex(NamedTuple):
    """One view of one sample, by number."""

    sample: int
    view: int


@dataclass(frozen=True)
class WorkUnit:
    """Samples that share batches and are therefore scored together.

    `batches` lists the views of each batch; the position of a view is its slot in the batch.
    """

    samples: range
    batches: tuple[tuple[ViewIndex, ...], ...]


def make_units(samples: int, views: int, batch_size: int) -> list[WorkUnit]:
    """Cut a dataset into work units so that no sample is in two of them.

    If a batch holds several samples, it holds all their views; if a sample has more views than fit
    into a batch, they are spread evenly over as few batches as possible.
    """
    per_batch = max(1, batch_size // views)
    size = slots_per_batch(views, batch_size)
    units = []
    for first in range(0, samples, per_batch):
        inside = range(first, min(first + per_batch, samples))
        slots = [ViewIndex(sample, view) for sample in inside for view in range(views)]
        batches = [tuple(slots[i : i + size]) for i in range(0, len(slots), size)]
        units.append(WorkUnit(inside, tuple(batches)))
    return units


def slots_per_batch(views: int, batch_size: int) -> int:
    """Batch size of every batch of `make_units`; slots that have no view are zero."""
    per_batch = max(1, batch_size // views)
    return per_batch * views if per_batch > 1 else -(-views // -(-views // batch_size))
