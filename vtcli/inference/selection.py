"""Which parts of a bulk run a process works on: all, every N-th, or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Selection(Protocol):
    """The parts that a process works on."""

    def has(self, part: int) -> bool:
        """Whether a part is one of them."""
        ...


@dataclass(frozen=True)
class Shard:
    """Every `count`-th part from `index` on."""

    index: int = 0
    count: int = 1

    def has(self, part: int) -> bool:
        """Whether this shard works on a part."""
        return part % self.count == self.index


@dataclass(frozen=True)
class OnePart:
    """A selection of one part."""

    part: int

    def has(self, part: int) -> bool:
        """Whether it is this part."""
        return part == self.part


WHOLE = Shard()
