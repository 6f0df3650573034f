"""One worker process: the call it works on, what it sends, and how it ends.

`worker_pool.py` hands out the calls; `worker_process.py` is what runs in the process.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener, Pipe
from typing import Any, Literal, TypeAlias

from vtcli.runtime.channel import Channel
from vtcli.runtime.worker_process import MORE, PARTS_AHEAD

Reason: TypeAlias = Literal["timeout", "crashed", "limit"]

# The path of modules comes first, so that the package is found as this process finds it.
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from vtcli.runtime.worker_process import {0}; {0}(sys.argv[2], json.loads(sys.argv[3]))"
)
INHERITS_SOCKETS = os.name == "posix"
"""Whether a process takes a socket over; elsewhere it connects to a local address."""


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
class Call:
    """What a process is asked to do; `parts` receives what a generator function yields."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    timeout: float
    future: Future[Any] = field(default_factory=Future)
    parts: queue.SimpleQueue[Any] | None = None


END = object()
"""Follows the last part of a stream."""


class Worker:
    """A process, the call it works on, and how long it may still be silent."""

    call: Call

    def __init__(
        self, memory_bytes: int | None, descriptors: Sequence[int] = (), preload: str = ""
    ) -> None:
        self.alive, self.started = True, False
        self.deadline = math.inf  # starting takes as long as it takes; no call is to blame
        self.ahead = 0
        options = json.dumps({"memory_bytes": memory_bytes, "preload": preload})
        with _interrupt_postponed():
            self.connection, self.process = (
                _inherited(options, descriptors) if INHERITS_SOCKETS else _connected(options)
            )
        self.channel = Channel(self.connection)

    def give(self, call: Call) -> None:
        """Let the process begin with a call."""
        self.call, self.ahead = call, 0
        self.deadline = time.monotonic() + call.timeout if self.started else math.inf
        try:
            self.channel.send((call.function, call.args, call.parts is not None))
        except BrokenPipeError:  # died while it had nothing to do: `hear` will notice
            pass
        except Exception as error:  # arguments that cannot be pickled
            self._finish(error)
            self.alive = False

    def hear(self) -> bool:
        """Take what the process has sent; whether it is done with its call."""
        try:
            kind, value = self.channel.receive()
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
            self.call.parts.put(END)

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


def _inherited(
    options: str, descriptors: Sequence[int]
) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A process that has the other end of the connection from its start."""
    connection, theirs = Pipe()
    number = theirs.fileno()
    process = _start("serve", str(number), options, pass_fds=[number, *descriptors])
    theirs.close()
    return connection, process


def _connected(options: str) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A process that connects to this one, with a key that it reads from its standard input."""
    key = os.urandom(32)
    with Listener(authkey=key) as listener:
        process = _start("connect_and_serve", str(listener.address), options)
        assert process.stdin is not None
        process.stdin.write(key.hex().encode() + b"\n")
        process.stdin.flush()
        return listener.accept(), process


def _start(entry: str, address: str, options: str, **how: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT.format(entry), json.dumps(sys.path), address, options],
        stdin=subprocess.PIPE,  # closes with this process: the other one notices
        stdout=subprocess.DEVNULL,
        **how,
    )


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
