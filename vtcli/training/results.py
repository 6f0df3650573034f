"""Records that a training reports: its progress, and the estimate of a dry run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainProgress:
    """The state of a training after an optimizer step.

    `epoch` counts from 0, `step` counts the optimizer steps of this epoch that are done; `loss` and
    `top1` are means over the epoch so far. `step_time` is in seconds per optimizer step,
    `data_fraction` the fraction of it spent waiting for data.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1: float
    lr: float
    step_time: float
    data_fraction: float
    failed_videos: int

    @property
    def seconds_left(self) -> float:
        """Until the last optimizer step of the last epoch, without validation."""
        left = (self.epochs - self.epoch) * self.steps - self.step
        return left * self.step_time


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training would do, from `--dry-run`: times (seconds) and memory are measured on a few
    optimizer steps.

    `lr` is the backbone's highest learning rate, `lowest_lr` that of its first layers, `head_lr`
    the classifier's; `sum_of_head_rates` is over all optimizer steps, and a new classifier cannot
    learn below `least_sum_of_rates`.
    """

    model: str
    init: str
    dataset: str
    recipe: str
    recipe_reason: str
    classes: int
    train_videos: int
    val_videos: int
    parameters: int
    trainable_parameters: int
    clips_per_step: int
    steps_per_epoch: int
    epochs: int
    steps: int
    lr: float
    lr_base: float
    lr_base_size: int
    head_lr: float
    lowest_lr: float
    sum_of_head_rates: float
    least_sum_of_rates: float
    warning: str
    device: str
    step_time: float
    data_fraction: float
    memory_bytes: int

    @property
    def total_time(self) -> float:
        """Seconds for all epochs, without validation."""
        return self.epochs * self.steps_per_epoch * self.step_time

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "total_time": self.total_time}
