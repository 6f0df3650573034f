"""The training loop: draw, forward, backward, update, validate, keep; stopped anywhere, it goes on
as if nothing had happened.

What an update sees is a function of (seed, epoch, update), and dropout is seeded anew in every
step, so that a state is the weights, the optimizer's memory and a position. A video that cannot be
read is left out: its batch is smaller, the loss is the mean over the clips that are there, whatever
process and step they are in, and the epoch's row counts it.
Legend: B clips, K classes of all heads, one after the other.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtcli._version import __version__
from vtcli.data.augment import seeded_globals
from vtcli.data.clip_loader import ClipReader
from vtcli.data.frame_cache import FrameCache
from vtcli.data.samples import labels_by_head
from vtcli.data.train_loader import (
    ClipRequest,
    TrainClip,
    TrainClipOrError,
    TrainClipReader,
    epoch_order,
    prefetch_batches,
)
from vtcli.errors import DataError, OutOfMemoryError, UsageError
from vtcli.inference.scoring import is_out_of_memory
from vtcli.runtime.device import resolve_device
from vtcli.runtime.distributed import Group
from vtcli.runtime.files import atomic_write
from vtcli.runtime.progress import ProgressCallback
from vtcli.training.artifacts import Scalars, draw_curve, history_text
from vtcli.training.batchnorm import freeze_bn, preserve_bn_stats
from vtcli.training.checkpoint import find_state, save_state
from vtcli.training.freeze import apply_activation_checkpointing, freeze
from vtcli.training.init import SCRATCH, build_model
from vtcli.training.optim import make_optimizer, make_schedule, param_groups
from vtcli.training.parallel import (
    apply_fsdp,
    broadcast_buffers,
    full_state_dict,
    full_tensor,
    no_grad_sync,
    wrap_ddp,
)
from vtcli.training.plan import TrainPlan
from vtcli.training.results import TrainingEstimate, TrainProgress
from vtcli.training.training_state import RunningTotals, TrainPosition, TrainState
from vtcli.training.validate import Validated, validate
from vtcli.weights.checkpoint import CARD_KEY, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = tuple[Sequence[ClipRequest], list[TrainClipOrError]]
Ended = Literal["done", "early", "stopped"]
BEST, LAST = "best.safetensors", "last.safetensors"
PROBED = 3
FORCE_QUIT_AFTER = 3.0  # seconds
LEAST_SCALE = 2.0**-14  # of fp16: with GradScaler's 2**16 at first, after 30 halvings in a row
FILES_SHOWN = 8
SECONDS_BETWEEN_CURVES = 60.0


@dataclass(frozen=True)
class StepReport:
    """What one process tells the others of an update."""

    sums: RunningTotals
    stop: bool
    nonfinite_files: tuple[str, ...]


class Trainer:
    """One process's part of a training: making one builds the network; `fit` trains it."""

    def __init__(
        self,
        plan: TrainPlan,
        folder: Path,
        group: Group,
        resume: bool = False,
        on_download: ProgressCallback | None = None,
    ) -> None:
        import torch

        self.plan, self.recipe, self.folder, self.group = plan, plan.recipe, folder, group
        self.device = resolve_device(group.device(plan.settings.device))
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # which sharding takes without asking
        stored = group.run_on_main(lambda: find_state(folder)) if resume else None
        start = replace(plan.start, init=SCRATCH) if stored else plan.start
        torch.manual_seed(plan.seed)
        self.model = build_model(start, plan.labels, on_download).to(self.device)
        self.head_tensors = start.architecture.head_tensors
        self.position = stored.position if stored else TrainPosition()
        self._check_clip()
        freeze(self.model, self.recipe, self.head_tensors)
        self._prepare()
        if stored:
            self.holdings.load_state_dict(stored)
        self.stop = threading.Event()
        self.unreadable: dict[str, str] = {}  # by path, of this process since it began
        self.drawn = time.monotonic()

    def _check_clip(self) -> None:
        """Raise `ShapeError` for frames that the network cannot take, before anything is read."""
        import torch

        p = self.plan.start.pipeline
        clip = torch.zeros(1, 3, p.frames, p.crop_size, p.crop_size, device=self.device)
        self.model.eval()
        with torch.inference_mode():
            self.model(clip)
        self.model.train()

    def _prepare(self) -> None:
        """Everything around the network that training takes."""
        import torch
        from timm.data import Mixup
        from timm.utils import ModelEmaV3

        recipe, plan = self.recipe, self.plan
        if recipe.amp_dtype == "fp16" and self.device.type == "cpu":
            raise UsageError("--amp-dtype fp16 needs a GPU; on a CPU take bf16 or off")
        if plan.settings.parallel == "fsdp" and (recipe.model_ema or recipe.amp_dtype == "fp16"):
            raise UsageError(
                "--parallel fsdp goes neither with --model-ema nor with --amp-dtype fp16; leave "
                "them out, or take --parallel ddp"
            )
        self.ema: Any = None
        if recipe.model_ema:
            self.ema = ModelEmaV3(self.model, recipe.model_ema_decay, use_warmup=True)
        if recipe.grad_checkpointing:
            apply_activation_checkpointing(self.model)
        self.sharded = plan.settings.parallel == "fsdp" and self.group.size > 1
        self.net = self._shared(self.model)
        groups = param_groups(self.model, recipe, self.head_tensors)
        self.names = [name for group in groups for name in group["names"]]
        self.optimizer = make_optimizer(groups, recipe, recipe.lr * plan.lr_scale)
        self.schedule = make_schedule(
            self.optimizer, recipe, plan.updates, plan.updates_per_epoch, plan.lr_scale
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp_dtype == "fp16")
        self.holdings = TrainState(self.model, self.ema, self.optimizer, self.names, self.scaler)
        self.mixup: Any = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0)
        train = plan.division.train
        self.workers = plan.workers(self.group.local_size)
        self.drawer = TrainClipReader(
            plan.start.pipeline,
            plan.augmentation,
            plan.seed,
            train.frame_rate,
            plan.settings.decoder,
            self._cache(),
        )

    def _cache(self) -> FrameCache | None:
        """Memory for decoded frames: this process's share of the machine's."""
        room = int(self.plan.settings.cache_gb * 1e9) // self.group.local_size
        return FrameCache(room) if room else None

    def _shared(self, model: nn.Module) -> nn.Module:
        """The network as all processes train it: gradients are means over them."""
        if self.sharded:
            return apply_fsdp(model, self.device, self.group.size)
        return wrap_ddp(model, self.device) if self.group.size > 1 else model

    # --- the loop -----------------------------------------------------------------------------

    def fit(
        self,
        on_step: Callable[[TrainProgress], None] = lambda pace: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> Ended:
        """Train to the end, to a stop by a signal, or until no epoch is better for long enough.

        `on_step` hears of every update, `on_epoch` of every finished epoch. Raises `DataError` for a loss
        that is no number, an epoch without a readable video, and a full disk.
        """
        with self._signals_noted():
            ended = self._epochs(on_step, on_epoch)
        if self.group.is_main_process and self.position.history:
            self._draw_curve()
        return ended

    def _epochs(
        self, on_step: Callable[[TrainProgress], None], on_epoch: Callable[[dict[str, Any]], None]
    ) -> Ended:
        scalars = Scalars(self.folder / "tensorboard") if self.group.is_main_process else None
        while self.position.epoch < self.recipe.epochs:
            if self._out_of_patience():
                return "early"
            if not self._train_epoch(on_step):
                return "stopped"
            row = self._finish_epoch()
            if scalars:
                on_epoch(row)
                scalars.add(row)
        return "done"

    def _train_epoch(self, on_step: Callable[[TrainProgress], None]) -> bool:
        """The rest of an epoch; False where a signal stopped it. A state is saved at its end."""
        position, per_epoch = self.position, self.plan.updates_per_epoch
        batches = self._batches()
        every = self.plan.settings.save_every
        self._set_training()
        try:
            while position.update < per_epoch:
                stop = self._update(batches)
                position.update += 1
                position.done += 1
                on_step(self._pace())
                last = position.update == per_epoch
                if last and not position.sums.clips:
                    # Before anything is saved: with the videos back, training can go on.
                    raise DataError(
                        f"none of the {position.sums.failed} videos of epoch {position.epoch + 1} "
                        "could be read; see vt datasets check"
                    )
                if stop or last or (every and position.done % every == 0):
                    self.save()
                if stop:
                    return False
        finally:
            batches.close()  # type: ignore[attr-defined]
        return True

    def _draws(self) -> Iterator[list[ClipRequest]]:
        """What this process reads in each step of what is left of the epoch."""
        samples, recipe, epoch = self.plan.division.train.samples, self.recipe, self.position.epoch
        order = epoch_order(len(samples), epoch, self.plan.seed)
        together = self.plan.videos_per_step
        steps = self.plan.updates_per_epoch * recipe.grad_accum_steps
        for step in range(self.position.update * recipe.grad_accum_steps, steps):
            taken = order[step * together : (step + 1) * together]
            mine = taken[self.group.rank :: self.group.size]
            yield [
                ClipRequest(samples[number], number, epoch, repeat)
                for number in mine
                for repeat in range(recipe.aug_repeats)
            ]

    def _set_training(self) -> None:
        self.net.train()
        freeze_bn(self.model, self.recipe.freeze_bn)

    def _batches(self) -> Iterator[Batch]:
        """The clips of what is left of the epoch, read ahead."""
        on_gpu = self.device.type == "cuda"
        return prefetch_batches(self.drawer, self._draws(), self.workers, pinned=on_gpu)

    def _update(self, batches: Iterator[Batch]) -> bool:
        """One change of the weights; whether a signal asks to stop after it."""
        start = time.perf_counter()
        self.schedule.step_update(self.position.done)
        sums, files = RunningTotals(), []
        for step in range(self.recipe.grad_accum_steps):
            waiting = time.perf_counter()
            draws, drawn = next(batches)
            sums.waited += time.perf_counter() - waiting
            last = step == self.recipe.grad_accum_steps - 1
            with nullcontext() if last else self._unsynchronized():
                self._step(step, draws, drawn, sums)
            files += [str(draw.sample.path) for draw in draws]
        nonfinite_files = () if math.isfinite(sums.loss) else tuple(files)
        reports = self.group.all_gather(StepReport(sums, self.stop.is_set(), nonfinite_files))
        total = RunningTotals()
        for report in reports:
            total.add(report.sums)
        if nonfinite := [name for report in reports for name in report.nonfinite_files]:
            self._refuse_nan(nonfinite)
        self._apply_gradients(total.clips, files)
        total.waited = sums.waited
        total.seconds = time.perf_counter() - start
        self.position.sums.add(total)
        return any(report.stop for report in reports)

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        """Gradients stay in this process until the last step of an update."""
        return no_grad_sync(self.net)

    def _step(
        self,
        step: int,
        draws: Sequence[ClipRequest],
        drawn: list[TrainClipOrError],
        sums: RunningTotals,
    ) -> None:
        """Forward and backward of one batch of this process; what it saw is added to `sums`."""
        import torch

        read = [
            (d, clip) for d, clip in zip(draws, drawn, strict=True) if isinstance(clip, TrainClip)
        ]
        sums.failed += len(draws) - len(read)
        failed = [clip for clip in drawn if not isinstance(clip, TrainClip)]
        self.unreadable.update({error.path: str(error) for error in failed})
        if not read and self.group.size == 1:
            return
        seed = self._step_seed(step)
        clips, target_BK = self._inputs(read, seed)
        torch.manual_seed(seed)
        try:
            with nullcontext() if read else preserve_bn_stats(self.model):
                with self._autocast():
                    logits_BK = _one_table(self.net(clips))
                loss_B = self._losses(logits_BK.float(), target_BK)
                # Of the planned number of clips; what is missing is made up for before the update.
                planned = self.recipe.batch_size * self.recipe.grad_accum_steps
                self.scaler.scale(loss_B.sum() / planned).backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"a batch of {self.recipe.batch_size} clips does not fit into memory; lower "
                "--batch-size and raise --grad-accum-steps, or take --grad-checkpointing"
            ) from error
        loss_and_hits = torch.stack([loss_B.detach().sum(), self._hits(logits_BK, target_BK)])
        loss, hits = loss_and_hits.tolist()  # waits for the device, once
        sums.loss += loss
        sums.right += hits
        sums.clips += len(read)
        sums.short += sum(clip.padded for _, clip in read)

    def _step_seed(self, step: int) -> int:
        """Of dropout and mixup in a step of this process."""
        from numpy.random import SeedSequence

        place = [self.plan.seed, self.position.done, step, self.group.rank]
        return int(SeedSequence(place).generate_state(1)[0])

    def _inputs(
        self, read: list[tuple[ClipRequest, TrainClip]], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Clips [B,3,T,S,S] and what is wanted of them [B,K], both on the device.

        A process that has none while others have takes an empty clip that wants nothing, so that
        all exchange their gradients alike.
        """
        import torch

        p = self.plan.start.pipeline
        if not read:
            empty = torch.zeros(1, 3, p.frames, p.crop_size, p.crop_size)
            nothing = torch.zeros(1, len(self.plan.labels))
            return empty.to(self.device), nothing.to(self.device)
        clips = torch.empty(len(read), *read[0][1].pixels.shape, device=self.device)
        for place, (_, clip) in zip(clips, read, strict=True):
            place.copy_(clip.pixels, non_blocking=True)
        target_BK = torch.stack([self._target(draw) for draw, _ in read]).to(self.device)
        if self.mixup is not None and len(read) > 1:
            # timm pairs a batch with its reverse; of an odd one the last clip stays as it is.
            even = len(read) - len(read) % 2
            self.mixup.num_classes = even
            # It cuts its boxes out of images: a clip is one with many channels.
            images = clips[:even].flatten(1, 2)
            with seeded_globals(seed):
                _, shares_BB = self.mixup(images, torch.arange(even).to(clips.device))
            target_BK[:even] = shares_BB.to(target_BK) @ target_BK[:even]
        return clips, target_BK

    def _target(self, draw: ClipRequest) -> Tensor:
        """What every class should get [K], smoothed within each head."""
        import torch

        parts = []
        heads, smoothing = self.plan.heads, self.recipe.smoothing
        for size, labels in zip(
            heads.values(), labels_by_head(draw.sample, len(heads)), strict=True
        ):
            target_K = torch.full((size,), smoothing / size)
            target_K[list(labels)] += (1 - smoothing) / len(labels)
            parts.append(target_K)
        return torch.cat(parts)

    def _losses(self, logits_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Cross-entropy of each clip, the heads' added up: [B]."""
        sizes = list(self.plan.heads.values())
        parts = zip(logits_BK.split(sizes, 1), target_BK.split(sizes, 1), strict=True)
        return sum(-(want * z.log_softmax(1)).sum(1) for z, want in parts)

    def _hits(self, logits_BK: Tensor, target_BK: Tensor) -> Tensor:
        """How many clips are answered right, as the mean over the heads: a scalar."""
        sizes = list(self.plan.heads.values())
        parts = zip(logits_BK.split(sizes, 1), target_BK.split(sizes, 1), strict=True)
        hits = [((z.argmax(1) == want.argmax(1)) & (want.sum(1) > 0)).sum() for z, want in parts]
        return sum(hits) / len(hits)

    def _apply_gradients(self, clips: int, files: Sequence[str]) -> None:
        """Change the weights by the mean over `clips` clips; nothing where there were none."""
        import torch

        recipe = self.recipe
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        if clips:
            self.scaler.unscale_(self.optimizer)
            factor = self.plan.clips_per_update / clips
            if factor != 1.0:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
            norm = full_tensor(
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_grad or math.inf)
            )
            if not self.scaler.is_enabled() and not math.isfinite(float(norm)):
                self._refuse_nan(files)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
                self._refuse_nan(files)
            if self.ema is not None:
                self.ema.update(self.model, step=self.position.done + 1)
        self.optimizer.zero_grad()

    def _refuse_nan(self, files: Sequence[str]) -> None:
        """Raise `DataError` naming the step and its videos."""
        more = f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
        raise DataError(
            f"the loss is no number any more in update {self.position.update + 1} of epoch "
            f"{self.position.epoch + 1}; lower --lr, set --clip-grad or --amp-dtype off, or look "
            f"at the videos of that batch: {', '.join(files[:FILES_SHOWN]) or 'none here'}{more}"
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = types.get(self.recipe.amp_dtype)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    # --- the end of an epoch ------------------------------------------------------------------

    def _finish_epoch(self) -> dict[str, Any]:
        """Validate, keep what is good, and move on to the next epoch; the epoch's row."""
        validated = self._validate()
        position = self.position
        row = self._row(validated)
        history = position.history
        history.append(row)
        if position.best < 0 or _selection_key(row) > _selection_key(history[position.best]):
            position.best = position.epoch
        self._write_files(row, improved=position.best == position.epoch)
        position.epoch, position.update, position.sums = position.epoch + 1, 0, RunningTotals()
        self.save()
        return row

    def _validate(self) -> Validated:
        validation, settings = self.plan.division.validation, self.plan.settings
        if self.group.size > 1:
            broadcast_buffers(self._kept_model())
        reader = ClipReader(self.plan.start.pipeline, 1, 1, validation.frame_rate, settings.decoder)
        return validate(
            self._kept_model(),
            validation,
            reader,
            self.group,
            self.recipe.batch_size,
            self.workers,
            self._autocast,
        )

    def _kept_model(self) -> nn.Module:
        """The network that is validated and written."""
        return self.model if self.ema is None else self.ema.module

    def _row(self, validated: Validated) -> dict[str, Any]:
        position, sums = self.position, self.position.sums
        return {
            "epoch": position.epoch + 1,
            "updates": position.done,
            "lr": self._lr(),
            "train_loss": sums.loss / sums.clips,
            "train_top1": sums.right / sums.clips,
            "val_loss": validated.loss,
            "val_top1": validated.top1,
            "val_top5": validated.top5,
            "clips": sums.clips,
            "unreadable": sums.failed,
            "val_unreadable": validated.unreadable,
            "short": sums.short,
            "seconds": round(sums.seconds, 3),
            "data_seconds": round(sums.waited, 3),
        }

    def _write_files(self, row: dict[str, Any], improved: bool) -> None:
        """The weights so far as files that stand alone, the history and its picture.

        All processes put the weights together, the first one writes.
        """
        tensors = full_state_dict(self._kept_model().state_dict(), self.group.is_main_process)
        unreadable = {
            p: why for found in self.group.all_gather(self.unreadable) for p, why in found.items()
        }

        def write() -> None:
            for name in (BEST, LAST) if improved else (LAST,):
                self._write_weights(self.folder / name, tensors, row)
            self._write_text("history.csv", history_text(self.position.history))
            if unreadable:
                self._add_lines("unreadable.txt", unreadable.values())
            if time.monotonic() - self.drawn > SECONDS_BETWEEN_CURVES:
                self._draw_curve()

        self.group.run_on_main(write)

    def _write_text(self, name: str, text: str) -> None:
        with atomic_write(self.folder / name, len(text)) as path:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")

    def _add_lines(self, name: str, lines: Iterable[str]) -> None:
        """Those that an earlier process of this training wrote are kept."""
        path = self.folder / name
        old = path.read_text("utf-8", "surrogateescape").splitlines() if path.exists() else []
        self._write_text(name, "".join(f"{line}\n" for line in dict.fromkeys([*old, *lines])))

    def _draw_curve(self) -> None:
        draw_curve(self.folder / "curve.png", self.position.history)
        self.drawn = time.monotonic()

    def _write_weights(self, path: Path, tensors: dict[str, Tensor], row: dict[str, Any]) -> None:
        plan = self.plan
        dataset = plan.division.validation
        card = replace(
            plan.start.card(plan.card_heads, dataset.name),
            top1=round(100 * row["val_top1"], 2),
            top5=round(100 * row["val_top5"], 2),
            metric_source=f"validation while training, one view per video, epoch {row['epoch']}",
            notes=f"fine-tuned by the recipe '{plan.recipe_name}', seed {plan.seed}",
            created_with=f"vtcli {__version__}",
        )
        write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})

    def _out_of_patience(self) -> bool:
        patience = self.plan.settings.patience
        position = self.position
        return (
            patience is not None
            and position.update == 0
            and position.best >= 0
            and position.epoch - 1 - position.best >= patience
        )

    # --- state --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state of the training, whole or not at all; raises `DataError` (full disk)."""
        tensors, values = self.holdings.tensors(), self.holdings.values()
        save_state(self.folder, self.position, tensors, values, self.group, self.sharded)

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """SIGTERM asks to stop after the update in hand; one that comes some seconds later ends at
        once. Who stops all processes of a job reaches this one twice, itself and by `torchrun`.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)
        asked = math.inf

        def note(number: int, frame: Any) -> None:
            nonlocal asked
            if time.monotonic() > asked + FORCE_QUIT_AFTER:
                signal.signal(signal.SIGTERM, before)
                signal.raise_signal(signal.SIGTERM)
            asked = min(asked, time.monotonic())
            self.stop.set()

        signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    # --- what is told -------------------------------------------------------------------------

    def _lr(self) -> float:
        """The learning rate of tensors with the factor 1."""
        groups = self.optimizer.param_groups
        return max((g["lr"] / g["lr_scale"] for g in groups if g["lr_scale"]), default=0.0)

    def _pace(self) -> TrainProgress:
        position, sums = self.position, self.position.sums
        clips = max(1, sums.clips)
        return TrainProgress(
            epoch=position.epoch,
            epochs=self.recipe.epochs,
            update=position.update,
            updates=self.plan.updates_per_epoch,
            loss=sums.loss / clips,
            top1=sums.right / clips,
            lr=self._lr(),
            step_seconds=sums.seconds / max(1, position.update),
            data_share=sums.waited / max(sums.seconds, 1e-9),
            unreadable=sums.failed,
        )

    def estimate(self) -> TrainingEstimate:
        """What the training would take, from a few updates that are thrown away."""
        plan = self.plan
        updates = min(PROBED, plan.updates_per_epoch)
        batches = self._batches()
        self._set_training()
        for done in range(updates):
            if done == 1:  # the first one also waits for libraries and memory
                self.position.sums = RunningTotals()
            self._update(batches)
        batches.close()  # type: ignore[attr-defined]
        sums, counted = self.position.sums, max(1, updates - 1)
        start, parameters = plan.start, list(self.model.parameters())
        return TrainingEstimate(
            model=start.known.model,
            starts_from=str(start.model) if start.init == "checkpoint" else start.init,
            dataset=plan.division.train.name,
            recipe=plan.recipe_name,
            classes=len(plan.labels),
            train_videos=len(plan.division.train.samples),
            val_videos=len(plan.division.validation.samples),
            parameters=sum(p.numel() for p in parameters),
            trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
            clips_per_update=plan.clips_per_update,
            updates_per_epoch=plan.updates_per_epoch,
            epochs=self.recipe.epochs,
            lr=self.recipe.lr * plan.lr_scale,
            lr_base=self.recipe.lr,
            lr_base_size=self.recipe.lr_base_size,
            device=str(self.device),
            step_seconds=sums.seconds / counted,
            data_share=sums.waited / max(sums.seconds, 1e-9),
            memory_bytes=_peak_memory(self.device),
        )

    def outcome(self, ended: Ended) -> dict[str, Any]:
        """What came of it, JSON-able."""
        words = {"done": "all epochs done", "early": "no better epoch any more"}
        return {
            "ended": words.get(ended, "stopped"),
            "epochs": len(self.position.history),
            "best": self.position.history[self.position.best],
            "val_videos": len(self.plan.division.validation.samples),
            "files": {"best": str(self.folder / BEST), "last": str(self.folder / LAST)},
            "recipe": asdict(self.recipe),
        }


def _selection_key(row: dict[str, Any]) -> tuple[float, float]:
    """What makes an epoch better: accuracy, then the loss."""
    return row["val_top1"], -row["val_loss"]


def _one_table(logits: Any) -> Tensor:
    """Logits [B,K] of all heads, one after the other."""
    import torch

    return torch.cat(list(logits.values()), 1) if isinstance(logits, dict) else logits


def _peak_memory(device: Any) -> int:
    """Bytes: of the GPU, or of the whole process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
