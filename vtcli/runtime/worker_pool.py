"""Calls in processes that may hang, crash or run out of memory: such a call is lost, the rest goes
on.

Native decoders can loop forever or crash on a damaged file, and no thread can be stopped from
outside; a process can. Each worker is a fresh interpreter with a socket of its own, so that its
death is noticed at once; it is replaced when there is work for it. Large arrays travel through
anonymous shared memory (Linux) or through the socket, and workers end with their parent, however
that ended.
"""

from __future__ import annotations

import json
import math
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Literal, TypeAlias, TypeVar

from vtcli.runtime.worker_process import MORE, PARTS_AHEAD, receive, send

Result = TypeVar("Result")

Reason: TypeAlias = Literal["timeout", "crashed", "limit"]

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from vtcli.runtime.worker_process import serve; "
    "serve(int(sys.argv[1]), json.loads(sys.argv[3]))"
)


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def close_all_pools() -> None:
    """Begin to kill the processes of all pools, from a signal handler: whoever waits for a call
    receives `CancelledError` instead of waiting for a decoder that may hang.
    """
    for pool in list(_pools):
        # In a thread: the one that is interrupted may hold the lock of a pool.
        threading.Thread(target=pool.close, daemon=True).start()


@dataclass(frozen=True)
class WorkerFailure:
    """A call whose process hung (`timeout`), died (`crashed`) or ran out of memory (`limit`)."""

    reason: Reason
    detail: str


class WorkerFailedError(Exception):
    """Raised by the future of a call that was lost; `failure` says how."""

    def __init__(self, failure: WorkerFailure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass
class _Call:
    """What a process is asked to do; `parts` receives what a generator function yields."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    timeout: float
    future: Future[Any] = field(default_factory=Future)
    parts: queue.SimpleQueue[Any] | None = None


class WorkerPool:
    """At most `workers` processes that run functions for any thread of this one.

    `timeout` is how many seconds a call may take without a sign of life (a heartbeat, a part of a
    stream, the result); `memory_bytes` bounds the address space of a process (POSIX only), beyond
    which a call is lost as `limit`. Processes start with the first calls, or at once with
    `start()`; `close()` kills them, and calls that are under way are cancelled.
    """

    def __init__(
        self, workers: int, timeout: float = math.inf, memory_bytes: int | None = None
    ) -> None:
        self.workers, self.timeout, self.memory_bytes = workers, timeout, memory_bytes
        self._calls: deque[_Call] = deque()
        self._busy: dict[Connection, _Worker] = {}
        self._idle: list[_Worker] = []
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
        call = _Call(function, args, self.timeout if timeout is None else timeout)
        self._enqueue(call)
        return call.future

    def stream(
        self, function: Callable[..., Iterator[Result]], *args: Any, timeout: float | None = None
    ) -> Generator[Result, None, None]:
        """What the generator function yields in a process, a few parts ahead of the consumer.

        Raises as `submit`'s future does. Closing the iteration early ends the process.
        """
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = _Call(function, args, self.timeout if timeout is None else timeout, parts=parts)
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

    def _enqueue(self, call: _Call) -> None:
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

    def _parts(self, call: _Call, parts: queue.SimpleQueue[Any]) -> Generator[Any, None, None]:
        try:
            while (part := parts.get()) is not _END:
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
            # Inherited by the processes: Ctrl-C reaches all of a terminal's, and is the parent's.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
                self._idle.append(_Worker(self.memory_bytes))
        if number:
            worker = next((w for w in self._busy.values() if id(w.call) == int(number)), None)
            if worker is not None and command == b"more":
                worker.more()
            elif worker is not None:
                worker.kill()
                del self._busy[worker.connection]
        return True

    def _release(self, connection: Connection, worker: _Worker) -> None:
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
            worker = self._idle.pop() if self._idle else _Worker(self.memory_bytes)
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
                call.parts.put(_END)


_END = object()


class _Worker:
    """A process, the call it works on, and how long it may still be silent."""

    call: _Call

    def __init__(self, memory_bytes: int | None) -> None:
        self.connection, theirs = Pipe()
        self.alive, self.started = True, False
        self.deadline = math.inf  # starting takes as long as it takes; no call is to blame
        self.ahead = 0
        limits = {"memory_bytes": memory_bytes}
        arguments = [str(theirs.fileno()), json.dumps(sys.path), json.dumps(limits)]
        with _interrupt_postponed():
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                stdin=subprocess.PIPE,  # closes with this process: the other one notices
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()

    def give(self, call: _Call) -> None:
        """Let the process begin with a call."""
        self.call, self.ahead = call, 0
        self.deadline = time.monotonic() + call.timeout if self.started else math.inf
        try:
            send(self.connection, (call.function, call.args, call.parts is not None))
        except BrokenPipeError:  # died while it had nothing to do: `hear` will notice
            pass
        except Exception as error:  # arguments that cannot be pickled
            self._finish(error)
            self.alive = False

    def hear(self) -> bool:
        """Take what the process has sent; whether it is done with its call."""
        try:
            kind, value = receive(self.connection)
        except (EOFError, OSError):
            self._died()
            return True
        self.started = True
        self.deadline = time.monotonic() + self.call.timeout
        if kind == "part" and self.call.parts is not None:
            self.ahead += 1
            if self.ahead >= PARTS_AHEAD:
                self.deadline = math.inf  # it waits for the consumer
            self.call.parts.put(value)
        elif kind == "result":
            self._finish(value=value)
        elif kind == "raised":
            self._finish(value)
        elif kind == "memory":
            self.alive = False
            self._finish(WorkerFailedError(WorkerFailure("limit", value)))
        return kind in ("result", "raised", "memory")

    def more(self) -> None:
        """The consumer has taken a part: the process may make another."""
        self.ahead -= 1
        self.deadline = time.monotonic() + self.call.timeout
        with suppress(BrokenPipeError):
            self.connection.send_bytes(MORE)

    def overdue(self) -> bool:
        """Whether the process has been silent for too long; then it is done with its call."""
        if time.monotonic() < self.deadline or self.connection.poll():
            return False
        self.alive = False
        detail = f"did not respond for {self.call.timeout:g} s"
        self._finish(WorkerFailedError(WorkerFailure("timeout", detail)))
        return True

    def kill(self) -> None:
        """End the process at once, and wait until it is gone."""
        self.alive = False
        self.process.kill()
        self.process.wait()
        self.connection.close()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _finish(self, error: BaseException | None = None, value: Any = None) -> None:
        self.deadline = math.inf
        if self.call.future.done():  # its consumer has gone
            return
        if error is not None:
            self.call.future.set_exception(error)
        else:
            self.call.future.set_result(value)
        if self.call.parts is not None:
            self.call.parts.put(_END)

    def _died(self) -> None:
        self.alive = False
        code = self.process.wait()
        how = (
            f"the process exited with code {code}"
            if code >= 0
            else f"the process was killed by {signal.Signals(-code).name}"
        )
        if self.started:
            self._finish(WorkerFailedError(WorkerFailure("crashed", how)))
        else:
            self._finish(RuntimeError(f"a worker process cannot start: {how}"))


@contextmanager
def _interrupt_postponed() -> Iterator[None]:
    """Ctrl-C waits until a process has been started: half started it would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
