"""The files that a training writes for people, besides its state.

best.safetensors, last.safetensors   weights with a model card, usable as -m
history.csv, metrics.jsonl           a row per epoch (`COLUMNS`), the second as JSON lines
curve.png                            losses and accuracies over the epochs
failed_videos.txt                    training videos that could not be read, with the reason
tensorboard/                         the same metrics for TensorBoard
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli._version import __version__
from vtcli.runtime.csv_cells import write_csv
from vtcli.runtime.files import atomic_write
from vtcli.training.callbacks import Callback, RunInfo
from vtcli.training.plan import TrainPlan
from vtcli.weights.checkpoint import CARD_KEY, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

BEST, LAST = "best.safetensors", "last.safetensors"
HISTORY, CURVE = "history.csv", "curve.png"
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
    "val_macro",
    "val_map",
    "val_threshold",
    "train_clips",
    "failed_videos",
    "val_failed_videos",
    "padded_clips",
    "epoch_time",
    "data_time",
)
"""Of history.csv. `step` counts the optimizer steps of all epochs, accuracies are fractions from 0
to 1 (`val_macro` is the mean over the classes), times are seconds without validation;
`padded_clips` repeat frames of a video that is too short. `val_map` and `val_threshold` are there
where each class is decided alone.
"""
BEST_BY = {
    "val_macro": ", the best by macro accuracy",
    "val_map": ", the best by mean average precision",
}
SCALARS = ("lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_macro", "val_map")


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

    def files(self) -> dict[str, str]:
        """The paths of the files, by what they are; the curve only where it was drawn."""
        names = {"best": BEST, "last": LAST, "history": HISTORY}
        if (self.folder / CURVE).is_file():
            names["curve"] = CURVE
        return {what: str(self.folder / name) for what, name in names.items()}

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
        self._write_text(HISTORY, history_csv(history))
        self._write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
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
            metric_source=f"validation during training, one view per video, epoch {row['epoch']}"
            + BEST_BY.get(plan.best_epoch_by, ""),
            notes=f"fine-tuned with the recipe '{plan.recipe_name}', seed {plan.seed}",
            created_with=f"vtcli {__version__}",
        )
        if plan.multi_label:
            (head,) = plan.heads
            card = replace(card, thresholds={head: row["val_threshold"]})
        write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})

    def write_curve(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write curve.png, where matplotlib is installed."""
        plot_curve(self.folder / CURVE, history)
        self.last_plot_time = time.monotonic()

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
    rows = ([row.get(name, "") for name in COLUMNS] for row in history)
    write_csv(file, [COLUMNS, *rows], line_end="\n")
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


class TensorBoard(Callback):
    """Writes every epoch to tensorboard/, where TensorBoard is installed."""

    def __init__(self) -> None:
        self.writer: Any = None

    def on_run_begin(self, run: RunInfo) -> None:
        """Open the folder."""
        self.writer = _summary_writer(run.folder / "tensorboard")

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        """Write the scalars of an epoch."""
        if self.writer:
            for name in filter(row.__contains__, SCALARS):
                self.writer.add_scalar(name, row[name], row["step"])
            self.writer.flush()

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        """Close the folder's file, and end its thread."""
        if self.writer:
            self.writer.close()


def _summary_writer(folder: Path) -> Any:
    """TensorBoard's writer; False where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder))
