"""Class lists, one text file per class order, and the permutations between the orders of sources.

`<dataset>.txt` is the order that most sources use, `<dataset>.<source>.txt` that of another source.
The class index is the line number, counted from 0. `perm/A_to_B.json` maps each target index to
the source row: perm[target index] = source row.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from vtcli.errors import DataError
from vtcli.labels.label_file import read_label_file

_ROOT = files(__name__)
_UNVERIFIED = "(order unverified)"


def list_label_files() -> list[str]:
    """Names of all class lists in the package, e.g. `k400` and `k400.uniformerv2`."""
    return sorted(
        entry.name.removesuffix(".txt") for entry in _ROOT.iterdir() if entry.name.endswith(".txt")
    )


@cache
def load_labels(name: str) -> tuple[str, ...]:
    """The class names of one list, in index order; a name that ends in .txt is the path of a file.

    Raises `DataError` if there is no such list, or if the file cannot be read.
    """
    if name.endswith(".txt"):
        return read_label_file(Path(name)).names
    file = _ROOT / f"{name}.txt"
    if not file.is_file():
        raise DataError(
            f"there is no class list '{name}'; known are {', '.join(list_label_files())}"
        )
    return tuple(file.read_text(encoding="utf-8").splitlines())


@cache
def load_permutation(name: str) -> tuple[int, ...]:
    """`perm` with perm[target index] = source row, e.g. `uniformerv2_to_alpha_k400`.

    Raises `DataError` if there is no such permutation.
    """
    file = _ROOT / "perm" / f"{name}.json"
    if not file.is_file():
        raise DataError(
            f"there is no class permutation '{name}'; known are {', '.join(list_permutations())}"
        )
    return tuple(json.loads(file.read_text(encoding="utf-8")))


def list_permutations() -> list[str]:
    """Names of all class permutations in the package."""
    files_in_folder = (_ROOT / "perm").iterdir()
    return sorted(
        file.name.removesuffix(".json") for file in files_in_folder if file.name.endswith(".json")
    )


def unverified_labels(count: int) -> tuple[str, ...]:
    """Placeholder names for a head whose class order no source states."""
    return tuple(f"class {index} {_UNVERIFIED}" for index in range(count))


def is_unverified(label: str) -> bool:
    """Whether a label is one of `unverified_labels`."""
    return label.startswith("class ") and label.endswith(_UNVERIFIED)
