"""`vt` in a process of its own, forked from a server that has imported PyTorch once.

It has its own exit code, signals, standard streams, environment and working directory, as one that
is started has, without the seconds that imports take.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PRELOADED = ["torch", "timm.data", "timm.optim", "av", "rich.console", "vtcli.cli.live"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def become(
    words: Sequence[str], streams: Sequence[int], folder: str, variables: Mapping[str, str]
) -> None:
    """In a fork: be a process that `vt WORDS` was just typed in, with these standard streams."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    places = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in places if place and place not in sys.path]
    # The Hub's client read other variables when the server imported it.
    for module in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        del sys.modules[module]
    sys.argv = ["vt", *words]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)


def _run(
    words: Sequence[str],
    streams: Sequence[Connection],
    folder: str,
    variables: Mapping[str, str],
    module: str,
    begin: Connection,
) -> None:
    os.setsid()
    become(words, [stream.fileno() for stream in streams], folder, variables)
    for stream in streams:
        stream.close()
    import torch

    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", "1")))
    begin.send(time.monotonic())
    begin.close()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()


class Forked:
    """`vt WORDS`, or another module with these words, that runs: what tests use of
    `subprocess.Popen`, with pipes of text. The process leads a session of its own.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        variables: Mapping[str, str],
        folder: str | Path = ".",
        module: str = "vtcli",
    ) -> None:
        stdin, self._stdin = CONTEXT.Pipe(duplex=False)
        out, stdout = CONTEXT.Pipe(duplex=False)
        err, stderr = CONTEXT.Pipe(duplex=False)
        begun, begin = CONTEXT.Pipe(duplex=False)
        streams = (stdin, stdout, stderr)
        own = ([str(word) for word in words], streams, os.path.abspath(folder), dict(variables))
        self._process = CONTEXT.Process(target=_run, args=(*own, module, begin))
        self._process.start()
        for end in (*streams, begin):
            end.close()
        begun.recv()
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(os.dup(end.fileno()), mode, encoding="utf-8")
            for end, mode in ((self._stdin, "w"), (out, "r"), (err, "r"))
        )
        for end in (self._stdin, out, err, begun):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        self._process.join()
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):
                stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("vt", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what was written to standard output and standard error."""
        with suppress(BrokenPipeError):
            self.stdin.close()
        texts = {1: "", 2: ""}

        def read(number: int, stream: IO[str]) -> None:
            texts[number] = stream.read()

        pairs = ((1, self.stdout), (2, self.stderr))
        readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in pairs]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[1], texts[2]


def run_forked(
    words: Sequence[str | Path],
    variables: Mapping[str, str],
    folder: str | Path = ".",
    module: str = "vtcli",
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run `vt WORDS` until it ends."""
    with Forked(words, variables, folder, module) as process:
        out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.returncode or 0, out, err)


def run_group(
    count: int,
    words: Sequence[str | Path],
    variables: Mapping[str, str],
    folder: str | Path = ".",
    module: str = "vtcli",
    timeout: float = 120,
) -> list[subprocess.CompletedProcess[str]]:
    """Run `count` processes that are one group, as torchrun would start them, until all end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def run(rank: int) -> subprocess.CompletedProcess[str]:
        own = {**variables, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run_forked(words, own, folder, module, timeout)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
