"""Class lists, one text file per order, and the permutations between the orders of different
sources.

`<dataset>.txt` is the order most sources use, `<dataset>.<source>.txt` another source's. Line
number minus one is the class index. `perm/A_to_B.json` holds perm[target index] = source row.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from vtcli.errors import DataError

_ROOT = files(__name__)
_UNVERIFIED = "(order unverified)"


def list_label_files() -> list[str]:
    """Stems of all class lists that come with the package, e.g. `k400` and `k400.uniformerv2`."""
    return sorted(
        entry.name.removesuffix(".txt") for entry in _ROOT.iterdir() if entry.name.endswith(".txt")
    )


@cache
def load_labels(stem: str) -> tuple[str, ...]:
    """The class names of one list, in index order; a name that ends in .txt is a file of the user's
    own.

    Raises `DataError` where no list has this name.
    """
    if stem.endswith(".txt"):
        return read_label_file(Path(stem))
    entry = _ROOT / f"{stem}.txt"
    if not entry.is_file():
        raise DataError(
            f"there is no class list '{stem}'; known are {', '.join(list_label_files())}"
        )
    return tuple(entry.read_text(encoding="utf-8").splitlines())


def read_label_file(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line.

    Raises `DataError` where it cannot be read as text.
    """
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the labels file {path} cannot be read as text: {error}") from error


@cache
def load_permutation(name: str) -> tuple[int, ...]:
    """`perm` with perm[target index] = source row, e.g. `uniformerv2_to_alpha_k400`.

    Raises `DataError` where no permutation has this name.
    """
    entry = _ROOT / "perm" / f"{name}.json"
    if not entry.is_file():
        raise DataError(f"there is no class permutation '{name}'")
    return tuple(json.loads(entry.read_text(encoding="utf-8")))


def unverified_labels(count: int) -> tuple[str, ...]:
    """Honest names for a head whose class order no source states."""
    return tuple(f"class {index} {_UNVERIFIED}" for index in range(count))


def is_unverified(label: str) -> bool:
    """Whether a label is one of `unverified_labels`."""
    return label.startswith("class ") and label.endswith(_UNVERIFIED)
