"""TODO-HEAD"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

Slot = tuple[int, int]  # sample and view, by number


@dataclass(frozen=True)
class WorkUnit:
    """Samples that share batches: what is scored together, whoever does it and whenever."""

    samples: range
    batches: tuple[tuple[Slot, ...], ...]


def make_units(samples: int, views: int, batch_size: int) -> list[WorkUnit]:
    """The fixed batches of a dataset, grouped so that no sample is in two groups.

    Where a batch holds several videos, all their views are in it; where a video has more views
    than a batch holds, they are spread evenly over as few batches as will do.
    """
    together = max(1, batch_size // views)
    count = -(-views // batch_size) if together == 1 else 1
    size = -(-together * views // count)
    units = []
    for first in range(0, samples, together):
        inside = range(first, min(first + together, samples))
        slots = [(sample, view) for sample in inside for view in range(views)]
        batches = [tuple(slots[i : i + size]) for i in range(0, len(slots), size)]
        units.append(WorkUnit(inside, tuple(batches)))
    return units


def slots_per_batch(views: int, batch_size: int) -> int:
    """Places of every batch that `make_units` makes."""
    together = max(1, batch_size // views)
    return together * views if together > 1 else -(-views // -(-views // batch_size))
