"""A pool of processes that may hang or crash: only the item at work is lost.

Native decoders can loop forever or crash on a damaged file, and a thread cannot be stopped from
outside; a process can. Each process has its own pipe, so that a crash is noticed at once and
affects nothing else, and each exits with its parent, however that ended.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

Heartbeat: TypeAlias = Callable[[], None]
"""Called by a long job from time to time to show that it makes progress."""

_HEARTBEAT_INTERVAL_S = 0.1
_Kind = Literal["heartbeat", "result", "raised"]


@dataclass(frozen=True)
class WorkerFailure:
    """An item whose process hung (`timeout`) or died (`crashed`); `detail` describes how."""

    reason: Literal["timeout", "crashed"]
    detail: str


def imap_with_timeout(
    function: Callable[[Item, Heartbeat], Result],
    items: Iterable[Item],
    workers: int,
    timeout: float = math.inf,
) -> Generator[tuple[Item, Result | WorkerFailure], None, None]:
    """Each item with the result of `function(item, heartbeat)`, in the order of completion.

    Runs in `workers` new processes. `function` must be importable by its name, items and results
    must be picklable. A call that neither returns nor calls `heartbeat` for `timeout` seconds is
    killed. Items are taken as processes become free. An exception of `function` is raised here. No
    process outlives the iteration: close it (`contextlib.closing`) where it may be left early.
    """
    queue = iter(items)
    busy: dict[Connection, _Worker[Item, Result]] = {}
    idle: list[_Worker[Item, Result]] = []
    try:
        while True:
            while len(busy) < workers:
                try:
                    item = next(queue)
                except StopIteration:
                    break
                worker = idle.pop() if idle else _Worker(function, timeout)
                busy[worker.connection] = worker
                worker.submit(item)
            if not busy:
                return
            for worker in _wait_for_any(busy):
                del busy[worker.connection]
                if isinstance(worker.outcome, WorkerFailure):
                    worker.kill()
                else:
                    idle.append(worker)
                yield worker.item, worker.outcome
    finally:
        for worker in (*busy.values(), *idle):
            worker.kill()


class _Worker(Generic[Item, Result]):
    """A process, the item it works on, and the outcome."""

    item: Item
    outcome: Result | WorkerFailure

    def __init__(self, function: Callable[[Item, Heartbeat], Result], timeout: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.timeout = timeout
        self.started = False
        self.deadline = math.inf  # the time to start is not charged to an item
        self.process = context.Process(target=_serve, args=(child_end, function), daemon=True)
        with _interrupt_blocked():
            self.process.start()
        child_end.close()

    def submit(self, item: Item) -> None:
        """Send an item to the process."""
        self.item = item
        with suppress(BrokenPipeError):  # died while idle: `receive` will notice
            self.connection.send(item)

    def receive(self) -> bool:
        """Read a message of the process; whether it is done with its item."""
        try:
            kind, payload = cast(tuple[_Kind, Any], self.connection.recv())
        except (EOFError, OSError) as error:
            how = self._cause_of_death()
            if not self.started:
                raise RuntimeError(f"a worker process cannot start: {how}") from error
            self.outcome = WorkerFailure("crashed", how)
            return True
        self.started = True
        self.deadline = time.monotonic() + self.timeout
        if kind == "raised":
            raise payload
        if kind == "result":
            self.deadline, self.outcome = math.inf, payload
        return kind == "result"

    def overdue(self) -> bool:
        """Whether the process has timed out; it is then done with its item."""
        if time.monotonic() < self.deadline or self.connection.poll():
            return False
        self.outcome = WorkerFailure("timeout", f"did not respond for {self.timeout:g} s")
        return True

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"the process exited with code {code}"
        return f"the process was killed by {signal.Signals(-code).name}"


def _wait_for_any(busy: dict[Connection, _Worker[Item, Result]]) -> list[_Worker[Item, Result]]:
    """Wait for a message or a deadline; the workers that are done with their item, if any."""
    soonest = min(worker.deadline for worker in busy.values())
    timeout = None if soonest == math.inf else max(0.0, soonest - time.monotonic())
    ready = set(wait(list(busy), timeout))
    return [w for c, w in busy.items() if (w.receive() if c in ready else w.overdue())]


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Block Ctrl-C while a process starts. The terminal sends it to every process; those started
    here leave it to the parent, and a half-started one would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first process also starts this one, which would unblock the signal again.
    resource_tracker.ensure_running()
    with _interrupt_deferred():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Raise Ctrl-C at the end of the block. The signal mask of a thread is not enough: another
    thread receives the signal, and Python handles it in the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if received:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, function: Callable[[Any, Heartbeat], Any]) -> None:
    """Main loop of a process: receive items, send heartbeats and results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    last_sent = -math.inf

    def heartbeat() -> None:
        nonlocal last_sent
        if time.monotonic() - last_sent > _HEARTBEAT_INTERVAL_S:
            last_sent = time.monotonic()
            connection.send(("heartbeat", None))

    with suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            item = connection.recv()
            last_sent = -math.inf
            heartbeat()
            try:
                reply: tuple[_Kind, Any] = ("result", function(item, heartbeat))
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = ("raised", error)
            connection.send(reply)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
