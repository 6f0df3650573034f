"""A command recorded on a pseudo-terminal: what is on the last line, and when."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from tests.forked import CONTEXT, become

_CODES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
_LIVE = re.compile(r"\d+:\d\d (left|so far)")
LONGEST = 120.0  # seconds


@dataclass
class Screen:
    """The lines of a terminal that is never full; the cursor stays on the last one."""

    lines: list[str] = field(default_factory=lambda: [""])
    column: int = 0
    cut_off: str = ""

    def feed(self, text: str) -> None:
        """Obey the control codes that vt writes; raises ValueError for others."""
        text, self.cut_off = self.cut_off + text, ""
        position = 0
        while position < len(text):
            if match := _CODES.match(text, position):
                self._obey(match[1], match[2])
                position = match.end()
                continue
            character = text[position]
            position += 1
            if character == "\n":
                self.lines.append("")
                self.column = 0
            elif character == "\r":
                self.column = 0
            elif character == "\x1b" and re.fullmatch(r"\[?[0-9;?]*", text[position:]):
                self.cut_off = text[position - 1 :]  # the rest of it is read next
                return
            elif character == "\x1b":
                raise ValueError(f"unknown control code {text[position : position + 8]!r}")
            else:
                line = self.lines[-1].ljust(self.column)
                self.lines[-1] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1

    def _obey(self, argument: str, code: str) -> None:
        if code == "K":
            self.lines[-1] = self.lines[-1][: self.column] if argument in ("", "0") else ""
        elif code != "m":
            raise ValueError(f"unknown control code {argument}{code}")


@dataclass(frozen=True)
class Recording:
    """A command that ended: its exit code, what remains on the screen, and the last line over time.

    `live` holds (seconds since the start, text of the last line), one entry per change; `first`
    are the seconds until something was shown.
    """

    code: int
    screen: tuple[str, ...]
    live: tuple[tuple[float, str], ...]
    seconds: float
    first: float

    @property
    def text(self) -> str:
        """All lines that remain."""
        return "\n".join(self.screen)

    @property
    def live_lines(self) -> list[str]:
        """What the live line showed, which ends with a time or has one before its details."""
        return [line for _, line in self.live if _LIVE.search(line)]

    def blank(self) -> float:
        """The fraction of time that the last line was empty, from its first text to its last."""
        shown = [number for number, (_, line) in enumerate(self.live) if line]
        if not shown:
            return 0.0
        part = self.live[shown[0] : shown[-1] + 2]
        spans = [(end - start, line) for (start, line), (end, _) in pairwise(part)]
        return sum(length for length, line in spans if not line) / sum(s for s, _ in spans)


def record(
    words: Sequence[str],
    width: int,
    folder: Path,
    variables: Mapping[str, str] = {},
    quick: bool = False,
) -> Recording:
    """Run `vt` with these words in `folder`, on a terminal of `width` columns.

    quick: a measurement of speed takes a tenth of a second.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    settings = {**os.environ, **variables, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        settings.pop(variable, None)
    name = os.ttyname(slave)
    begun, begin = CONTEXT.Pipe(duplex=False)
    arguments = (list(words), name, str(folder), settings, quick, begin)
    process = CONTEXT.Process(target=_child, args=arguments)
    process.start()
    start = begun.recv()
    screen, live, first = Screen(), [(0.0, "")], 0.0
    pending = b""
    # The terminal stays open here until the command has ended: it would be hung up otherwise.
    while select.select([master], [], [], 0.02)[0] or process.is_alive():
        if time.monotonic() - start > LONGEST:
            process.kill()
            raise TimeoutError(f"{words} did not end: {screen.lines[-5:]}")
        if not select.select([master], [], [], 0)[0]:
            continue
        pending += os.read(master, 65536)
        first = first or time.monotonic() - start
        with contextlib.suppress(UnicodeDecodeError):  # the rest of a character is to come
            text, pending = pending.decode(), b""
            screen.feed(text)
        if live[-1][1] != screen.lines[-1].rstrip():
            live.append((time.monotonic() - start, screen.lines[-1].rstrip()))
    process.join()
    os.close(slave)
    os.close(master)
    seconds = time.monotonic() - start
    return Recording(process.exitcode or 0, tuple(screen.lines), tuple(live), seconds, first)


def _child(
    words: list[str],
    terminal: str,
    folder: str,
    variables: Mapping[str, str],
    quick: bool,
    begin: Connection,
) -> None:
    """In the fork: stand on the terminal, report the time, and run the command."""
    os.setsid()
    become(words, [os.open(terminal, os.O_RDWR)] * 3, folder, variables)
    from vtcli.cli import run

    if quick:
        from vtcli.profiling import benchmark

        benchmark.RUN_SECONDS, benchmark.MATMUL_SIZE = 0.1, 256
    begin.send(time.monotonic())
    code = run(words)
    sys.stdout.flush()
    sys.exit(code)
