"""Several processes at one job, as `torchrun` starts them; one process is a group of one.

`torchrun` sets RANK, LOCAL_RANK and WORLD_SIZE and where the processes meet. They exchange only
short messages on the CPU (gloo); on GPUs NCCL is set up beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from vtcli.errors import DataError

T = TypeVar("T")
# The first process done waits for the last, however long that takes.
COLLECTIVE_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Group:
    """This process among `size`; `local` counts those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def broadcast(self, value: T | None) -> T:
        """The first process's value, in all of them; raises `DataError` where one has died."""
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
        """What the first process makes of a job, in all of them; so is a `DataError` of its."""
        made: T | DataError | None = None
        if self.is_main_process:
            try:
                made = job()
            except DataError as error:
                made = error
        (told,) = self.broadcast((made,))
        if isinstance(told, DataError):
            raise told
        return told  # type: ignore[return-value]

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, by rank; waits for all. Raises `DataError` where one has died."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise peer_lost(error) from error
        return [v for v in values if v is not None]

    def device(self, device: str) -> str:
        """The device of this process: on a machine with several GPUs each gets its own."""
        if self.size == 1 or device not in ("auto", "cuda"):
            return device
        import torch

        if not torch.cuda.is_available():
            return device
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def peer_lost(error: RuntimeError) -> DataError:
    reason = str(error).splitlines()[0].split(". ")[0]
    return DataError(
        f"another process of this run has gone ({reason}); what was saved is kept, run the same "
        "command again to go on (vt finetune: with --resume auto)"
    )


@contextmanager
def process_group() -> Iterator[Group]:
    """The processes that `torchrun` started, or this one alone.

    Raises `DataError` where one has died.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Group()
        return
    import torch.distributed as dist

    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    _meet(one_machine=local_size == size)
    try:
        yield Group(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")), local_size)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise peer_lost(error) from error
        raise
    finally:
        dist.destroy_process_group()


def _meet(one_machine: bool) -> None:
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    # torchrun keeps one store for all its starts: processes would take the addresses that those
    # before them left there for each other's. Several machines may count starts differently.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else ""
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"start{start}", store),
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )
