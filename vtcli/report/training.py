"""What people see of a training: lines or a live bar, history.csv, a curve, a summary."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLUMNS = (
    "epoch",
    "updates",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top5",
    "clips",
    "unreadable",
    "val_unreadable",
    "short",
    "seconds",
    "data_seconds",
)
"""Of history.csv; accuracies are shares from 0 to 1, `short` counts clips that repeat frames."""


@dataclass(frozen=True)
class Pace:
    """One moment of a training; `loss` and `top1` are those of the epoch so far."""

    epoch: int
    epochs: int
    update: int
    updates: int
    loss: float
    top1: float
    lr: float
    step_seconds: float
    data_share: float
    unreadable: int

    @property
    def seconds_left(self) -> float:
        """Until the last epoch's last update, validation not counted."""
        left = (self.epochs - self.epoch) * self.updates - self.update
        return left * self.step_seconds


@dataclass(frozen=True)
class Forecast:
    """What a training would do: from `--plan`, measured on a few updates."""

    model: str
    starts_from: str
    dataset: str
    recipe: str
    classes: int
    train_videos: int
    val_videos: int
    parameters: int
    trained_parameters: int
    clips_per_update: int
    updates_per_epoch: int
    epochs: int
    lr: float
    lr_base: float
    lr_base_size: int
    device: str
    step_seconds: float
    data_share: float
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """For all epochs, validation not counted."""
        return self.epochs * self.updates_per_epoch * self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "seconds": self.seconds}

    def rows(self) -> list[tuple[str, str]]:
        """What is printed: names and values."""
        return [
            ("model", f"{self.model}, {self.classes} classes, from {self.starts_from}"),
            ("data", f"{self.train_videos} videos to train, {self.val_videos} to validate"),
            (
                "parameters",
                f"{self.trained_parameters:,} of {self.parameters:,} are trained",
            ),
            ("recipe", self.recipe),
            (
                "steps",
                f"{self.epochs} epochs x {self.updates_per_epoch} updates of "
                f"{self.clips_per_update} clips",
            ),
            (
                "learning rate",
                f"{self.lr:.3g} ({self.lr_base:.3g} for {self.lr_base_size} clips, scaled)",
            ),
            ("memory", f"{self.memory_bytes / 2**30:.2f} GiB ({self.device})"),
            (
                "time",
                f"{duration(self.seconds)} ({self.step_seconds:.2f} s an update, "
                f"{self.data_share:.0%} of it waiting for data), validation not counted",
            ),
        ]


def duration(seconds: float) -> str:
    """Seconds as 1 h 02 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def print_forecast(forecast: Forecast, format: str) -> None:
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


def history_text(history: Sequence[Mapping[str, Any]]) -> str:
    """history.csv."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in COLUMNS} for row in history)
    return file.getvalue()


def draw_curve(path: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Losses and accuracies over the epochs as a picture; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, what in zip(figure.subplots(1, 2), ("loss", "top1"), strict=True):
        for part, name in (("train", "training"), ("val", "validation")):
            values = [row[f"{part}_{what}"] for row in history]
            axis.plot(epochs, values, marker="o", markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.set_title("loss" if what == "loss" else "top-1")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
    return True


class Scalars:
    """TensorBoard's file of figures, where TensorBoard is installed; else nothing."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        """The figures of an epoch."""
        if self.writer is not None:
            for name in ("lr", "train_loss", "train_top1", "val_loss", "val_top1"):
                self.writer.add_scalar(name, row[name], row["updates"])
            self.writer.flush()


@contextmanager
def pace_shown(shown: bool) -> Iterator[Callable[[Pace], None]]:
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

        def show(pace: Pace) -> None:
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
