"""Calls in processes that may hang, crash or run out of memory: such a call is lost, the rest goes
on.

Native decoders can loop forever or crash on a damaged file, and no thread can be stopped from
outside; a process can. Each worker is a fresh interpreter with a socket of its own, so that its
death is noticed at once; it is replaced when there is work for it. Large arrays travel through
anonymous shared memory (Linux) or through the socket, and workers end with their parent, however
that ended.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeAlias, TypeVar

from vtcli.runtime.worker import END, Call, Worker, WorkerFailedError, WorkerFailure

__all__ = ["Heartbeat", "WorkerFailedError", "WorkerFailure", "WorkerPool", "imap_with_timeout"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Heartbeat: TypeAlias = Callable[[], None]
"""What a long call invokes now and then to show that it makes progress."""


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def close_all_pools() -> None:
    """Begin to kill the processes of all pools, from a signal handler: whoever waits for a call
    receives `CancelledError` instead of waiting for a decoder that may hang.
    """
    for pool in list(_pools):
        # In a thread: the one that is interrupted may hold the lock of a pool.
        threading.Thread(target=pool.close, daemon=True).start()


class WorkerPool:
    """At most `workers` processes that run functions for any thread of this one.

    `timeout` is how many seconds a call may take without a sign of life (a heartbeat, a part of a
    stream, the result); `memory_bytes` bounds the address space of a process (POSIX only), beyond
    which a call is lost as `limit`. Processes start with the first calls, or at once with
    `start()`; `close()` kills them, and calls that are under way are cancelled. They inherit the
    file `descriptors` (POSIX only), and import the module `preload` before their first call.
    """

    def __init__(
        self,
        workers: int,
        timeout: float = math.inf,
        memory_bytes: int | None = None,
        descriptors: Sequence[int] = (),
        preload: str = "",
    ) -> None:
        self.workers, self.timeout, self.memory_bytes = workers, timeout, memory_bytes
        self.descriptors, self.preload = tuple(descriptors), preload
        self._calls: deque[Call] = deque()
        self._busy: dict[Connection, Worker] = {}
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = Pipe(duplex=False)
        self._closed = False
        self._thread: threading.Thread | None = None
        _pools.add(self)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all processes now, so that the first calls do not wait for them."""
        self._ensure_thread()
        self._wake(b"start")

    def submit(
        self, function: Callable[..., Result], *args: Any, timeout: float | None = None
    ) -> Future[Result]:
        """The result of `function(*args)` in a process: importable by name, picklable arguments.

        The future raises `WorkerFailedError` for a call that was lost, and what the function
        raised.
        """
        call = Call(function, args, self.timeout if timeout is None else timeout)
        self._enqueue(call)
        return call.future

    def stream(
        self, function: Callable[..., Iterator[Result]], *args: Any, timeout: float | None = None
    ) -> Generator[Result, None, None]:
        """What the generator function yields in a process, a few parts ahead of the consumer.

        Raises as `submit`'s future does. Closing the iteration early ends the process.
        """
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = Call(function, args, self.timeout if timeout is None else timeout, parts=parts)
        self._enqueue(call)
        return self._parts(call, parts)

    def close(self) -> None:
        """Kill all processes; calls that are not done are cancelled. May be called twice."""
        with self._lock:
            self._closed = True
        thread = self._thread
        if thread is not None:
            self._wake(b"stop")
            thread.join()
            self._thread = None

    # --- other threads --------------------------------------------------------------------------

    def _enqueue(self, call: Call) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the worker pool is closed")
            self._calls.append(call)
        self._ensure_thread()
        self._wake(b"call")

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._manage, name="workers", daemon=True)
                self._thread.start()

    def _wake(self, word: bytes) -> None:
        with self._lock, suppress(OSError):
            self._wake_write.send_bytes(word)

    def _parts(self, call: Call, parts: queue.SimpleQueue[Any]) -> Generator[Any, None, None]:
        try:
            while (part := parts.get()) is not END:
                self._wake(b"more " + str(id(call)).encode())
                yield part
            call.future.result()
        finally:
            if not call.future.done():
                call.future.cancel()
                self._wake(b"drop " + str(id(call)).encode())

    # --- the managing thread --------------------------------------------------------------------

    def _manage(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Inherited by the processes: Ctrl-C reaches all of a terminal's, SIGTERM often all of a
            # service's, and both are the parent's to obey.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            while self._step():
                pass
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            for worker in (*self._busy.values(), *self._idle):
                worker.kill()
            self._fail_all(None)

    def _step(self) -> bool:
        """Wait until something happens and handle it; False when the pool is to close."""
        soonest = min((worker.deadline for worker in self._busy.values()), default=math.inf)
        left = None if soonest == math.inf else max(0.0, soonest - time.monotonic())
        spoke = set(wait([self._wake_read, *self._busy], left))
        if self._wake_read in spoke and not self._obey(self._wake_read.recv_bytes()):
            return False
        for connection, worker in list(self._busy.items()):
            if worker.hear() if connection in spoke else worker.overdue():
                self._release(connection, worker)
        self._hand_out()
        return True

    def _obey(self, word: bytes) -> bool:
        command, _, number = word.partition(b" ")
        if command == b"stop":
            return False
        if command == b"start":
            while len(self._busy) + len(self._idle) < self.workers:
                self._idle.append(self._new_worker())
        if number:
            worker = next((w for w in self._busy.values() if id(w.call) == int(number)), None)
            if worker is not None and command == b"more":
                worker.more()
            elif worker is not None:
                worker.kill()
                del self._busy[worker.connection]
        return True

    def _new_worker(self) -> Worker:
        return Worker(self.memory_bytes, self.descriptors, self.preload)

    def _release(self, connection: Connection, worker: Worker) -> None:
        del self._busy[connection]
        if worker.alive:
            self._idle.append(worker)
        else:
            worker.kill()

    def _hand_out(self) -> None:
        while len(self._busy) < self.workers:
            with self._lock:
                call = self._calls.popleft() if self._calls else None
            if call is None:
                return
            if not call.future.set_running_or_notify_cancel():
                continue
            worker = self._idle.pop() if self._idle else self._new_worker()
            self._busy[worker.connection] = worker
            worker.give(call)

    def _fail_all(self, error: BaseException | None) -> None:
        """End what is waiting or under way when the pool ends."""
        with self._lock:
            calls = [*self._calls, *(w.call for w in self._busy.values())]
            self._calls.clear()
            self._busy.clear()
            self._closed = True
        for call in calls:
            if not call.future.cancel() and not call.future.done():
                call.future.set_exception(error or CancelledError())
            if call.parts is not None:
                call.parts.put(END)


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
