"""Work spread over processes that may hang or die: an item is lost then, and the rest goes on.

Native decoders can loop for ever or crash on a damaged file, and no thread can be stopped from
outside; a process can. Each has a pipe of its own, so that its death is noticed at once and takes
nothing else along, and each ends with its parent, however that ended.
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
"""What a long job calls now and then to say that it is getting on."""

_SECONDS_BETWEEN_BEATS = 0.1
_Kind = Literal["heartbeat", "result", "raised"]


@dataclass(frozen=True)
class WorkerFailure:
    """An item whose process hung (`timeout`) or died (`crashed`); `detail` says how, in words."""

    reason: Literal["timeout", "crashed"]
    detail: str


def imap_with_timeout(
    function: Callable[[Item, Heartbeat], Result],
    items: Iterable[Item],
    workers: int,
    timeout: float = math.inf,
) -> Generator[tuple[Item, Result | WorkerFailure], None, None]:
    """Each item with what `function(item, heartbeat)` made of it, in the order they are finished.

    Runs in `workers` fresh processes. `function` can be imported by its name; items and results
    can be pickled. A call that neither ends nor calls `heartbeat` for `timeout` seconds is killed. Items
    are taken as processes become free. What `function` raises is raised here. No process outlives
    the iteration: close it (`contextlib.closing`) where it may be left early.
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
                worker.give(item)
            if not busy:
                return
            for worker in _finished(busy):
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
    """A process, the item it works on, and what became of that."""

    item: Item
    outcome: Result | WorkerFailure

    def __init__(self, function: Callable[[Item, Heartbeat], Result], timeout: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.timeout = timeout
        self.started = False
        self.deadline = math.inf  # starting takes as long as it takes; no item is to blame
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _no_interrupt():
            self.process.start()
        theirs.close()

    def give(self, item: Item) -> None:
        """Let the process begin with an item."""
        self.item = item
        with suppress(BrokenPipeError):  # died while it had nothing to do: `hear` will notice
            self.connection.send(item)

    def hear(self) -> bool:
        """Take what the process has said; whether it is done with its item."""
        try:
            kind, said = cast(tuple[_Kind, Any], self.connection.recv())
        except (EOFError, OSError) as error:
            how = self._how_it_died()
            if not self.started:
                raise RuntimeError(f"a worker process cannot start: {how}") from error
            self.outcome = WorkerFailure("crashed", how)
            return True
        self.started = True
        self.deadline = time.monotonic() + self.timeout
        if kind == "raised":
            raise said
        if kind == "result":
            self.deadline, self.outcome = math.inf, said
        return kind == "result"

    def overdue(self) -> bool:
        """Whether the process has been silent for too long; then it is done with its item."""
        if time.monotonic() < self.deadline or self.connection.poll():
            return False
        self.outcome = WorkerFailure("timeout", f"gave no sign of life for {self.timeout:g} s")
        return True

    def kill(self) -> None:
        """End the process at once, and wait until it is gone."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _how_it_died(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"the process left with exit code {code}"
        return f"the process was ended by {signal.Signals(-code).name}"


def _finished(busy: dict[Connection, _Worker[Item, Result]]) -> list[_Worker[Item, Result]]:
    """Wait until something happens; the workers that are done with their item, if any."""
    soonest = min(worker.deadline for worker in busy.values())
    left = None if soonest == math.inf else max(0.0, soonest - time.monotonic())
    spoke = set(wait(list(busy), left))
    return [w for c, w in busy.items() if (w.hear() if c in spoke else w.overdue())]


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; those started here leave it to the parent, and
    the parent finishes starting them first: half started they would complain.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the first process starts this one too, which would unblock the signal again.
    resource_tracker.ensure_running()
    with _interrupt_postponed():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupt_postponed() -> Iterator[None]:
    """A thread's mask is not enough: another thread takes the signal, and Python hands it to the
    main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, function: Callable[[Any, Heartbeat], Any]) -> None:
    """What a process does: take items one by one, say `heartbeat` while at work, answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    said = -math.inf

    def heartbeat() -> None:
        nonlocal said
        if time.monotonic() - said > _SECONDS_BETWEEN_BEATS:
            said = time.monotonic()
            connection.send(("heartbeat", None))

    with suppress(EOFError, BrokenPipeError):  # the parent has gone
        while True:
            item = connection.recv()
            said = -math.inf
            heartbeat()
            try:
                reply: tuple[_Kind, Any] = ("result", function(item, heartbeat))
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = ("raised", error)
            connection.send(reply)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
