"""Helpers for tests that start, watch and interrupt other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def default_sigint() -> Iterator[None]:
    """Processes started in the block have the default handler of SIGINT, even where this one was
    started with the signal ignored (nohup, a background job, some CI runners).
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def running(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition; fails after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(parent: int | None = None) -> list[int]:
    """The processes that a process (by default this one) has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and everything it started, in whatever session that runs."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    tree = [pid]
    for one in tree:  # grows
        tree += parents.get(one, [])
    for one in tree:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
