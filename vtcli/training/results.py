"""Records that a training reports: its progress, and the estimate of a dry run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainProgress:
    """The state of a training after an optimizer step.

    `epoch` counts from 0, `step` counts the optimizer steps of this epoch that are done; `loss` and
    `top1` are means over the epoch so far. `step_time` is in seconds per optimizer step,
    `data_fraction` the fraction of it spent waiting for data; `measured_validation_time` in seconds
    for the `val_videos` of an epoch, None before the first.
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
    clips_per_step: int = 1
    val_videos: int = 0
    measured_validation_time: float | None = None

    @property
    def validation_time(self) -> float:
        """Seconds of an epoch's validation: measured, else expected from training."""
        if self.measured_validation_time is not None:
            return self.measured_validation_time
        return expected_validation_time(
            self.val_videos, self.clips_per_step, self.step_time, self.data_fraction
        )

    @property
    def seconds_left(self) -> float:
        """Until the last epoch is validated."""
        epochs = self.epochs - self.epoch
        return (epochs * self.steps - self.step) * self.step_time + epochs * self.validation_time


def expected_validation_time(
    videos: int, clips_per_step: int, step_time: float, data_fraction: float
) -> float:
    """Seconds for one clip of each video, from training: without the backward pass, which costs
    twice the forward pass, and with the same waiting for data.
    """
    forward = (1 - data_fraction) / 3
    return videos / clips_per_step * step_time * (data_fraction + forward)


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training would do, from `--dry-run`: times (seconds) and memory are measured on a few
    optimizer steps, and `validation_time` of an epoch is expected from them.

    `lr` is the backbone's highest learning rate, `lowest_lr` that of its first layers, `head_lr`
    the classifier's; `sum_of_head_rates` is over all optimizer steps, and a new classifier cannot
    learn below `least_sum_of_rates`. Before the first epoch a new classifier is fitted to features
    of `start_clips` clips, 0 for a start at zero, in about `start_time`.
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
    start_clips: int
    start_time: float
    warning: str
    device: str
    step_time: float
    data_fraction: float
    validation_time: float
    memory_bytes: int

    @property
    def total_time(self) -> float:
        """Seconds for all epochs, with validation."""
        epoch = self.steps_per_epoch * self.step_time + self.validation_time
        return self.start_time + self.epochs * epoch

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "total_time": self.total_time}
