"""Fixed batches of a dataset: which views go through the network together, and in which slot.

They depend only on the number of samples, the views per sample and the batch size, so that a score
is the same whichever process computes it and however often the run was interrupted.
"""

from __future__ import annotations

from typing import NamedTuple


class ViewIndex(NamedTuple):
    """One view of one sample, by number."""

    sample: int
    view: int


class WorkUnit(NamedTuple):
    """Samples of `views` views each that share batches of `slots` slots and are therefore scored
    together.
    """

    samples: range
    views: int
    slots: int

    @property
    def batches(self) -> list[tuple[ViewIndex, ...]]:
        """The views of each batch; the position of a view is its slot in the batch."""
        views = [ViewIndex(sample, view) for sample in self.samples for view in range(self.views)]
        return [tuple(views[i : i + self.slots]) for i in range(0, len(views), self.slots)]


def make_units(samples: int, views: int, batch_size: int) -> list[WorkUnit]:
    """Cut a dataset into work units so that no sample is in two of them.

    If a batch holds several samples, it holds all their views; if a sample has more views than fit
    into a batch, they are spread evenly over as few batches as possible.
    """
    per_batch = max(1, batch_size // views)
    size = slots_per_batch(views, batch_size)
    return [
        WorkUnit(range(first, min(first + per_batch, samples)), views, size)
        for first in range(0, samples, per_batch)
    ]


def slots_per_batch(views: int, batch_size: int) -> int:
    """Batch size of every batch of `make_units`; slots that have no view are zero."""
    per_batch = max(1, batch_size // views)
    return per_batch * views if per_batch > 1 else -(-views // -(-views // batch_size))
