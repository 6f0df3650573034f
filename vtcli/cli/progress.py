"""Progress on standard error, only where somebody watches and the work is long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vtcli.runtime.progress import ProgressCallback

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn


@contextmanager
def fetch_progress() -> Iterator[ProgressCallback]:
    """A callback for on_download and converting weights: shows a bar per file on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    name_column = TextColumn("{task.description}", markup=False)
    columns = (name_column, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with _bars(*columns, shown=sys.stderr.isatty()) as bars:
        tasks: dict[str, int] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield report


@contextmanager
def file_progress(total: int, to_file: bool = False) -> Iterator[ProgressCallback]:
    """A callback per finished file: shows one bar on a terminal when there are several files.

    Answers that appear on the same terminal are progress enough and would share the bar's line, so
    it shows only where they go elsewhere: standard output is redirected, or they are written
    `to_file`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    name_column = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), name_column)
    elsewhere = to_file or not sys.stdout.isatty()
    with _bars(*columns, shown=sys.stderr.isatty() and elsewhere and total > 1) as bars:
        task = bars.add_task("", total=total)

        def report(name: str, done: int, _: int | None) -> None:
            bars.update(task, completed=done, description=name)

        yield report


def _bars(*columns: ProgressColumn, shown: bool) -> Bars:
    from rich.console import Console
    from rich.progress import Progress as Bars

    return Bars(
        *columns,
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
        # Lines for a terminal go above the bars; redirected ones must stay on standard output.
        redirect_stdout=sys.stdout.isatty(),
    )
