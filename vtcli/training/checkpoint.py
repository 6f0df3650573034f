"""Where the state of a training lies: in one safetensors file, or in a folder of shards.

The file is written by the first process. The folder is written through torch.distributed.checkpoint
by all, each its own shards and nothing else, as safetensors too: reading a state never runs code.
Either appears whole or not at all, the one before is kept beside it, and processes of any number
read either.
"""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, InputError, WeightsError
from vtcli.runtime.distributed import Group
from vtcli.runtime.files import atomic_write, write_error
from vtcli.training.parallel import copy_into, full_state_dict, local_bytes
from vtcli.training.training_state import TrainPosition
from vtcli.weights.checkpoint import open_tensors, read_header, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

KEY = "vt_training"
FILE, SHARDS = "state.safetensors", "state.dcp"
# Written last into a folder of shards: without it the folder is not whole.
TEXT = f"{KEY}.json"


@dataclass(frozen=True)
class CheckpointSlot:
    """The names of one kind of state in a run directory."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The last state."""
        return self.folder / self.name

    @property
    def previous(self) -> Path:
        """The one before."""
        return self.folder / self.name.replace("state.", "state.previous.")

    @property
    def fresh(self) -> Path:
        """One that is being written, or whole and about to become the last."""
        return self.folder / f"new.{self.name}"

    def found(self) -> list[Path]:
        """What is there, unless its writing was cut off."""
        there = [path for path in (self.path, self.fresh, self.previous) if path.exists()]
        return [path for path in there if path != self.fresh or _is_whole(path)]

    def rotate(self) -> None:
        """Let the fresh state be the last, and the last the one before.

        Raises `DataError` where the folder cannot be written.
        """
        try:
            if self.path.exists():
                if self.previous.is_dir():
                    shutil.rmtree(self.previous)
                self.path.replace(self.previous)
            self.fresh.replace(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error

    def clear(self) -> None:
        """Make room for fresh shards; a whole state that a kill left there is kept as the last."""
        if self.fresh.exists() and _is_whole(self.fresh):
            self.rotate()
        try:
            shutil.rmtree(self.fresh, ignore_errors=True)
            self.fresh.mkdir()
        except OSError as error:
            raise write_error(self.fresh, error) from error


def _is_whole(path: Path) -> bool:
    return path.is_file() or (path / TEXT).is_file()


@dataclass(frozen=True)
class SavedState:
    """A state that can be read, its tensors still on the disk."""

    path: Path
    position: TrainPosition
    values: dict[str, Any]
    names: frozenset[str]

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors their stored values, whole or sharded; all processes have to do so."""
        if self.path.is_dir():
            _read_shards(self.path, tensors)
            return
        stored = open_tensors(self.path)
        for name, tensor in tensors.items():
            copy_into(tensor, stored[name])


def find_state(folder: Path) -> SavedState | None:
    """The last state of a run directory that can be read, of either kind; None where there is none.

    A kill between two renamings leaves only the one before, or a whole one under its first name.
    Raises `DataError` where there are states and none can be read.
    """
    found = [path for name in (FILE, SHARDS) for path in CheckpointSlot(folder, name).found()]
    readable = [stored for path in found if (stored := _open(path))]
    if found and not readable:
        raise DataError(
            f"the state of the training in {folder} is damaged; start again in another folder with "
            f"-m {folder / 'last.safetensors'}"
        )
    return max(readable, key=lambda s: (s.position.epoch, s.position.update), default=None)


def _open(path: Path) -> SavedState | None:
    try:
        if path.is_dir():
            table = json.loads((path / TEXT).read_text(encoding="utf-8"))
            files = [path / name for name in table["files"]]
        else:
            table = json.loads((read_header(path).get("__metadata__") or {})[KEY])
            files = [path]
        names = frozenset(name for file in files for name in open_tensors(file))
        return SavedState(path, TrainPosition.from_dict(table["position"]), table["values"], names)
    except (WeightsError, InputError, OSError, KeyError, TypeError, ValueError):
        return None


def save_state(
    folder: Path,
    position: TrainPosition,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    group: Group,
    sharded: bool,
) -> None:
    """Write a state whole or not at all, the one before kept; all processes have to do so.

    Raises `DataError`, in all of them, where the disk is full or the folder cannot be written.
    """
    table = {"position": asdict(position), "values": values}
    place = CheckpointSlot(folder, SHARDS if sharded else FILE)
    if sharded:
        _write_shards(place, tensors, table, group)
    else:
        kept = full_state_dict(tensors, group.is_main_process)
        group.run_on_main(lambda: write_checkpoint(place.fresh, kept, {KEY: json.dumps(table)}))
    group.run_on_main(place.rotate)


def _write_shards(
    place: CheckpointSlot, tensors: Mapping[str, Tensor], table: Mapping[str, Any], group: Group
) -> None:
    group.run_on_main(place.clear)
    try:
        _check_room(place.fresh, tensors, group)
        _save_shards(place.fresh, tensors)
        group.run_on_main(lambda: _finish_shards(place.fresh, table, group.size))
    except DataError:
        if group.is_main_process:
            shutil.rmtree(place.fresh, ignore_errors=True)
        raise


def _check_room(folder: Path, tensors: Mapping[str, Tensor], group: Group) -> None:
    """Raise `DataError`, in all processes, where their shards do not fit together."""
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

    # Running statistics differ between processes; those of the first one count.
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, planner=planner)
    except CheckpointException as error:
        # What went wrong in any process is raised in all.
        failure = next(iter(error.failures.values()))[0]
        raise write_error(folder, failure) if isinstance(failure, OSError) else failure from error


def _finish_shards(folder: Path, table: Mapping[str, Any], processes: int) -> None:
    """Say what the shards are; from here on they are a state."""
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(files) < processes:
        raise DataError(
            f"{folder} does not hold the shards of all processes; let -o name a folder that all "
            "machines share"
        )
    text = json.dumps({**table, "files": files})
    with atomic_write(folder / TEXT, len(text)) as path:
        path.write_text(text, encoding="utf-8")


def _read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    with warnings.catch_warnings():
        # Each process reads what it needs, whoever else there is.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
