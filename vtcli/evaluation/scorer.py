"""Scores the missing views of one process's work units and appends them to the run directory.

Views go through the network in batches whose shape and slots depend on the order of the dataset
alone (batching.py); empty slots are zero. A score therefore depends neither on its neighbors nor
on what was scored before an interruption nor on the number of processes.

Shape legend: S slots of a batch, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias

from vtcli.data.clip_loader import Loader, Request, workers_of
from vtcli.errors import DataError, OutOfMemoryError
from vtcli.evaluation.plan import EvalPlan
from vtcli.evaluation.run_directory import RunSample
from vtcli.evaluation.scores import (
    SampleFailure,
    ScoreWriter,
    failure_record,
    view_record,
)
from vtcli.inference.batching import make_units, slots_per_batch
from vtcli.inference.device_batches import batches_for
from vtcli.inference.scoring import default_batch_size
from vtcli.inference.stream import Event, Failed, Opened, Scored, ViewStream
from vtcli.models.build import clip_shape
from vtcli.models.protocol import VideoModel
from vtcli.runtime.distributed import Group
from vtcli.video.decode_pool import DecodePool

MissingViews: TypeAlias = Mapping[int, tuple[int, ...]]
"""Number of a sample -> the numbers of its views to score; samples without any are left out."""


@dataclass
class EvalProgress:
    """Progress of this process: samples done, of them failed, and where time is spent (seconds).

    `damaged` holds the warnings of samples that show signs of damage and were scored all the same.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    decode_wait: float = 0.0
    compute: float = 0.0
    damaged: dict[str, tuple[str, ...]] = field(default_factory=dict)
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
            total=sum(sample in missing for unit in units for sample in unit.samples)
        )
        on_progress(self.progress)
        workers = workers_of(settings.workers, self.group.local_size)
        requests = (
            self._request(n, missing[n]) for unit in units for n in unit.samples if n in missing
        )
        with closing(self.writer), DecodePool(workers, settings.timeout) as decoders:
            loader = Loader(self.plan.reader, requests, workers + 1, decoders.open)
            loader.ahead = batch_size // views + 2 * loader.workers
            batches = batches_for(self.model, self.plan.protocol.pipeline)
            stream = ViewStream(batches, loader, slots)
            with closing(stream.run(units, missing)) as events:
                self._record(events, missing, stream, on_progress)

    def _request(self, number: int, views: tuple[int, ...]) -> list[Request]:
        # Its key is computed now, so that it cannot be that of a file which changes afterwards.
        _ = self.samples[number]
        return [Request(self.plan.dataset.samples[number], views)]

    def _record(
        self,
        events: Iterator[Event],
        missing: MissingViews,
        stream: ViewStream,
        on_progress: ProgressHook,
    ) -> None:
        """Write what becomes of the samples as it comes."""
        left = {number: len(views) for number, views in missing.items()}
        try:
            for event in events:
                if isinstance(event, Failed):
                    sample = self.samples[event.sample]
                    failure = SampleFailure.from_error(event.error)
                    self.writer.add([failure_record(sample.key, sample.id, failure)])
                    self.progress.failed += 1
                    self.progress.done += 1
                elif isinstance(event, Opened):
                    if warnings := event.loaded.source.warnings:
                        self.progress.damaged[self.samples[event.sample].id] = warnings
                elif isinstance(event, Scored):
                    self._write(event)
                    for index in event.views:
                        left[index.sample] -= 1
                        self.progress.done += not left[index.sample]
                self.progress.decode_wait = stream.loader.waited
                self.progress.compute = stream.computing
                if not isinstance(event, Opened):
                    on_progress(self.progress)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{error}; the scores so far are saved") from error

    def _write(self, scored: Scored) -> None:
        records = []
        for index, logits in zip(scored.views, scored.logits, strict=True):
            sample = self.samples[index.sample]
            if not all(values.isfinite().all() for values in logits.values()):
                raise DataError(
                    f"the model predicts NaN for {sample.id}; check its weights, or run again with "
                    "--precision fp32"
                )
            of_view = {head: values.numpy() for head, values in logits.items()}
            warnings = self.progress.damaged.get(sample.id, ())
            records.append(view_record(sample.key, sample.id, index.view, of_view, warnings))
        self.writer.add(records)
