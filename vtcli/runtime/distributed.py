"""Several processes for one job, as `torchrun` starts them; a single process is a group of one.

`torchrun` sets RANK, LOCAL_RANK and WORLD_SIZE, and the address of rank 0. Short messages are
exchanged on the CPU (gloo); on GPUs, NCCL is set up as well for gradients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from vtcli.errors import DataError

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in a collective. In training all processes do the same at
the same time; the longest waits are for rank 0 writing files, or downloads of different speed.
"""
INDEPENDENT_WORK_TIMEOUT = timedelta(days=7)
"""For work that is divided once and exchanged at the end (evaluation): the process that finishes
first waits for the last, however long its videos take.
"""

_RELEASE_SECONDS = 0.1
"""A thread of gloo releases the tensors of its last collective after that has ended, and needs the
interpreter for it: one that exits in that moment is aborted (SIGABRT)."""


@dataclass(frozen=True)
class Group:
    """This process of a group of `size`; `local_rank` and `local_size` count this machine's."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def broadcast(self, value: T | None) -> T:
        """The value of rank 0, in all processes; that of the others is ignored.

        Raises `DataError` where a process is lost.
        """
        if self.size == 1:
            assert value is not None
            return value
        import torch.distributed as dist

        values: list[T | None] = [value]
        try:
            dist.broadcast_object_list(values, src=0)
        except RuntimeError as error:
            raise peer_lost(error) from error
        assert values[0] is not None
        return values[0]

    def run_on_main(self, job: Callable[[], T]) -> T:
        """Run `job` on rank 0; its result, or the `DataError` it raises, reaches all processes."""
        made: T | DataError | None = None
        if self.is_main_process:
            try:
                made = job()
            except DataError as error:
                made = error
        (received,) = self.broadcast((made,))
        if isinstance(received, DataError):
            raise received
        return received  # type: ignore[return-value]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank.

        Raises `DataError` where a process is lost.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise peer_lost(error) from error
        return values  # type: ignore[return-value]

    def device(self, device: str) -> str:
        """The device of this process: on a machine with several GPUs each gets its own."""
        if self.size == 1 or device not in ("auto", "cuda"):
            return device
        import torch

        if not torch.cuda.is_available():
            return device
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def peer_lost(error: RuntimeError) -> DataError:
    """The error of a collective in which another process has ended, or does not answer."""
    reason = str(error).splitlines()[0].split(". ")[0]
    late = "timed out" in reason.lower() or "timeout" in reason.lower()
    what = "does not respond" if late else "has ended"
    return DataError(
        f"another process of this run {what} ({reason}); everything saved so far is kept: run the "
        "same command again to resume"
    )


@contextmanager
def process_group(timeout: timedelta = COLLECTIVE_TIMEOUT) -> Iterator[Group]:
    """The processes that `torchrun` started, or this one alone.

    `timeout` is how long a collective waits for the others. Raises `DataError` where a process is
    lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Group()
        return
    import torch.distributed as dist

    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    _init_process_group(timeout, one_machine=local_size == size)
    try:
        yield Group(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")), local_size)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise peer_lost(error) from error
        raise
    finally:
        dist.destroy_process_group()
        time.sleep(_RELEASE_SECONDS)


def _init_process_group(timeout: timedelta, one_machine: bool) -> None:
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    # torchrun keeps one store across restarts: processes would take addresses that those before
    # them left there for each other's. Several machines may count restarts differently.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else ""
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"start{restart}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
