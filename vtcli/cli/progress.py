"""Progress on standard error, only where somebody watches and the work is long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vtcli.engine.loading import Progress


@contextmanager
def fetch_progress() -> Iterator[Progress]:
    """A callback for fetching and converting weights: shows a bar per file on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty()
    with Bars(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bars:
        tasks: dict[str, int] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield report


@contextmanager
def file_progress(total: int) -> Iterator[Progress]:
    """A callback per finished file: shows one bar on a terminal when there are several files."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    shown = sys.stderr.isatty() and total > 1
    with Bars(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bars:
        task = bars.add_task("", total=total)

        def report(name: str, done: int, _: int | None) -> None:
            bars.update(task, completed=done, description=name)

        yield report
