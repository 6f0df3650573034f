"""One optimizer step of one process: forward, backward, exchange of gradients, update of weights.

The dropout and mixup seed is a function of (seed, step, micro-step, rank). A video that cannot be
read is left out of its batch: the loss is the mean over the clips that were read, in whatever
process and micro-step. A micro-step is one of the `grad_accum_steps` forward and backward passes.
Legend: B clips, T frames, S side of a frame, K classes of all heads, concatenated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtcli.data.train_loader import ClipRequest, TrainClip, TrainClipOrError
from vtcli.errors import DataError, OutOfMemoryError, UsageError
from vtcli.inference.scoring import is_out_of_memory
from vtcli.runtime.device import resolve_device
from vtcli.runtime.distributed import Group
from vtcli.training.activation_checkpointing import apply_activation_checkpointing
from vtcli.training.batchnorm import freeze_bn, leave_out_of_bn, synchronize_bn
from vtcli.training.checkpoint import RunningTotals, TrainPosition, TrainState
from vtcli.training.freeze import freeze
from vtcli.training.objective import Objective
from vtcli.training.optim import make_optimizer, make_schedule, param_groups
from vtcli.training.parallel import apply_fsdp, full_tensor, no_grad_sync, wrap_ddp
from vtcli.training.plan import TrainPlan
from vtcli.training.signals import StopSignals

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = tuple[Sequence[ClipRequest], list[TrainClipOrError]]
MIN_LOSS_SCALE = 2.0**-14  # of fp16: GradScaler starts at 2**16 and has halved it 30 times by then
FILES_SHOWN = 8


@dataclass(frozen=True)
class StepReport:
    """What processes exchange in an optimizer step; `stop` is the number of a signal, or 0."""

    totals: RunningTotals
    stop: int
    nonfinite_files: tuple[str, ...]


class TrainStep:
    """The network with its optimizer, and what turns batches of clips into optimizer steps."""

    def __init__(
        self, model: nn.Module, plan: TrainPlan, group: Group, device: torch.device
    ) -> None:
        import torch
        from timm.utils import ModelEmaV3

        recipe = plan.recipe
        _check_options(plan, device)
        self.model, self.plan, self.recipe, self.group = model, plan, recipe, group
        self.device = device
        head_tensors = plan.model_init.architecture.head_tensors
        freeze(model, recipe, head_tensors)
        self.ema: Any = None
        if recipe.model_ema:
            self.ema = ModelEmaV3(model, recipe.model_ema_decay, use_warmup=True)
        if recipe.grad_checkpointing:
            apply_activation_checkpointing(model)
        self.sharded = plan.is_sharded
        self.net = self._distribute(model)
        groups = param_groups(model, recipe, head_tensors)
        self.lowest_factor = min((group["lr_scale"] for group in groups), default=0.0)
        self.names = [name for group in groups for name in group["names"]]
        self.optimizer = make_optimizer(groups, recipe, recipe.top_lr * plan.lr_scale)
        self.schedule = make_schedule(
            self.optimizer, recipe, plan.steps, plan.steps_per_epoch, plan.lr_scale
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp_dtype == "fp16")
        self.state = TrainState(model, self.ema, self.optimizer, self.names, self.scaler)
        self.objective = Objective(plan.heads, recipe, plan.class_weights, plan.multi_label)
        self.failed_videos: dict[str, str] = {}  # path -> error, of this process since it started

    def _distribute(self, model: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over all processes."""
        if self.group.size > 1:
            synchronize_bn(model)
        if self.sharded:
            return apply_fsdp(model, self.device, self.group.size)
        return wrap_ddp(model, self.device) if self.group.size > 1 else model

    def set_training(self) -> None:
        """Switch to training mode, except for BatchNorms that are frozen."""
        self.net.train()
        freeze_bn(self.model, self.recipe.freeze_bn)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated and saved: the moving average, where there is one."""
        return self.model if self.ema is None else self.ema.module

    def set_classifier(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters of these names, and into their moving average."""
        for model in {self.model, self.eval_model}:
            for name, values in tensors.items():
                model.get_parameter(name).detach().copy_(values)

    @property
    def lr(self) -> float:
        """Current learning rate of parameters with the factor 1."""
        groups = self.optimizer.param_groups
        return max((g["lr"] / g["lr_scale"] for g in groups if g["lr_scale"]), default=0.0)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision of the recipe."""
        import torch

        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = types.get(self.recipe.amp_dtype)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    # --- one step -----------------------------------------------------------------------------

    def run(self, batches: Iterator[Batch], position: TrainPosition, stop: StopSignals) -> int:
        """Take one optimizer step and add to `position.totals`.

        Returns the number of the signal that asked any process to stop, or 0. Raises `DataError`
        for a loss that is NaN or Inf.
        """
        start = time.perf_counter()
        self.schedule.step_update(position.steps_done)
        mine, files = RunningTotals(), []
        for micro_step in range(self.recipe.grad_accum_steps):
            waiting = time.perf_counter()
            requests, clips = next(batches)
            mine.data_time += time.perf_counter() - waiting
            last = micro_step == self.recipe.grad_accum_steps - 1
            with nullcontext() if last else no_grad_sync(self.net):
                mine.add(self.forward_backward(requests, clips, self._seed(position, micro_step)))
            files += [str(request.sample.path) for request in requests]
        nonfinite_files = () if math.isfinite(mine.loss) else tuple(files)
        reports = self.group.all_gather(StepReport(mine, stop.received, nonfinite_files))
        total = RunningTotals()
        for report in reports:
            total.add(report.totals)
        if nonfinite := [name for report in reports for name in report.nonfinite_files]:
            raise _nonfinite_error(position, nonfinite)
        self._update_weights(total.clips, position, files)
        # Times are not summed over processes.
        total.data_time = mine.data_time
        total.step_time = time.perf_counter() - start
        position.totals.add(total)
        return max(report.stop for report in reports)

    def _seed(self, position: TrainPosition, micro_step: int) -> int:
        """Seed of dropout and mixup."""
        from numpy.random import SeedSequence

        key = [self.plan.seed, position.steps_done, micro_step, self.group.rank]
        return int(SeedSequence(key).generate_state(1)[0])

    def forward_backward(
        self, requests: Sequence[ClipRequest], clips: Sequence[TrainClipOrError], seed: int
    ) -> RunningTotals:
        """Accumulate the gradients of one batch of this process; returns its totals.

        Raises `OutOfMemoryError`.
        """
        import torch

        read = [
            (request, clip)
            for request, clip in zip(requests, clips, strict=True)
            if isinstance(clip, TrainClip)
        ]
        failed = [clip for clip in clips if not isinstance(clip, TrainClip)]
        self.failed_videos.update({error.path: str(error) for error in failed})
        if not read and self.group.size == 1:
            return RunningTotals(failed=len(failed))
        clip_B3TSS, target_BK = self.inputs(read, seed)
        torch.manual_seed(seed)
        try:
            with nullcontext() if read else leave_out_of_bn(self.model):
                with self.autocast():
                    logits_BK = _concatenate_heads(self.net(clip_B3TSS))
                loss_B = self.objective.loss(logits_BK.float(), target_BK)
                if not read and self.objective.multi_label:
                    loss_B = loss_B * 0.0  # there, a target of zeros has a loss
                # Divided by the planned number of clips; corrected for missing ones later.
                planned = self.recipe.batch_size * self.recipe.grad_accum_steps
                self.scaler.scale(loss_B.sum() / planned).backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"a batch of {self.recipe.batch_size} clips does not fit into memory; lower "
                "--batch-size and raise --grad-accum-steps, or use --grad-checkpointing"
            ) from error
        correct = self.objective.correct(logits_BK, target_BK)
        loss, hits = torch.stack([loss_B.detach().sum(), correct]).tolist()  # one device sync
        padded = sum(clip.padded for _, clip in read)
        return RunningTotals(loss, hits, len(read), len(failed), padded)

    def inputs(
        self, read: Sequence[tuple[ClipRequest, TrainClip]], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Clips [B,3,T,S,S] and targets [B,K], both on the device.

        A process without clips while others have some uses a clip of zeros with a target of zeros,
        so that all processes exchange gradients.
        """
        import torch

        p = self.plan.model_init.pipeline
        if not read:
            empty = torch.zeros(1, 3, p.frames, p.crop_size, p.crop_size)
            nothing = torch.zeros(1, len(self.plan.labels))
            return empty.to(self.device), nothing.to(self.device)
        clip_B3TSS = torch.empty(len(read), *read[0][1].pixels.shape, device=self.device)
        for row, (_, clip) in zip(clip_B3TSS, read, strict=True):
            row.copy_(clip.pixels, non_blocking=True)
        samples = [request.sample for request, _ in read]
        target_BK = self.objective.targets(samples).to(self.device)
        self.objective.mix(clip_B3TSS, target_BK, seed)
        return clip_B3TSS, target_BK

    def _update_weights(self, clips: int, position: TrainPosition, files: Sequence[str]) -> None:
        """Step the optimizer with the mean gradient over `clips` clips; skip it for none."""
        import torch

        if clips:
            parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
            self.scaler.unscale_(self.optimizer)
            factor = self.plan.clips_per_step / clips
            if factor != 1.0:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
            norm = full_tensor(
                torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip_grad or math.inf)
            )
            if not self.scaler.is_enabled() and not math.isfinite(float(norm)):
                raise _nonfinite_error(position, files)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE:
                raise _nonfinite_error(position, files)
            if self.ema is not None:
                self.ema.update(self.model, step=position.steps_done + 1)
        self.optimizer.zero_grad()


def training_device(plan: TrainPlan, group: Group) -> torch.device:
    """The device of this process, which becomes the current one."""
    import torch

    device = resolve_device(group.device(plan.settings.device))
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # FSDP shards on the current device
    return device


def _check_options(plan: TrainPlan, device: torch.device) -> None:
    """Raise `UsageError` for options that do not go together."""
    recipe = plan.recipe
    if recipe.amp_dtype == "fp16" and device.type == "cpu":
        raise UsageError("--amp-dtype fp16 needs a GPU; use bf16 or off on a CPU")
    if plan.settings.parallel == "fsdp" and (recipe.model_ema or recipe.amp_dtype == "fp16"):
        raise UsageError(
            "--parallel fsdp supports neither --model-ema nor --amp-dtype fp16; leave them out, or "
            "use --parallel ddp"
        )


def _concatenate_heads(logits: Any) -> Tensor:
    """Logits [B,K] of all heads, concatenated."""
    import torch

    return torch.cat(list(logits.values()), 1) if isinstance(logits, dict) else logits


def _nonfinite_error(position: TrainPosition, files: Sequence[str]) -> DataError:
    """Names the step and its videos."""
    more = f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
    return DataError(
        f"the loss is NaN or Inf in step {position.step + 1} of epoch {position.epoch + 1}; lower "
        "--lr, set --clip-grad or --amp-dtype off, or check the videos of that batch: "
        f"{', '.join(files[:FILES_SHOWN]) or 'none in this process'}{more}"
    )
