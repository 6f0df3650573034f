"""From a labeled dataset to honest figures: every view scored once and kept, on one process or
many.

Views go through the network in batches whose shape and places are fixed by the dataset's order
alone, empty places staying zero: no score depends on its neighbors, on what was scored before a
kill, or on how many processes share the work.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.data.clip_loader import Loaded, Loader, Request, workers_of
from vtcli.data.samples import Sample, labels_by_head
from vtcli.errors import DataError, OutOfMemoryError, VideoDecodeError
from vtcli.evaluation.batching import Slot, WorkUnit, make_units, slots_per_batch
from vtcli.evaluation.class_mapping import ClassMapping, match_heads
from vtcli.evaluation.plan import EvalPlan, _heads
from vtcli.evaluation.run_directory import (
    RunDirectory,
    RunSample,
    ScoreWriter,
    failure_record,
    sample_key,
    view_record,
)
from vtcli.inference.scoring import default_batch_size, forward, is_out_of_memory
from vtcli.models.build import clip_shape
from vtcli.runtime.distributed import Group
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import HeadSpec
from vtcli.weights.load import load_resolved
from vtcli.weights.resolve import resolve

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class EvalProgress:
    """How far this process is: samples, of them failed, and where its time went in seconds."""

    total: int = 0
    done: int = 0
    failed: int = 0
    decoding: float = 0.0
    computing: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since this process began to work."""
        return time.perf_counter() - self.started

    @property
    def bound(self) -> str:
        """Which of the two holds the other up."""
        return "decode-bound" if self.decoding > self.computing else "compute-bound"


class Evaluator:
    """One process's part of an evaluation.

    Making one finds the model's file and what is to be scored, the same in all processes; `run`
    loads the model and scores what is missing. The figures come from the run directory
    (`engine.tally`). `pace` is this process's, `done` counts the samples that all of them came to
    in this call, which took `seconds`.
    """

    def __init__(
        self,
        plan: EvalPlan,
        folder: Path,
        group: Group,
        on_download: ProgressCallback | None = None,
    ) -> None:
        self.plan, self.group, self.run_dir = plan, group, RunDirectory(folder)
        found = resolve(plan.model, on_download)
        digest = file_sha256(found.path)
        _require_alike(group, digest, plan)
        heads = _heads(found.card, plan.protocol.label_set)
        self.plan = replace(plan, matches=match_heads(plan.dataset, heads))
        # Keys tell files by their time of change: the first process's, for all.
        self.samples = group.broadcast(self._samples(heads) if group.is_main_process else None)
        self.about = {
            "model_sha256": digest,
            "dataset": plan.dataset.name,
            "split": plan.dataset.split,
            "protocol": plan.protocol.to_dict(),
            # What one decoder refuses another may read, so failures are one decoder's.
            "decoder": "decord" if plan.settings.decoder == "decord" else "pyav",
            "heads": [{"name": head.name, "labels": list(head.labels)} for head in heads],
        }
        self.notes = {"model": plan.name, "model_dataset": plan.known.dataset}
        self.found = found
        self.pace = EvalProgress()
        self.done = 0
        self.seconds = 0.0

    def _samples(self, heads: Sequence[HeadSpec]) -> list[RunSample]:
        """Each sample with its right classes, in the model's numbering, for each head."""
        places = [[head.name for head in heads].index(m.head) for m in self.plan.matches]
        samples = []
        for sample in self.plan.dataset.samples:
            target: list[tuple[int, ...]] = [()] * len(heads)
            for place, labels, match in zip(
                places, labels_by_head(sample, len(places)), self.plan.matches, strict=True
            ):
                target[place] = tuple(self._model_class(sample, label, match) for label in labels)
            path = str(sample.path)
            samples.append(RunSample(sample.id, path, sample_key(sample), tuple(target)))
        return samples

    def _model_class(self, sample: Sample, label: int, match: ClassMapping) -> int:
        if not 0 <= label < len(match.model_class):
            raise DataError(
                f"{sample.id} is labeled {label}, and there are {len(match.model_class)} classes; "
                "correct the annotation"
            )
        return match.model_class[label]

    def run(self, progress: Callable[[EvalProgress], None] = lambda pace: None) -> None:
        """Score every view that is not in the run directory yet; returns when all processes are
        done.

        Raises `DataError` (see `RunDirectory.claimed`; a full disk; NaN; another process gone) and
        `OutOfMemoryError`.
        """
        if not self.group.is_main_process:
            self._work(progress)
            return
        with self.run_dir.claimed(self.about, self.notes, self.plan.settings.resume):
            self.run_dir.write_samples(self.samples)
            self._work(progress)

    def _work(self, progress: Callable[[EvalProgress], None]) -> None:
        settings, views = self.plan.settings, self.plan.protocol.views
        # Nobody reads or writes scores before the first process has the folder to itself.
        self.group.broadcast(True if self.group.is_main_process else None)
        scores = self.run_dir.scores()
        # The others may write as soon as they know what is theirs, so all have to have read.
        self.group.all_gather(True)
        net: Any = None
        missing = {n: scores.missing(s.key, views) for n, s in enumerate(self.samples)}
        if any(missing.values()):
            device = self.group.device(settings.device)
            precision, label_set = self.plan.protocol.precision, self.plan.protocol.label_set
            net = load_resolved(self.found, device, precision, label_set)
            self._score_missing(net, missing, progress)
        self.done = sum(self.group.all_gather(self.pace.done))
        self.seconds = self.pace.seconds

    def _score_missing(
        self, net: Any, missing: Mapping[int, list[int]], progress: Callable[[EvalProgress], None]
    ) -> None:
        views, settings = self.plan.protocol.views, self.plan.settings
        # Of several kinds of device each would choose its own size, and cut other units.
        size = self.group.broadcast(
            settings.batch_size or default_batch_size(net, clip_shape(net.config))
        )
        places = slots_per_batch(views, size)
        units = [
            unit
            for unit in make_units(len(self.samples), views, size)
            if any(missing[sample] for sample in unit.samples)
        ][self.group.rank :: self.group.size]
        self.pace = EvalProgress(
            total=sum(bool(missing[s]) for unit in units for s in unit.samples)
        )
        progress(self.pace)
        loader = Loader(
            self.plan.reader,
            (self._requests(unit, missing) for unit in units),
            workers_of(self.plan.settings.workers, self.group.local_size),
        )
        writer = self.run_dir.writer(self.group.rank)
        try:
            for unit, (_, loaded) in zip(units, loader, strict=True):
                numbers = [n for n in unit.samples if missing[n]]
                found = dict(zip(numbers, loaded, strict=True))
                self._score_unit(net, unit, missing, found, writer, places)
                self.pace.decoding = loader.waited
                self.pace.done += len(numbers)
                progress(self.pace)
        finally:
            writer.close()

    def _requests(self, unit: WorkUnit, missing: Mapping[int, list[int]]) -> list[Request]:
        samples = self.plan.dataset.samples
        return [Request(samples[n], tuple(missing[n])) for n in unit.samples if missing[n]]

    def _score_unit(
        self,
        net: Any,
        unit: WorkUnit,
        missing: Mapping[int, list[int]],
        loaded: Mapping[int, Loaded],
        writer: ScoreWriter,
        places: int,
    ) -> None:
        """Score what is missing of a unit and write it down, batch by batch."""
        clips: dict[int, Iterator[Tensor]] = {}
        for number, found in loaded.items():
            if isinstance(found, VideoDecodeError):
                writer.add([failure_record(self.samples[number], found)])
                self.pace.failed += 1
            else:
                clips[number] = found
        for slots in unit.batches:
            wanted = {
                place: (number, view)
                for place, (number, view) in enumerate(slots)
                if number in clips and view in missing[number]
            }
            if wanted:
                start = time.perf_counter()
                batch = {place: next(clips[number]) for place, (number, _) in wanted.items()}
                rows = _score_batch(net, batch, places)
                self._write(wanted, rows, writer)
                self.pace.computing += time.perf_counter() - start

    def _write(
        self, wanted: Mapping[int, Slot], rows: Mapping[str, Tensor], writer: ScoreWriter
    ) -> None:
        records = []
        for place, (number, view) in wanted.items():
            logits = {head: values[place].numpy() for head, values in rows.items()}
            sample = self.samples[number]
            if not all(map(_finite, logits.values())):
                raise DataError(
                    f"the model answers NaN for {sample.id}; its weights are damaged, or try "
                    "--precision fp32"
                )
            records.append(view_record(sample, view, logits))
        writer.add(records)


def _require_alike(group: Group, model_digest: str, plan: EvalPlan) -> None:
    """Each process takes its share of the samples by number: all must have the same, in one order.

    Raises `DataError` in all of them where one sees another model, protocol or dataset.
    """
    samples = [
        (s.id, s.labels, s.start, s.end, s.first_frame, s.last_frame) for s in plan.dataset.samples
    ]
    said = repr((model_digest, plan.protocol, samples)).encode(errors="backslashreplace")
    if len(set(group.all_gather(hashlib.sha256(said).hexdigest()))) > 1:
        raise DataError(
            f"the processes of this run do not see the same model and the same {plan.dataset.name};"
            " give each the same files, and let nothing change them while they start"
        )


def _score_batch(net: Any, clips: Mapping[int, Tensor], places: int) -> dict[str, Tensor]:
    """Logits [places,K] per head of clips at their places; the other places are zero."""
    import torch

    first = next(iter(clips.values()))
    batch = first.new_zeros(places, *first.shape)
    for place, clip in clips.items():
        batch[place] = clip
    try:
        logits = forward(net, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{places} views of this model do not fit into memory; what was scored is kept, run "
            f"again with -b {max(1, places // 2)}"
        ) from error
    named = logits if isinstance(logits, Mapping) else {net.card.heads[0].name: logits}
    return {head: torch.as_tensor(values).float().cpu() for head, values in named.items()}


def _finite(values: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(values).all())
