"""TODO-HEAD"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
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
