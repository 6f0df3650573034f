"""What people see of a training: lines or a live bar, history.csv, a curve, a summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vtcli.training.results import TrainingEstimate, TrainProgress, duration


def print_forecast(forecast: TrainingEstimate, format: str) -> None:
    """The plan on standard output, as a table or JSON."""
    if format == "json":
        print(json.dumps(forecast.to_dict(), indent=2))
        return
    _print_rows(forecast.rows())


def print_outcome(outcome: Mapping[str, Any], format: str) -> None:
    """What a training came to, on standard output."""
    if format == "json":
        print(json.dumps(outcome, indent=2))
        return
    best = outcome["best"]
    _print_rows(
        [
            ("ended", outcome["ended"]),
            ("best epoch", f"{best['epoch']} of {outcome['epochs']}"),
            ("top-1", f"{best['val_top1']:.1%} of {outcome['val_videos']} videos, one view each"),
            ("best", outcome["files"]["best"]),
            ("last", outcome["files"]["last"]),
        ]
    )


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """One row per line, however long: a path that is broken up cannot be copied."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """One finished epoch in words."""
    words = (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, training "
        f"{row['train_top1']:.1%}, validation {row['val_top1']:.1%} (loss {row['val_loss']:.4f}), "
        f"lr {row['lr']:.2g}, {duration(row['seconds'])}"
    )
    lost = row["unreadable"] + row["val_unreadable"]
    if lost:
        words += f", {lost} unreadable{' (see unreadable.txt)' if row['unreadable'] else ''}"
    return words


@contextmanager
def pace_shown(shown: bool) -> Iterator[Callable[[TrainProgress], None]]:
    """A live line on standard error where somebody watches: loss, accuracy, learning rate, how long
    an update takes and how much of it waits for data, and the time left.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    text = TextColumn("{task.description}", markup=False)
    pace_text = TextColumn("{task.fields[words]}", markup=False)
    off = not (shown and sys.stderr.isatty())
    bars = Progress(
        text,
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        pace_text,
        console=Console(stderr=True),
        disable=off,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with bars:
        task = bars.add_task("", total=None, words="")

        def show(pace: TrainProgress) -> None:
            words = (
                f"loss {pace.loss:.4f} · top-1 {pace.top1:.1%} · lr {pace.lr:.2g} · "
                f"{pace.step_seconds:.2f} s/update, {pace.data_share:.0%} data · "
                f"{duration(pace.seconds_left)} left"
            )
            name = f"epoch {pace.epoch + 1}/{pace.epochs}"
            bars.update(
                task, description=name, total=pace.updates, completed=pace.update, words=words
            )

        yield show
