"""The training loop: epochs of optimizer steps, validation, artifacts, and states to resume from.

What an optimizer step sees is a function of (seed, epoch, step), so that a training that is stopped
anywhere and resumed ends with the same weights. Of the files of a run, `checkpoint` writes the
state and `artifacts` everything else.
"""

from __future__ import annotations

import signal
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from vtcli.data.clip_loader import ClipReader
from vtcli.data.train_loader import (
    ClipRequest,
    TrainClipReader,
    balanced_order,
    epoch_order,
    prefetch_batches,
)
from vtcli.errors import DataError
from vtcli.runtime.distributed import Group
from vtcli.runtime.progress import ProgressCallback
from vtcli.training.artifacts import Artifacts, TensorBoard, missing_packages
from vtcli.training.balance import groups_to_balance
from vtcli.training.callbacks import Callback, CallbackList, RunInfo, reported_end
from vtcli.training.checkpoint import RunningTotals, TrainPosition, find_state, save_state
from vtcli.training.estimate import estimate_training
from vtcli.training.head_start import StartWork
from vtcli.training.init import SCRATCH, build_model, check_clip_size
from vtcli.training.parallel import broadcast_buffers, full_state_dict
from vtcli.training.plan import TrainPlan
from vtcli.training.results import TrainingEstimate, TrainProgress
from vtcli.training.signals import StopSignals
from vtcli.training.train_step import Batch, TrainStep, training_device
from vtcli.training.validate import ValidationResult, validate
from vtcli.training.verdict import training_warnings
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import FrameSource, Opener

Ended = Literal["done", "early", "interrupted", "terminated"]
ENDED_IN_WORDS: dict[Ended, str] = {
    "done": "all epochs done",
    "early": "early stopping",
    "interrupted": "interrupted",
    "terminated": "terminated",
}


class Trainer:
    """A training in one process, or this process's part of it: builds the network; `fit` trains it.

    `folder` must exist. With `resume` the latest state in it is loaded, where there is one.
    `callbacks` are called in the main process, after TensorBoard's. Raises what `build_model`
    raises, `UsageError` for options that do not go together, and `ShapeError` for clips that the
    network cannot take.
    """

    def __init__(
        self,
        plan: TrainPlan,
        folder: Path,
        group: Group,
        resume: bool = False,
        on_download: ProgressCallback | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        import torch

        self.callbacks = CallbackList([TensorBoard(), *callbacks] * group.is_main_process)
        self.plan, self.recipe, self.folder, self.group = plan, plan.recipe, folder, group
        self.device = training_device(plan, group)
        saved = group.run_on_main(lambda: find_state(folder)) if resume else None
        init = replace(plan.model_init, init=SCRATCH) if saved else plan.model_init
        torch.manual_seed(plan.seed)
        self.model = build_model(init, plan.labels, on_download).to(self.device)
        check_clip_size(self.model, init.pipeline, self.device)
        self.train_step = TrainStep(self.model, plan, group, self.device)
        self.position = saved.position if saved else TrainPosition()
        if saved:
            self.train_step.state.load_state_dict(saved)
        self.stop = StopSignals()
        self.artifacts = Artifacts(folder, plan)
        self.workers = plan.workers(group.local_size)
        self.decoders = DecodePool(self.workers, plan.settings.timeout)
        self.on_validated: Callable[[int, int], None] = lambda done, total: None
        """Called with the validation videos opened, and the number of all of this process's."""
        self.validation_time: float | None = None
        weakref.finalize(self, self.decoders.close)
        self.reader = TrainClipReader(
            init.pipeline,
            plan.augmentation,
            plan.seed,
            plan.split.train.frame_rate,
            plan.settings.decoder,
            plan.frame_cache(group.local_size),
            self.decoders.open,
        )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.position.epoch >= self.recipe.epochs or self._patience_exhausted()

    @property
    def notices(self) -> list[str]:
        """What the user should know before training starts, a sentence each."""
        return missing_packages()

    # --- the loop -----------------------------------------------------------------------------

    def fit(
        self,
        on_step: Callable[[TrainProgress], None] = lambda progress: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> Ended:
        """Train until the last epoch, a signal, or early stopping; returns which of them.

        `on_step` is called after every optimizer step, `on_epoch` with the history row of every
        epoch, in the main process. Raises `DataError` for a loss that is NaN or Inf, an epoch
        without a readable video, a full disk, and where another process of the run is lost.
        """
        state: dict[str, Any] = {}
        self.callbacks.on_run_begin(self._run_info())
        with reported_end(self.callbacks, state), self.stop.handled(), self.decoders:
            try:
                ended = self._epochs(on_step, on_epoch)
                state["ended"] = ENDED_IN_WORDS[ended]
            finally:
                state["best"] = self._best()
        if self.group.is_main_process and self.position.history:
            self.artifacts.write_curve(self.position.history)
        return ended

    def _epochs(
        self, on_step: Callable[[TrainProgress], None], on_epoch: Callable[[dict[str, Any]], None]
    ) -> Ended:
        def finish(row: dict[str, Any]) -> None:
            if self.group.is_main_process:
                on_epoch(row)
                self.callbacks.on_epoch_end(row)

        position = self.position
        if stopped_by := self._start(finish):
            return _ended_by(stopped_by)
        while position.epoch < self.recipe.epochs:
            if self._patience_exhausted():
                return "early"
            if stopped_by := self._train_epoch(on_step):
                return _ended_by(stopped_by)
            finish(self._finish_epoch())
        return "done"

    def _start(self, finish: Callable[[dict[str, Any]], None]) -> int:
        """Fit the new classifier, which is epoch 0; the number of a signal, or 0."""
        began, position = time.perf_counter(), self.position
        if not self.plan.fits_start or position.steps_done or position.history:
            return 0
        work = StartWork(self.plan, self.folder, self.group, self.decoders, self.workers)
        stopped, start = work.run(self.model, lambda: self.stop.received, self.on_validated)
        if start:
            self.train_step.set_classifier(start.tensors)
            self.train_step.failed_videos.update(start.failed)
            row = {**self._row(self._validate()), **start.columns}
            row["epoch_time"] = round(time.perf_counter() - began, 3)
            self._keep(row)
            finish(row)
        return stopped

    def _train_epoch(self, on_step: Callable[[TrainProgress], None]) -> int:
        """The rest of an epoch, with a state saved at its end; the number of a signal, or 0."""
        position, per_epoch = self.position, self.plan.steps_per_epoch
        batches = self._batches()
        save_every = self.plan.settings.save_every
        self.train_step.set_training()
        try:
            while position.step < per_epoch:
                stop = self.train_step.run(batches, position, self.stop)
                position.step += 1
                position.steps_done += 1
                on_step(progress := self._progress())
                self.callbacks.on_step_end(progress)
                last = position.step == per_epoch
                if last and not position.totals.clips:
                    # Before anything is saved: with the videos back, training can be resumed.
                    raise DataError(
                        f"none of the {position.totals.failed} videos of epoch "
                        f"{position.epoch + 1} could be read; see vt datasets check"
                    )
                if stop or last or (save_every and position.steps_done % save_every == 0):
                    self.save()
                if stop:
                    return stop
        finally:
            batches.close()  # type: ignore[attr-defined]
        return 0

    def requests(self) -> Iterator[list[ClipRequest]]:
        """The clips that this process reads in each micro-step of the rest of the epoch."""
        samples, recipe, epoch = self.plan.split.train.samples, self.recipe, self.position.epoch
        order = self._order()
        together = self.plan.videos_per_micro_step
        micro_steps = self.plan.steps_per_epoch * recipe.grad_accum_steps
        for micro_step in range(self.position.step * recipe.grad_accum_steps, micro_steps):
            drawn = order[micro_step * together : (micro_step + 1) * together]
            mine = drawn[self.group.rank :: self.group.size]
            yield [
                ClipRequest(samples[number], number, epoch, time * recipe.aug_repeats + repeat)
                for number, time in mine
                for repeat in range(recipe.aug_repeats)
            ]

    def _order(self) -> list[tuple[int, int]]:
        """The videos of the epoch, each with how often it occurred before."""
        train, epoch, seed = self.plan.split.train, self.position.epoch, self.plan.seed
        if self.recipe.sampling == "natural":
            return [(number, 0) for number in epoch_order(len(train.samples), epoch, seed)]
        times: Counter[int] = Counter()
        order = []
        for number in balanced_order(groups_to_balance(train), epoch, seed):
            order.append((number, times[number]))
            times[number] += 1
        return order

    def _batches(self) -> Iterator[Batch]:
        """The clips of the rest of the epoch, prefetched."""
        on_gpu = self.device.type == "cuda"
        return prefetch_batches(self.reader, self.requests(), self.workers, pinned=on_gpu)

    def _patience_exhausted(self) -> bool:
        """Whether no epoch of `patience` improved on the best; a fitted start, from which the first
        epochs may lead away, does not count.
        """
        patience, position = self.plan.settings.patience, self.position
        trained = [row for row in position.history if row["epoch"]]
        if patience is None or position.step or not trained:
            return False
        return bool(position.epoch - max(trained, key=self._quality)["epoch"] >= patience)

    # --- the end of an epoch ------------------------------------------------------------------

    def _finish_epoch(self) -> dict[str, Any]:
        """Validate, write artifacts, and move to the next epoch; returns the history row."""
        began = time.perf_counter()
        row = self._row(self._validate())
        self.validation_time = time.perf_counter() - began
        self._keep(row)
        return row

    def _keep(self, row: dict[str, Any]) -> None:
        """Write the artifacts of an epoch, given its history row, and move to the next one."""
        position, history = self.position, self.position.history
        history.append(row)
        last = len(history) - 1
        if position.best < 0 or self._quality(row) > self._quality(history[position.best]):
            position.best = last
        self._write_artifacts(improved=position.best == last)
        position.epoch, position.step, position.totals = row["epoch"], 0, RunningTotals()
        self.save()

    def _quality(self, row: dict[str, Any]) -> tuple[float, float]:
        """The best epoch has the highest of these: the plan's metric, then the lower loss."""
        return row.get(self.plan.best_epoch_by, row["val_top1"]), -row["val_loss"]

    def _validate(self) -> ValidationResult:
        validation, settings = self.plan.split.validation, self.plan.settings
        model = self.train_step.eval_model
        if self.group.size > 1:
            broadcast_buffers(model)
        pipeline = self.plan.model_init.pipeline
        reader = ClipReader(pipeline, 1, 1, validation.frame_rate, settings.decoder)
        return validate(
            model,
            validation,
            reader,
            self.group,
            self.recipe.batch_size,
            self.workers,
            self.train_step.autocast,
            self._open_validation(len(validation.samples[self.group.rank :: self.group.size])),
        )

    def _open_validation(self, videos: int) -> Opener:
        """Opens a validation video and reports it."""
        numbers = count(1)

        def opened(*arguments: Any, **options: Any) -> FrameSource:
            self.on_validated(next(numbers), videos)
            return self.decoders.open(*arguments, **options)

        return opened

    def _row(self, validated: ValidationResult) -> dict[str, Any]:
        """The epoch's row of history.csv (`artifacts.COLUMNS`)."""
        position, totals = self.position, self.position.totals
        clips = max(1, totals.clips)
        return {
            "epoch": position.epoch + (position.steps_done > 0),
            "step": position.steps_done,
            "lr": self.train_step.lr,
            "train_loss": totals.loss / clips,
            "train_top1": totals.correct / clips,
            **validated.to_row(),
            "train_clips": totals.clips,
            "failed_videos": totals.failed,
            "val_failed_videos": validated.failed_videos,
            "padded_clips": totals.padded,
            "epoch_time": round(totals.step_time, 3),
            "data_time": round(totals.data_time, 3),
        }

    def _write_artifacts(self, improved: bool) -> None:
        """All processes gather the weights and the failed videos, the main process writes."""
        model, is_main = self.train_step.eval_model, self.group.is_main_process
        tensors = full_state_dict(model.state_dict(), is_main)
        failed: dict[str, str] = {}
        for found in self.group.all_gather(self.train_step.failed_videos):
            failed |= found
        history = self.position.history
        self.group.run_on_main(
            lambda: self.artifacts.write_epoch(history, tensors, improved, failed)
        )

    def save(self) -> None:
        """Write the state of the training; raises `DataError` (full disk)."""
        step = self.train_step
        save_state(self.folder, self.position, step.state, self.group, step.sharded)

    # --- what is reported ---------------------------------------------------------------------

    def _progress(self) -> TrainProgress:
        position, totals = self.position, self.position.totals
        clips = max(1, totals.clips)
        return TrainProgress(
            epoch=position.epoch,
            epochs=self.recipe.epochs,
            step=position.step,
            steps=self.plan.steps_per_epoch,
            loss=totals.loss / clips,
            top1=totals.correct / clips,
            lr=self.train_step.lr,
            step_time=totals.step_time / max(1, position.step),
            data_fraction=totals.data_time / max(totals.step_time, 1e-9),
            failed_videos=totals.failed,
            clips_per_step=self.plan.clips_per_step,
            val_videos=len(self.plan.split.validation.samples),
            measured_validation_time=self.validation_time,
        )

    def estimate(self) -> TrainingEstimate:
        """Time and memory of the training, from a few steps that are thrown away (`--dry-run`)."""
        batches = self._batches()
        try:
            return estimate_training(self.plan, self.train_step, batches)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _run_info(self) -> RunInfo:
        plan = self.plan
        return RunInfo(
            self.folder,
            plan.fingerprint(),
            len(plan.split.train.samples),
            len(plan.split.validation.samples),
            plan.steps,
            self.position.steps_done,
        )

    def _best(self) -> dict[str, Any] | None:
        """The row of the best epoch so far."""
        return self.position.history[self.position.best] if self.position.best >= 0 else None

    def outcome(self, ended: Ended) -> dict[str, Any]:
        """The result of a training of at least one epoch, JSON-able."""
        return {
            "ended": ENDED_IN_WORDS[ended],
            "epochs": self.position.epoch,
            "best": self._best(),
            "best_epoch_by": self.plan.best_epoch_by,
            "val_videos": len(self.plan.split.validation.samples),
            "files": self.artifacts.files(),
            "recipe": asdict(self.recipe),
            "warnings": training_warnings(self.plan, self.position.history),
        }


def _ended_by(signal_number: int) -> Ended:
    return "interrupted" if signal_number == signal.SIGINT else "terminated"
