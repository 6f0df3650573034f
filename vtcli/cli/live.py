"""The one live line of this process, at the bottom of the terminal that standard error is.

Work in progress is a `Task`; the line shows the one that began last. What is printed meanwhile goes
above the line, whether to standard output or to standard error. Without a terminal nothing is
shown and the streams stay as they are.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

REDRAW_SECONDS = 0.1
MOST_BAR, LEAST_BAR, LEAST_NAME = 20, 5, 12  # characters
ERASE = "\r\x1b[2K"
GREEN, GRAY, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass
class Task:
    """Something that takes time: its name, and the steps done of all (None: not known).

    `unit` names the steps, `bytes` are shown as megabytes. `details` are left out where the line is
    too narrow, the last one first. `seconds_left` is an estimate that is better than the mean rate
    since the first step. The task is shown after `delay` seconds.
    """

    name: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    details: tuple[str, ...] = ()
    seconds_left: float | None = None
    began: float = field(default_factory=time.monotonic)
    skipped: int | None = None
    delay: float = 0.0

    def update(self, name: str, done: int, total: int | None) -> None:
        """The progress of this item, or of the next one where the name is another."""
        is_first = self.skipped is None
        if is_first or done < self.done:
            self.began, self.skipped = time.monotonic(), done
        self.name, self.done, self.total = name, done, total
        LINE.redraw(at_once=is_first)

    def say(self, name: str) -> None:
        """Begin something whose steps are not counted."""
        self.name, self.done, self.total, self.skipped = name, 0, None, None
        self.details, self.seconds_left, self.began = (), None, time.monotonic()
        LINE.redraw()

    @property
    def count(self) -> str:
        """The steps done of all, such as "3/12 videos"."""
        if self.unit == "bytes":
            done, total = f"{self.done / 1e6:.1f}", f"{(self.total or 0) / 1e6:.1f}"
            return f"{done}/{total} MB" if self.total else f"{done} MB" if self.done else ""
        return f"{self.done}/{self.total} {self.unit}".rstrip() if self.total else ""

    @property
    def timing(self) -> str:
        """The time left where it can be told, else the time since the task began."""
        passed = time.monotonic() - self.began
        left, steps = self.seconds_left, self.done - (self.skipped or 0)
        if left is None and self.total and steps > 0:
            left = passed / steps * (self.total - self.done)
        return f"{clock(passed)} so far" if left is None else f"{clock(left)} left"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def fit(task: Task, width: int, color: bool = True, utf8: bool = True) -> str:
    """A task in at most `width` characters: counts and time are whole, the name may be cut."""
    from rich.cells import cell_len, set_cell_size

    name = _CONTROL.sub("?", task.name)
    between = " · " if utf8 else " - "
    tail = between.join(filter(None, (task.count, task.timing)))
    with_bar = bool(task.total)
    reserved = min(cell_len(name), 2 * LEAST_NAME) + (2 * LEAST_BAR + 2 if with_bar else 1)
    for detail in task.details:
        if len(tail) + 3 + len(detail) + reserved > width:
            break
        tail += between + detail
    room = width - len(tail) - 1
    bar_size = 0
    if with_bar:
        kept = min(cell_len(name), LEAST_NAME)
        bar_size = min(MOST_BAR, max(room - cell_len(name) - 1, min(room - kept - 1, LEAST_BAR)))
        bar_size = bar_size if bar_size >= LEAST_BAR else 0
        room -= bar_size + 1 if bar_size else 0
    shown = set_cell_size(name, max(0, min(cell_len(name), room)))
    parts = [shown, _bar(task, bar_size, color, "━" if utf8 else "#") if bar_size else "", tail]
    return " ".join(filter(None, parts))


def _bar(task: Task, size: int, color: bool, glyph: str) -> str:
    full = min(size, round(size * task.done / max(1, task.total or 0)))
    if not color:
        return glyph * full + "." * (size - full)
    return f"{GREEN}{glyph * full}{GRAY}{glyph * (size - full)}{PLAIN}"


class LiveLine:
    """The line; there is one, `LINE`."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._lock = threading.RLock()
        self._stream: Any = None  # standard error, while something is shown there
        self._replaced: dict[str, tuple[Any, Any]] = {}
        self._drawn = 0.0
        self._shown = ""
        self._mid_line = False  # whether what was printed last does not end with a line break
        self._end = threading.Event()

    def add(self, task: Task) -> None:
        """Show a task until it is removed, or until another one is added."""
        with self._lock:
            self._tasks.append(task)
            if self._stream is None and _wanted():
                self._start()
            self._draw()

    def remove(self, task: Task) -> None:
        """Show the task that began before it, if there is one."""
        with self._lock:
            self._draw()
            self._tasks = [other for other in self._tasks if other is not task]
            if self._tasks:
                self._erase()
                self._draw()
            elif self._stream is not None:
                self._stop()

    def redraw(self, at_once: bool = False) -> None:
        """Draw the line, unless it was drawn just now and that is not asked for `at_once`."""
        if at_once or time.monotonic() - self._drawn >= REDRAW_SECONDS / 2:
            with self._lock:
                self._draw()

    def print_above(self, stream: Any, text: str) -> None:
        """Write text to a stream of the same terminal."""
        with self._lock:
            if self._stream is None or not text:
                stream.write(text)
                return
            self._erase()
            stream.write(text)
            self._mid_line = not text.endswith("\n")
            if not self._mid_line:
                stream.flush()
                self._draw()

    def _start(self) -> None:
        self._stream, self._mid_line, self._end = sys.stderr, False, threading.Event()
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                self._replaced[name] = stream, _Above(stream, self)
                setattr(sys, name, self._replaced[name][1])
        threading.Thread(target=self._keep_drawing, args=(self._end,), daemon=True).start()

    def _stop(self) -> None:
        self._end.set()
        self._erase()
        self._stream = None
        for name, (stream, above) in self._replaced.items():
            if getattr(sys, name) is above:
                setattr(sys, name, stream)
        self._replaced.clear()

    def _erase(self) -> None:
        if self._stream is not None and self._shown and not self._mid_line:
            self._stream.write(ERASE)
            self._stream.flush()
            self._shown = ""

    def _keep_drawing(self, end: threading.Event) -> None:
        while not end.wait(REDRAW_SECONDS):
            self.redraw()

    def _draw(self) -> None:
        if self._stream is None or not self._tasks or self._mid_line:
            return
        self._drawn = time.monotonic()
        if self._drawn - (task := self._tasks[-1]).began < task.delay:
            return
        utf8 = "utf" in (getattr(self._stream, "encoding", None) or "utf-8").lower()
        color = "NO_COLOR" not in os.environ
        text = fit(task, _width(self._stream) - 1, color, utf8)
        if text != self._shown:
            self._shown = text
            self._stream.write(ERASE + text)
            self._stream.flush()


class _Above:
    """A terminal's stream while the line is shown: what is written goes above the line."""

    def __init__(self, stream: Any, line: LiveLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        """Write text above the line; returns its length."""
        self._line.print_above(self._stream, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each text."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _wanted() -> bool:
    """Whether this process shows the line: on a terminal, and of those of torchrun the first."""
    first = os.environ.get("RANK", "0") == "0"
    return first and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _width(stream: Any) -> int:
    """Characters in a line of the terminal."""
    if (stated := os.environ.get("COLUMNS", "")).isdigit() and int(stated):
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


LINE = LiveLine()
