"""The estimate of `--dry-run`: a few optimizer steps are taken, measured and thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vtcli.training.checkpoint import RunningTotals, TrainPosition
from vtcli.training.head_start import start_clips
from vtcli.training.plan import TrainPlan
from vtcli.training.results import TrainingEstimate, expected_validation_time
from vtcli.training.signals import StopSignals
from vtcli.training.train_step import Batch, TrainStep

if TYPE_CHECKING:
    import torch

MEASURED_STEPS = 3


def estimate_training(
    plan: TrainPlan, train_step: TrainStep, batches: Iterator[Batch]
) -> TrainingEstimate:
    """Time and memory of the planned training, measured on its first optimizer steps.

    Changes the weights; all processes must call this. Raises what `TrainStep.run` raises.
    """
    steps = min(MEASURED_STEPS, plan.steps_per_epoch)
    position = TrainPosition()
    train_step.set_training()
    for number in range(steps):
        if number == 1:  # the first step also loads libraries and allocates memory
            position.totals = RunningTotals()
        train_step.run(batches, position, StopSignals())
    totals, measured = position.totals, max(1, steps - 1)
    step_time = totals.step_time / measured
    data_fraction = totals.data_time / max(totals.step_time, 1e-9)
    clips, val_videos = start_clips(plan), len(plan.split.validation.samples)
    model_init, recipe = plan.model_init, plan.recipe
    parameters = list(train_step.model.parameters())
    from_checkpoint = model_init.init == "checkpoint"
    return TrainingEstimate(
        model=model_init.known.model or model_init.architecture.title,
        init=str(model_init.model) if from_checkpoint else model_init.init,
        dataset=plan.split.train.name,
        recipe=plan.recipe_name,
        recipe_reason=plan.recipe_reason,
        classes=len(plan.labels),
        train_videos=len(plan.split.train.samples),
        val_videos=val_videos,
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        clips_per_step=plan.clips_per_step,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=recipe.epochs,
        steps=plan.steps,
        lr=recipe.lr * plan.lr_scale,
        lr_base=recipe.lr,
        lr_base_size=recipe.lr_base_size,
        head_lr=plan.head_lr,
        lowest_lr=train_step.lowest_factor * recipe.top_lr * plan.lr_scale,
        sum_of_head_rates=plan.sum_of_head_rates(),
        least_sum_of_rates=plan.least_sum_of_rates(),
        start_clips=clips,
        start_time=expected_validation_time(clips, plan.clips_per_step, step_time, data_fraction),
        warning=plan.warning(),
        device=str(train_step.device),
        step_time=step_time,
        data_fraction=data_fraction,
        validation_time=expected_validation_time(
            val_videos, plan.clips_per_step, step_time, data_fraction
        ),
        memory_bytes=_peak_memory(train_step.device),
    )


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
