"""Functions that worker processes run in tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import numpy as np


def filled(size: int) -> np.ndarray:
    """Sevens."""
    return np.full(size, 7, np.uint8)


def numbered(size: int, number: int) -> np.ndarray:
    """An array of a number."""
    return np.full(size, number, np.uint8)


def count_up(parts: int) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers, each with an array that is large enough for shared memory."""
    for number in range(parts):
        yield number, np.full(100_000, number % 250, np.uint8)


def imported(module: str) -> list[str]:
    """Which heavy packages a process has once a module is imported."""
    importlib.import_module(module)
    return sorted({"torch", "torchvision", "timm"} & set(sys.modules))
