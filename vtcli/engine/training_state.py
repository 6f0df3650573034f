"""All that a training needs to go on as if it had never stopped.

One safetensors file with the weights, their moving average and the optimiser's memory; numbers and
the position are in its metadata. Learning rates and everything random are functions of the position
and the seed, so no generator has to be kept. The file before the last is kept beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, InputError, WeightsError
from vtcli.weights.store import open_tensors, read_header, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

KEY = "vt_training"
NAME, PREVIOUS = "state.safetensors", "state.previous.safetensors"


@dataclass
class Sums:
    """What an epoch's clips added up to so far, over all processes."""

    loss: float = 0.0
    right: float = 0.0
    clips: int = 0
    failed: int = 0
    short: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, other: Sums) -> None:
        """Add another's figures; times are those of the process that asks."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Position:
    """How far a training is: `update` of `epoch` is the next one, `done` counts all so far.

    `history` holds one row per finished epoch, `best` the number of the best one.
    """

    epoch: int = 0
    update: int = 0
    done: int = 0
    best: int = -1
    sums: Sums = field(default_factory=Sums)
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Position:
        """What `asdict` made of one."""
        return cls(**{**table, "sums": Sums(**table["sums"])})


@dataclass
class State:
    """What is stored: tensors by name in each of several parts, and plain values."""

    position: Position
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's memory as tensors and numbers, each named PARAMETER.NAME."""
    import torch

    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, memory in state.items():
        for name, value in memory.items():
            place = tensors if isinstance(value, torch.Tensor) else numbers
            place[f"{parameter}.{name}"] = value
    return tensors, numbers


def gather_optimizer(tensors: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The memory that `flatten_optimizer` took apart."""
    memory: dict[str, Any] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        parameter, name = key.rsplit(".", 1)
        memory.setdefault(parameter, {})[name] = value
    return memory


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part, under their own names."""
    start = f"{name}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def save_state(folder: Path, state: State) -> None:
    """Write a state whole or not at all, the one before kept.

    Raises `DataError` where the disk is full or the folder cannot be written.
    """
    text = json.dumps({"position": asdict(state.position), "values": state.values})
    path, previous = folder / NAME, folder / PREVIOUS
    fresh = folder / f"new.{NAME}"
    write_checkpoint(fresh, state.tensors, {KEY: text})
    try:
        if path.exists():
            path.replace(previous)
        fresh.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; make room") from error


def load_state(folder: Path) -> State | None:
    """The last state of a run directory that can be read, None where there is none.

    A kill between two renamings leaves only the one before, or a whole one under its first name.
    Raises `DataError` where there are files and none can be read.
    """
    found = [p for n in (NAME, f"new.{NAME}", PREVIOUS) if (p := folder / n).is_file()]
    for path in found:
        try:
            table = json.loads((read_header(path).get("__metadata__") or {})[KEY])
            position = Position.from_dict(table["position"])
            return State(position, open_tensors(path), table["values"])
        except (WeightsError, InputError, KeyError, TypeError, ValueError):
            continue
    if found:
        raise DataError(
            f"the state of the training in {folder} is damaged; start again in another folder with "
            f"-m {folder / 'last.safetensors'}"
        )
    return None
