"""What a command is doing, how far it is and what is left, on the live line of standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vtcli.cli.live import LINE, Task
from vtcli.runtime.progress import ProgressCallback

if TYPE_CHECKING:
    from vtcli.evaluation.evaluator import EvalProgress
    from vtcli.inference.bulk import BulkProgress
    from vtcli.training.results import TrainProgress


@contextmanager
def working(what: str, unit: str = "", delay: float = 0.0) -> Iterator[Task]:
    """Say what the command is doing, after `delay` seconds: `say` changes it, `update` counts steps
    of this unit.
    """
    task = Task(what, unit=unit, delay=delay)
    LINE.add(task)
    try:
        yield task
    finally:
        LINE.remove(task)


@contextmanager
def fetch_progress() -> Iterator[ProgressCallback]:
    """A callback for work counted in bytes: the file that is downloaded, hashed or written."""
    tasks: dict[str, Task] = {}

    def report(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            tasks[name] = Task(name, unit="bytes")
            LINE.add(tasks[name])
        tasks[name].update(name, done, total)
        if done == total:
            LINE.remove(tasks.pop(name))

    try:
        yield report
    finally:
        for task in tasks.values():
            LINE.remove(task)


@contextmanager
def file_progress(total: int, to_file: bool = False) -> Iterator[ProgressCallback]:
    """A callback per finished file, where there are several files.

    Results printed to the same terminal show the progress themselves, so the line appears only if
    they go elsewhere: standard output is redirected, or they are written `to_file`.
    """
    if total <= 1 or not (to_file or not sys.stdout.isatty()):
        yield lambda name, done, _: None
        return
    with working("files", "files") as task:
        task.update("", 0, total)
        yield lambda name, done, _: task.update(name, done, total)


@contextmanager
def bulk_progress() -> Iterator[Callable[[BulkProgress], None]]:
    """A callback for a bulk run: videos done of all, and this process's rate."""
    with working("classifying", "videos") as task:

        def report(progress: BulkProgress) -> None:
            task.details = (f"{progress.rate:.1f} videos/s",)
            task.update("classifying", progress.done, progress.total)

        yield report


@contextmanager
def eval_progress() -> Iterator[Callable[[EvalProgress], None]]:
    """A callback for an evaluation: speed, failures, and whether decoding or the model limits."""
    with working("loading the model", "videos") as task:

        def report(progress: EvalProgress) -> None:
            rate = progress.done / max(progress.seconds, 1e-9)
            details = [f"{rate:.2f} videos/s", f"{progress.failed} failed"]
            task.details = (*details, *([progress.bound] if progress.done else []))
            task.update("evaluating", progress.done, progress.total)

        yield report


@contextmanager
def train_progress() -> Iterator[
    tuple[Callable[[TrainProgress], None], Callable[[int, int], None]]
]:
    """Callbacks for each optimizer step and each validation video.

    Shown are loss, accuracy, seconds per step, the fraction of time spent waiting for data, the
    learning rate, and the time left with validation.
    """
    with working("reading the first videos") as task:
        last: list[TrainProgress] = []

        def report(p: TrainProgress) -> None:
            last[:] = [p]
            task.details = (
                f"loss {p.loss:.4f}",
                f"top-1 {p.top1:.1%}",
                f"{p.step_time:.2f} s/step",
                f"{p.data_fraction:.0%} waiting for data",
                f"lr {p.lr:.2g}",
            )
            task.seconds_left = p.seconds_left
            task.update(f"epoch {p.epoch + 1}/{p.epochs}", p.step, p.steps)
            if p.step == p.steps:
                task.say(f"validating epoch {p.epoch + 1}/{p.epochs}")

        def validated(done: int, total: int) -> None:
            if last:
                left = last[0].seconds_left - done / total * last[0].validation_time
                task.seconds_left = max(0.0, left)
            task.update(task.name, done, total)
            if done == total:
                task.say(task.name.replace("validating", "finishing"))

        yield report, validated
