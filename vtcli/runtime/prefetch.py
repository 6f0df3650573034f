"""Prefetching: threads compute the next results while the caller works on the current one.

Decoding and resizing release the interpreter's lock, so threads share the cores.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result],
    groups: Iterable[Sequence[Item]],
    workers: int,
    ahead: int | Callable[[], int],
) -> Generator[tuple[Sequence[Item], list[Result]], None, None]:
    """Each group of items with the results of `function` for its items, in order.

    `workers` threads, at least one, begin at once. Groups are submitted until `ahead` items, and at
    least two groups, are in progress or ready, the group that the caller has included: memory is
    bounded, and the next group is computed while the caller works on one, however large they are.
    `ahead` may be a function, where the number is only known later.

    An exception of `function` is raised in place of its group and ends the iteration. Closing the
    generator (`contextlib.closing`) cancels what has not begun and waits for what has: no thread
    outlives it.
    """
    return begun(_prefetch(function, groups, workers, ahead))


def begun(results: Generator[Result | None, None, None]) -> Generator[Result, None, None]:
    """A generator run to its first `yield`, which gives None.

    The body of a generator only starts with the first `next`: closed before that, it would leave
    open what was opened for it.
    """
    next(results)
    return cast("Generator[Result, None, None]", results)


def _prefetch(
    function: Callable[[Item], Result],
    groups: Iterable[Sequence[Item]],
    workers: int,
    ahead: int | Callable[[], int],
) -> Generator[tuple[Sequence[Item], list[Result]] | None, None, None]:
    coming = iter(groups)
    pending: deque[tuple[Sequence[Item], list[Future[Result]]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="prefetch")

    def submit() -> None:
        enough = ahead() if callable(ahead) else ahead
        while len(pending) < 2 or sum(len(futures) for _, futures in pending) < enough:
            group = next(coming, None)
            if group is None:
                return
            pending.append((group, [pool.submit(function, item) for item in group]))

    try:
        submit()
        yield None
        while pending:
            group, futures = pending.popleft()
            results = [future.result() for future in futures]
            futures.clear()  # only the caller decides how long the results stay in memory
            yield group, results
            submit()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch_unordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: Callable[[], int],
    patience: Callable[[], float],
) -> Generator[tuple[Item, Result] | None, None, None]:
    """Each item with the result of `function`, as they are computed, and None whenever none was for
    `patience()` seconds.

    At most `ahead()` items, and at least two, are in progress or ready. Otherwise as `prefetch`.
    """
    return begun(_prefetch_unordered(function, items, workers, ahead, patience))


def _prefetch_unordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: Callable[[], int],
    patience: Callable[[], float],
) -> Generator[tuple[Item, Result] | None, None, None]:
    coming = iter(items)
    pending: dict[Future[Result], Item] = {}
    finished: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="prefetch")

    def submit() -> None:
        while len(pending) < max(2, ahead()):
            item = next(coming, None)
            if item is None:
                return
            future = pool.submit(function, item)
            pending[future] = item
            future.add_done_callback(finished.put)

    try:
        submit()
        yield None
        while pending:
            try:
                future = finished.get(timeout=patience())
            except queue.Empty:
                yield None
                future = finished.get()
            yield pending.pop(future), future.result()
            submit()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
