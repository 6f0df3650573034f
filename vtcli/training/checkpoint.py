"""The state of a training on disk: everything needed to resume as if it had never stopped.

The state is the weights, their moving average, the optimizer's state and a position. Learning rates
and everything random are functions of the position and the seed, so no generator is saved. It is
one safetensors file written by rank 0, or a folder of safetensors shards written by all processes
through torch.distributed.checkpoint; reading it never runs code. A state appears only when it is
complete, the one before is kept, and any number of processes can read either form.
"""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, InputError, WeightsError
from vtcli.runtime.distributed import Group
from vtcli.runtime.files import atomic_write, write_error
from vtcli.training.parallel import copy_into, full_state_dict, local_bytes
from vtcli.weights.checkpoint import open_tensors, read_header, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

FORMAT = 2
"""Of training.json and of states; 1, with other keys, was written before the rooms were rebuilt."""
KEY = "vt_training"
FILE, SHARDS = "state.safetensors", "state.dcp"
# Written last into a folder of shards: without it the folder is incomplete.
SHARDS_INDEX = f"{KEY}.json"


# --- what a state holds ---------------------------------------------------------------------------


@dataclass
class RunningTotals:
    """Sums over the clips of an epoch so far, of all processes; times in seconds."""

    loss: float = 0.0
    correct: float = 0.0
    clips: int = 0
    failed: int = 0
    padded: int = 0
    step_time: float = 0.0
    data_time: float = 0.0

    def add(self, other: RunningTotals) -> None:
        """Add another's numbers to these."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class TrainPosition:
    """How far a training is: `step` is the next optimizer step of `epoch`, both from 0.

    `steps_done` counts the optimizer steps of all epochs, `history` has one row per finished epoch,
    `best` is the index of the best one, -1 before the first.
    """

    epoch: int = 0
    step: int = 0
    steps_done: int = 0
    best: int = -1
    totals: RunningTotals = field(default_factory=RunningTotals)
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> TrainPosition:
        """The inverse of `asdict`."""
        return cls(**{**table, "totals": RunningTotals(**table["totals"])})


class TrainState:
    """Everything that changes during training, except the position.

    `names` are those of the trained parameters, in the order of the optimizer's groups.
    """

    def __init__(
        self, model: nn.Module, ema: Any, optimizer: Optimizer, names: Sequence[str], scaler: Any
    ) -> None:
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, scaler
        self.names = names

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, full or this process's shards, named PART.NAME."""
        parts = {"model": self.model.state_dict()}
        if self.ema is not None:
            parts["ema"] = self.ema.module.state_dict()
        parts["optimizer"] = {
            key: table[name] for key, table, name in self._entries() if _is_tensor(table[name])
        }
        return {
            f"{part}.{name}": tensor.detach()
            for part, held in parts.items()
            for name, tensor in held.items()
        }

    def values(self) -> dict[str, Any]:
        """Everything that is not a tensor; JSON-able."""
        numbers = {
            key: table[name] for key, table, name in self._entries() if not _is_tensor(table[name])
        }
        return {"optimizer": numbers, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, saved: SavedState) -> None:
        """Load a saved state; all processes must call this."""
        numbers, prefix = saved.values["optimizer"], "optimizer."
        names = {name.removeprefix(prefix) for name in saved.names if name.startswith(prefix)}
        self._allocate(names | numbers.keys())
        saved.read_into(self.tensors())
        for key, table, name in list(self._entries()):
            if key in numbers:
                table[name] = numbers[key]
        self.scaler.load_state_dict(saved.values["scaler"])

    def _entries(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """The optimizer's state per parameter, and step counters of groups: OWNER.NAME, and where
        it is: a table and its key.
        """
        memory = self.optimizer.state_dict()["state"]
        for number, owner in enumerate(self.names):
            table = memory.get(number, {})
            yield from ((f"{owner}.{name}", table, name) for name in table)
        for number, group in enumerate(self.optimizer.param_groups):
            counts = [name for name in group if name.endswith("step")]
            yield from ((f"group{number}.{name}", group, name) for name in counts)

    def _allocate(self, keys: set[str]) -> None:
        """Create the optimizer's state for these keys: a step with zero gradients creates what the
        optimizer keeps for each parameter.
        """
        import torch

        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wanted: dict[str, list[str]] = {}
        for key in sorted(keys):  # all processes must fill the same tensors in the same order
            owner, name = key.rsplit(".", 1)
            wanted.setdefault(owner, []).append(name)
        table = self.optimizer.state_dict()
        made, table["state"] = table["state"], {}
        for number, (owner, parameter) in enumerate(zip(self.names, parameters, strict=True)):
            if owner in wanted:  # others never had a gradient
                memory = table["state"][number] = dict(made.get(number, {}))
                for name in wanted[owner]:
                    if name not in memory:
                        memory[name] = torch.zeros_like(parameter)
        self.optimizer.load_state_dict(table)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


# --- where it is stored ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointSlot:
    """The paths of one form of state in a run directory."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The latest state."""
        return self.folder / self.name

    @property
    def previous(self) -> Path:
        """The state before the latest."""
        return self.folder / self.name.replace("state.", "state.previous.")

    @property
    def new(self) -> Path:
        """A state that is being written, or complete and about to become the latest."""
        return self.folder / f"new.{self.name}"

    def complete(self) -> list[Path]:
        """The states that are there and complete."""
        existing = [path for path in (self.path, self.new, self.previous) if path.exists()]
        return [path for path in existing if path != self.new or _is_complete(path)]

    def rotate(self) -> None:
        """Make the new state the latest, and the latest the previous one.

        Raises `DataError` where the folder cannot be written.
        """
        try:
            if self.path.exists():
                if self.previous.is_dir():
                    shutil.rmtree(self.previous)
                self.path.replace(self.previous)
            self.new.replace(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error

    def clear(self) -> None:
        """Empty the folder for new shards; a complete state that a kill left there is kept."""
        if self.new.exists() and _is_complete(self.new):
            self.rotate()
        try:
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir()
        except OSError as error:
            raise write_error(self.new, error) from error


def _is_complete(path: Path) -> bool:
    return path.is_file() or (path / SHARDS_INDEX).is_file()


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedState:
    """A readable state whose tensors are still on disk."""

    path: Path
    position: TrainPosition
    values: dict[str, Any]
    names: frozenset[str]

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors, full or sharded, with their stored values; all processes must call this."""
        if self.path.is_dir():
            _read_shards(self.path, tensors)
            return
        stored = open_tensors(self.path)
        for name, tensor in tensors.items():
            copy_into(tensor, stored[name])


def find_state(folder: Path) -> SavedState | None:
    """The latest readable state of a run directory, of either form; None where there is none.

    A kill between two renames leaves only the previous one, or a complete one under its first name.
    Raises `DataError` where there are states and none can be read, or another version's.
    """
    found = [path for name in (FILE, SHARDS) for path in CheckpointSlot(folder, name).complete()]
    readable = [saved for path in found if (saved := _open(path))]
    if found and not readable:
        raise DataError(
            f"the state of the training in {folder} is damaged; start again in another folder with "
            f"-m {folder / 'last.safetensors'}"
        )
    return max(readable, key=lambda s: (s.position.epoch, s.position.step), default=None)


def _open(path: Path) -> SavedState | None:
    """None for a damaged state."""
    try:
        if path.is_dir():
            table = json.loads((path / SHARDS_INDEX).read_text(encoding="utf-8"))
            files = [path / name for name in table["files"]]
        else:
            table = json.loads((read_header(path).get("__metadata__") or {})[KEY])
            files = [path]
        check_format(path.parent, table.get("format", 1))
        names = frozenset(name for file in files for name in open_tensors(file))
        return SavedState(path, TrainPosition.from_dict(table["position"]), table["values"], names)
    except (WeightsError, InputError, OSError, KeyError, TypeError, ValueError):
        return None


def check_format(folder: Path, number: Any) -> None:
    """Raise `DataError` for a training directory that another version of vt wrote."""
    if number == FORMAT:
        return
    if isinstance(number, int) and number > FORMAT:
        raise DataError(f"{folder} was written by a newer version of vt; update vtcli to resume it")
    raise DataError(
        f"{folder} holds a training of an older version of vt, which cannot be resumed; train into "
        f"another folder with -o, from its weights with -m {folder / 'best.safetensors'}"
    )


def _read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    with warnings.catch_warnings():
        # Intended: each process reads what it needs, however many there are.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


# --- writing --------------------------------------------------------------------------------------


def save_state(
    folder: Path, position: TrainPosition, state: TrainState, group: Group, sharded: bool
) -> None:
    """Write a complete state and keep the one before; all processes must call this.

    Raises `DataError`, in all of them, where the disk is full or the folder cannot be written.
    """
    tensors = state.tensors()
    table = {"format": FORMAT, "position": asdict(position), "values": state.values()}
    slot = CheckpointSlot(folder, SHARDS if sharded else FILE)
    if sharded:
        _write_shards(slot, tensors, table, group)
    else:
        full = full_state_dict(tensors, group.is_main_process)
        group.run_on_main(lambda: write_checkpoint(slot.new, full, {KEY: json.dumps(table)}))
    group.run_on_main(slot.rotate)


def _write_shards(
    slot: CheckpointSlot, tensors: Mapping[str, Tensor], table: Mapping[str, Any], group: Group
) -> None:
    group.run_on_main(slot.clear)
    try:
        _check_free_space(slot.new, tensors, group)
        _save_shards(slot.new, tensors)
        group.run_on_main(lambda: _write_index(slot.new, table, group.size))
    except DataError:
        if group.is_main_process:
            shutil.rmtree(slot.new, ignore_errors=True)
        raise


def _check_free_space(folder: Path, tensors: Mapping[str, Tensor], group: Group) -> None:
    """Raise `DataError`, in all processes, where their shards together do not fit on the disk."""
    reports = group.all_gather(
        (local_bytes(tensors, group.is_main_process), shutil.disk_usage(folder).free)
    )
    if sum(size for size, _ in reports) > min(free for _, free in reports):
        raise write_error(folder, OSError(errno.ENOSPC, ""))


def _save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed.checkpoint import (
        CheckpointException,
        DefaultSavePlanner,
        HuggingFaceStorageWriter,
        save,
    )

    # Running statistics differ between processes; those of rank 0 are saved.
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, planner=planner)
    except CheckpointException as error:
        # A failure of any process is raised in all of them.
        failure = next(iter(error.failures.values()))[0]
        raise write_error(folder, failure) if isinstance(failure, OSError) else failure from error


def _write_index(folder: Path, table: Mapping[str, Any], processes: int) -> None:
    """List the shards; this makes the folder a complete state."""
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(files) < processes:
        raise DataError(
            f"{folder} does not hold the shards of all processes; choose a folder with -o that all "
            "machines share"
        )
    text = json.dumps({**table, "files": files})
    with atomic_write(folder / SHARDS_INDEX, len(text)) as path:
        path.write_text(text, encoding="utf-8")
