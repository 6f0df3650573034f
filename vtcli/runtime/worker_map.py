"""A function of many items in worker processes: an item that hangs or crashes is lost alone."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias, TypeVar

from vtcli.runtime.worker_pool import WorkerFailedError, WorkerFailure, WorkerPool

Item = TypeVar("Item")
Result = TypeVar("Result")

Heartbeat: TypeAlias = Callable[[], None]
"""What a long call invokes now and then to show that it makes progress."""


def imap_with_timeout(
    function: Callable[[Item, Heartbeat], Result],
    items: Iterable[Item],
    workers: int,
    timeout: float = math.inf,
) -> Generator[tuple[Item, Result | WorkerFailure], None, None]:
    """Each item with what `function(item, heartbeat)` made of it, in the order they finish.

    Items are taken as processes become free. A call that neither ends nor calls `heartbeat` for
    `timeout` seconds is killed. What `function` raises is raised here. No process outlives the
    iteration: close it (`contextlib.closing`) where it may be left early.
    """
    rest = iter(items)
    with WorkerPool(workers, timeout) as pool:
        finished: queue.SimpleQueue[tuple[Item, Future[Result]]] = queue.SimpleQueue()
        running = 0

        def begin() -> bool:
            for item in rest:
                future = pool.submit(_with_heartbeat, function, item)
                future.add_done_callback(partial(_report, finished, item))
                return True
            return False

        while running < workers and begin():
            running += 1
        while running:
            item, future = finished.get()
            running -= 1
            try:
                outcome: Result | WorkerFailure = future.result()
            except WorkerFailedError as error:
                outcome = error.failure
            yield item, outcome
            while running < workers and begin():
                running += 1


def _report(finished: queue.SimpleQueue[Any], item: Any, future: Future[Any]) -> None:
    finished.put((item, future))


def _with_heartbeat(function: Callable[[Any, Heartbeat], Any], item: Any) -> Any:
    from vtcli.runtime.worker_process import heartbeat

    return function(item, heartbeat)
