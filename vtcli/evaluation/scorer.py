"""Scores the missing views of one process's work units and appends them to the run directory.

Views go through the network in batches whose shape and slots depend on the order of the dataset
alone (batching.py); empty slots are zero. A score therefore depends neither on its neighbors nor
on what was scored before an interruption nor on the number of processes.

Shape legend: S slots of a batch, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from vtcli.data.clip_loader import Loaded, Loader, Request, workers_of
from vtcli.errors import DataError, OutOfMemoryError, VideoDecodeError
from vtcli.evaluation.batching import ViewIndex, WorkUnit, make_units, slots_per_batch
from vtcli.evaluation.plan import EvalPlan
from vtcli.evaluation.run_directory import RunSample
from vtcli.evaluation.scores import (
    SampleFailure,
    ScoreWriter,
    failure_record,
    view_record,
)
from vtcli.inference.scoring import default_batch_size, forward, is_out_of_memory
from vtcli.models.build import clip_shape
from vtcli.models.protocol import VideoModel
from vtcli.runtime.distributed import Group

if TYPE_CHECKING:
    from torch import Tensor

MissingViews: TypeAlias = Mapping[int, tuple[int, ...]]
"""Number of a sample -> the numbers of its views to score; samples without any are left out."""


@dataclass
class EvalProgress:
    """Progress of this process: samples done, of them failed, and where time is spent (seconds)."""

    total: int = 0
    done: int = 0
    failed: int = 0
    decode_wait: float = 0.0
    compute: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since this process started scoring."""
        return time.perf_counter() - self.started

    @property
    def bound(self) -> str:
        """Which of decoding and computing is the bottleneck."""
        return "decode-bound" if self.decode_wait > self.compute else "compute-bound"


ProgressHook: TypeAlias = Callable[[EvalProgress], None]


class Scorer:
    """Scores views with a loaded model; `progress` is this process's."""

    def __init__(
        self,
        model: VideoModel,
        plan: EvalPlan,
        samples: Sequence[RunSample],
        group: Group,
        writer: ScoreWriter,
    ) -> None:
        self.model, self.plan, self.samples = model, plan, samples
        self.group, self.writer = group, writer
        self.progress = EvalProgress()

    def run(self, missing: MissingViews, on_progress: ProgressHook) -> None:
        """Score this process's part of the missing views; closes the writer.

        Raises `DataError` for NaN scores and a full disk, `OutOfMemoryError`.
        """
        views, settings = self.plan.protocol.views, self.plan.settings
        # On different kinds of devices each process would choose another size and other units.
        batch_size = self.group.broadcast(
            settings.batch_size or default_batch_size(self.model, clip_shape(self.model.config))
        )
        slots = slots_per_batch(views, batch_size)
        units = [
            unit
            for unit in make_units(len(self.samples), views, batch_size)
            if any(sample in missing for sample in unit.samples)
        ][self.group.rank :: self.group.size]
        self.progress = EvalProgress(
            total=sum(s in missing for unit in units for s in unit.samples)
        )
        on_progress(self.progress)
        loader = Loader(
            self.plan.reader,
            (self._requests(unit, missing) for unit in units),
            workers_of(settings.workers, self.group.local_size),
        )
        try:
            for unit, (_, loaded) in zip(units, loader, strict=True):
                numbers = [n for n in unit.samples if n in missing]
                clips = self._readable(dict(zip(numbers, loaded, strict=True)))
                self._score_unit(unit, missing, clips, slots)
                self.progress.decode_wait = loader.waited
                self.progress.done += len(numbers)
                on_progress(self.progress)
        finally:
            self.writer.close()

    def _requests(self, unit: WorkUnit, missing: MissingViews) -> list[Request]:
        samples = self.plan.dataset.samples
        return [Request(samples[n], missing[n]) for n in unit.samples if n in missing]

    def _readable(self, loaded: Mapping[int, Loaded]) -> dict[int, Iterator[Tensor]]:
        """The clips of each sample that could be read; the failures of the others are recorded."""
        clips = {}
        for number, result in loaded.items():
            if isinstance(result, VideoDecodeError):
                sample, failure = self.samples[number], SampleFailure.from_error(result)
                self.writer.add([failure_record(sample.key, sample.id, failure)])
                self.progress.failed += 1
            else:
                clips[number] = result
        return clips

    def _score_unit(
        self,
        unit: WorkUnit,
        missing: MissingViews,
        clips: Mapping[int, Iterator[Tensor]],
        slots: int,
    ) -> None:
        """Score the missing views of a unit and write them, batch by batch."""
        for batch in unit.batches:
            wanted = {
                slot: index
                for slot, index in enumerate(batch)
                if index.sample in clips and index.view in missing[index.sample]
            }
            if wanted:
                start = time.perf_counter()
                by_slot = {slot: next(clips[index.sample]) for slot, index in wanted.items()}
                self._write(wanted, score_batch(self.model, by_slot, slots))
                self.progress.compute += time.perf_counter() - start

    def _write(self, wanted: Mapping[int, ViewIndex], logits: Mapping[str, Tensor]) -> None:
        records = []
        for slot, index in wanted.items():
            sample = self.samples[index.sample]
            if not all(logits_SK[slot].isfinite().all() for logits_SK in logits.values()):
                raise DataError(
                    f"the model predicts NaN for {sample.id}; check its weights, or run again with "
                    "--precision fp32"
                )
            of_view = {head: logits_SK[slot].numpy() for head, logits_SK in logits.items()}
            records.append(view_record(sample.key, sample.id, index.view, of_view))
        self.writer.add(records)


def score_batch(model: VideoModel, clips: Mapping[int, Tensor], slots: int) -> dict[str, Tensor]:
    """Logits [S,K] per head of clips given by slot; all other slots are zero."""
    import torch

    first = next(iter(clips.values()))
    batch = first.new_zeros(slots, *first.shape)
    for slot, clip in clips.items():
        batch[slot] = clip
    try:
        logits = forward(model, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"a batch of {slots} views does not fit into memory; the scores so far are saved, run "
            f"again with -b {max(1, slots // 2)}"
        ) from error
    by_head = logits if isinstance(logits, Mapping) else {model.card.heads[0].name: logits}
    return {head: torch.as_tensor(values).float().cpu() for head, values in by_head.items()}
