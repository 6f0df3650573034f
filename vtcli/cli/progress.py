"""Progress bars on standard error, shown only on a terminal and only for long work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vtcli.runtime.progress import ProgressCallback

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn

    from vtcli.evaluation.evaluator import EvalProgress
    from vtcli.inference.bulk import BulkProgress


@contextmanager
def fetch_progress() -> Iterator[ProgressCallback]:
    """A callback for downloading and converting weights: one bar per file."""
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
    """A callback per finished file: one bar if there are several files.

    Results printed to the same terminal show the progress themselves and would share the bar's
    line, so the bar appears only if they go elsewhere: standard output is redirected, or they are
    written `to_file`.
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


@contextmanager
def bulk_progress() -> Iterator[Callable[[BulkProgress], None]]:
    """A callback for a bulk run: videos done of all, and this process's rate."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    rate_column = TextColumn("{task.fields[rate]:.1f} videos/s")
    columns = (BarColumn(), MofNCompleteColumn(), rate_column, TimeRemainingColumn())
    with _bars(*columns, shown=sys.stderr.isatty()) as bars:
        task = bars.add_task("", total=None, rate=0.0)

        def report(progress: BulkProgress) -> None:
            bars.update(task, completed=progress.done, total=progress.total, rate=progress.rate)

        yield report


@contextmanager
def step_progress() -> Iterator[ProgressCallback]:
    """A callback for the windows or frames of one file at a time.

    The bar is visible from a file's first step to its last, so that results printed to the same
    terminal between files are not disturbed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    name_column = TextColumn("{task.description}", markup=False)
    columns = (name_column, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    task = bars.add_task("", total=None)

    def stop() -> None:
        # Stopping a bar that never started would print an empty line.
        if bars.live.is_started:
            bars.stop()

    def report(name: str, done: int, total: int | None) -> None:
        if sys.stderr.isatty() and not bars.live.is_started:
            bars.reset(task, total=total, description=Path(name).name)
            bars.start()
        bars.update(task, description=Path(name).name, completed=done, total=total)
        if done == total:
            stop()

    try:
        yield report
    finally:
        stop()


@contextmanager
def eval_progress(is_main_process: bool) -> Iterator[Callable[[EvalProgress], None]]:
    """A callback for an evaluation: speed, failures, and whether decoding or the model limits."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    speed_column = TextColumn("{task.fields[speed]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), speed_column)
    off = not (is_main_process and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=off, transient=True) as bars:
        task = bars.add_task("", total=None, speed="")

        def report(progress: EvalProgress) -> None:
            rate = progress.done / max(progress.seconds, 1e-9)
            words = f"{rate:.2f} videos/s, {progress.failed} failed"
            if progress.done:
                words += f", {progress.bound}"
            bars.update(task, total=progress.total, completed=progress.done, speed=words)

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
