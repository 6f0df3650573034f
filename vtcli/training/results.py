"""TODO-HEAD"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainProgress:
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
class TrainingEstimate:
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
