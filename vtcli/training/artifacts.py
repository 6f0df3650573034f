"""The files that a training writes for people, besides its state.

best.safetensors, last.safetensors   weights with a model card, usable as -m
history.csv                          a row per epoch (`COLUMNS`)
curve.png                            losses and accuracies over the epochs
failed_videos.txt                    training videos that could not be read, with the reason
tensorboard/                         the same metrics for TensorBoard
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli._version import __version__
from vtcli.runtime.files import atomic_write
from vtcli.training.plan import TrainPlan
from vtcli.weights.checkpoint import CARD_KEY, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

BEST, LAST = "best.safetensors", "last.safetensors"
SECONDS_BETWEEN_PLOTS = 60.0
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top5",
    "train_clips",
    "failed_videos",
    "val_failed_videos",
    "padded_clips",
    "epoch_time",
    "data_time",
)
"""Of history.csv. `step` counts the optimizer steps of all epochs, accuracies are fractions from 0
to 1, times are seconds without validation; `padded_clips` repeat frames of a video that is too
short.
"""
SCALARS = ("lr", "train_loss", "train_top1", "val_loss", "val_top1")


def missing_packages() -> list[str]:
    """A sentence for each optional package that is missing, with the extra that installs it."""
    wanted = {"matplotlib": ("plot", "curve.png"), "tensorboard": ("tensorboard", "tensorboard/")}
    return [
        f"{package} is not installed, so {file} is not written; install it with "
        f"pip install 'vtcli[{extra}]'"
        for package, (extra, file) in wanted.items()
        if find_spec(package) is None
    ]


class Artifacts:
    """Writes these files; used by the main process only."""

    def __init__(self, folder: Path, plan: TrainPlan) -> None:
        self.folder, self.plan = folder, plan
        self.last_plot_time = time.monotonic()
        self.writer: Any = None

    def write_epoch(
        self,
        history: Sequence[Mapping[str, Any]],
        tensors: Mapping[str, Tensor],
        improved: bool,
        failed_videos: Mapping[str, str],
    ) -> None:
        """Write the files after an epoch: the last row of `history` describes `tensors`.

        Raises `DataError` where the disk is full or the folder cannot be written.
        """
        for name in (BEST, LAST) if improved else (LAST,):
            self._write_weights(self.folder / name, tensors, history[-1])
        self._write_text("history.csv", history_csv(history))
        if failed_videos:
            self._append_lines("failed_videos.txt", failed_videos.values())
        if time.monotonic() - self.last_plot_time > SECONDS_BETWEEN_PLOTS:
            self.write_curve(history)

    def _write_weights(
        self, path: Path, tensors: Mapping[str, Tensor], row: Mapping[str, Any]
    ) -> None:
        plan = self.plan
        card = replace(
            plan.model_init.card(plan.card_heads, plan.split.validation.name),
            top1=round(100 * row["val_top1"], 2),
            top5=round(100 * row["val_top5"], 2),
            metric_source=f"validation during training, one view per video, epoch {row['epoch']}",
            notes=f"fine-tuned with the recipe '{plan.recipe_name}', seed {plan.seed}",
            created_with=f"vtcli {__version__}",
        )
        write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})

    def write_curve(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write curve.png, where matplotlib is installed."""
        plot_curve(self.folder / "curve.png", history)
        self.last_plot_time = time.monotonic()

    def add_scalars(self, row: Mapping[str, Any]) -> None:
        """Add an epoch to tensorboard/, where TensorBoard is installed."""
        if self.writer is None:
            self.writer = _summary_writer(self.folder / "tensorboard")
        if self.writer:
            for name in SCALARS:
                self.writer.add_scalar(name, row[name], row["step"])
            self.writer.flush()

    def _append_lines(self, name: str, lines: Iterable[str]) -> None:
        """Add lines to a text file; those of an earlier process of this training are kept."""
        path = self.folder / name
        old = path.read_text("utf-8", "surrogateescape").splitlines() if path.exists() else []
        self._write_text(name, "".join(f"{line}\n" for line in dict.fromkeys([*old, *lines])))

    def _write_text(self, name: str, text: str) -> None:
        with atomic_write(self.folder / name, len(text)) as path:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")


def history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """The text of history.csv."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in COLUMNS} for row in history)
    return file.getvalue()


def plot_curve(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Plot losses and accuracies over the epochs; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, metric in zip(figure.subplots(1, 2), ("loss", "top1"), strict=True):
        for part, name in (("train", "training"), ("val", "validation")):
            values = [row[f"{part}_{metric}"] for row in history]
            axis.plot(epochs, values, marker="o", markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.set_title("loss" if metric == "loss" else "top-1")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)


def _summary_writer(folder: Path) -> Any:
    """TensorBoard's writer; False where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder))
