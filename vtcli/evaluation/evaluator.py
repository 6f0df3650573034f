"""The accuracy of a model on a labeled dataset: every view is scored once and stored.

One process does it alone, or several share the work (torchrun); the results are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import cast

from vtcli.data.samples import Sample, labels_by_head
from vtcli.errors import DataError
from vtcli.evaluation.aggregate import stored_protocol
from vtcli.evaluation.class_mapping import ClassMapping, match_heads
from vtcli.evaluation.conclude import conclude
from vtcli.evaluation.plan import EvalPlan, model_heads
from vtcli.evaluation.results import EvaluationReport
from vtcli.evaluation.run_directory import HeadTargets, RunDirectory, RunSample
from vtcli.evaluation.run_samples import RunSamples
from vtcli.evaluation.scorer import EvalProgress, MissingViews, ProgressHook, Scorer
from vtcli.inference.compiled import compiled
from vtcli.models.protocol import VideoModel
from vtcli.runtime.distributed import Group
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import HeadSpec
from vtcli.weights.load import load_resolved, resolved_precision
from vtcli.weights.resolve import resolve

# Thousands of samples that are stored before the first is scored: half a second.
STORED_AT_ONCE = 50


class Evaluator:
    """One process's part of an evaluation.

    The constructor finds the weights (downloading them if necessary) and what to score, equal in
    all processes; `run` loads the model and scores what the run directory lacks; `conclude`
    computes the metrics from the run directory. `progress` is this process's; `done` counts the
    samples that all processes handled in `run`, and `seconds` is how long that took.
    """

    def __init__(
        self,
        plan: EvalPlan,
        folder: Path,
        group: Group | None = None,
        on_download: ProgressCallback | None = None,
    ) -> None:
        self.group, self.run_dir = group or Group(), RunDirectory(folder)
        self.checkpoint = resolve(plan.model, on_download)
        digest = file_sha256(self.checkpoint.path)
        plan = plan.with_precision(self._precision(plan))
        _require_same_inputs(self.group, digest, plan)
        heads = model_heads(self.checkpoint.card, plan.protocol.label_set)
        self.plan = replace(plan, mappings=match_heads(plan.dataset, heads))
        # Keys depend on file times, which processes may see differently: rank 0 decides.
        samples: Sequence[RunSample] = self._samples(heads)
        if self.group.size > 1:
            samples = self.group.broadcast(list(samples) if self.group.is_main_process else None)
        self.samples = samples
        thresholds = self.checkpoint.card.thresholds
        self.fingerprint = {
            "model_sha256": digest,
            "dataset": plan.dataset.name,
            "split": plan.dataset.split,
            "protocol": plan.protocol.to_dict(),
            # One decoder may read what the other refuses, so failures belong to a decoder.
            "decoder": "decord" if plan.settings.decoder == "decord" else "pyav",
            **({"strict": True} if plan.settings.strict else {}),
            **({"compile": True} if plan.settings.compile else {}),
            "heads": [
                {"name": head.name, "labels": list(head.labels), **_threshold(thresholds, head)}
                for head in heads
            ],
        }
        self.metadata = {"model": plan.name, "model_dataset": plan.checkpoint.dataset}
        self.progress = EvalProgress()
        self.done = 0
        self.seconds = 0.0

    def _precision(self, plan: EvalPlan) -> str:
        """What `auto` stands for: the precision of the run that is resumed, else this machine's."""
        asked = plan.protocol.precision
        if asked != "auto":
            return asked
        stored: str | None = None
        if self.group.is_main_process:
            with suppress(DataError):  # there is no run yet
                stored = stored_protocol(self.run_dir.info).precision
            device = self.group.device(plan.settings.device)
            stored = stored or resolved_precision(self.checkpoint.card, device, asked)
        return self.group.broadcast(stored)

    def _samples(self, heads: Sequence[HeadSpec]) -> RunSamples:
        """Each sample with its targets, in the model's numbering, for each head."""
        names = [head.name for head in heads]
        positions = [names.index(mapping.head) for mapping in self.plan.mappings]

        def target_of(sample: Sample) -> HeadTargets:
            target: list[tuple[int, ...]] = [()] * len(heads)
            by_head = labels_by_head(sample, len(positions))
            for position, labels, mapping in zip(
                positions, by_head, self.plan.mappings, strict=True
            ):
                target[position] = tuple(_model_class(sample, label, mapping) for label in labels)
            return tuple(target)

        targets: dict[tuple[int, ...], HeadTargets] = {}
        for sample in self.plan.dataset.samples:
            if sample.labels not in targets:
                targets[sample.labels] = target_of(sample)
        return RunSamples(self.plan.dataset.samples, targets)

    def run(self, on_progress: ProgressHook = lambda progress: None) -> None:
        """Score every view that the run directory lacks; returns when all processes are done.

        Of a new run with many samples, those after the first `STORED_AT_ONCE` thousand are stored
        while views are scored. Raises `DataError` (see `RunDirectory.locked`; also a full disk, NaN
        scores, or the loss of another process) and `OutOfMemoryError`.
        """
        if not self.group.is_main_process:
            self._work(on_progress)
            return
        with self.run_dir.locked(self.fingerprint, self.metadata, self.plan.settings.resume):
            storing = self.run_dir.storing(self.samples)

            def store_and_report(progress: EvalProgress) -> None:
                next(storing, None)
                on_progress(progress)

            at_once = self.group.size > 1 or self.run_dir.holds_samples
            store(storing, None if at_once else STORED_AT_ONCE)
            self._work(store_and_report)
            store(storing, None)

    def _work(self, on_progress: ProgressHook) -> None:
        # The broadcast also keeps the other processes waiting until rank 0 has locked the folder.
        missing = self.group.broadcast(
            self._missing_views() if self.group.is_main_process else None
        )
        if missing:
            protocol, settings = self.plan.protocol, self.plan.settings
            net = load_resolved(
                self.checkpoint,
                self.group.device(settings.device),
                protocol.precision,
                protocol.label_set,
                packed=not settings.compile,
            )
            model = cast(VideoModel, net)
            if settings.compile:
                model = compiled(model)
            writer = self.run_dir.writer(self.group.rank)
            scorer = Scorer(model, self.plan, self.samples, self.group, writer)
            scorer.run(missing, on_progress)
            self.progress = scorer.progress
        self.done = sum(self.group.all_gather(self.progress.done))
        self.seconds = self.progress.seconds

    def _missing_views(self) -> MissingViews:
        """What is to be scored, decided by rank 0: processes may see the files differently."""
        views, retry = self.plan.protocol.views, self.plan.settings.retry_failures
        scores = self.run_dir.scores()
        if not (scores.views or scores.failures):
            return dict.fromkeys(range(len(self.samples)), tuple(range(views)))
        missing = {n: scores.missing(s.key, views, retry) for n, s in enumerate(self.samples)}
        return {number: wanted for number, wanted in missing.items() if wanted}

    def conclude(self) -> EvaluationReport:
        """Compute the metrics of the finished run and write them into its directory.

        Raises `DataError` if the run is not finished. Call it in the main process only.
        """
        seconds = self.seconds if self.done == len(self.samples) else 0.0
        return conclude(self.plan, self.run_dir, seconds)


def store(storing: Iterator[None], steps: int | None) -> None:
    """Go on with `RunDirectory.storing`, by so many steps, or to the end (None)."""
    for _ in islice(storing, steps):
        pass


def _model_class(sample: Sample, label: int, mapping: ClassMapping) -> int:
    if not 0 <= label < len(mapping.model_class):
        raise DataError(
            f"{sample.id} has label {label}, but there are {len(mapping.model_class)} classes; "
            "correct the annotation"
        )
    return mapping.model_class[label]


def _require_same_inputs(group: Group, model_digest: str, plan: EvalPlan) -> None:
    """Processes take samples by number, so all must have the same samples in the same order.

    Raises `DataError` in all of them if one sees another model, protocol or dataset.
    """
    shared = attrgetter("id", "labels", "start", "end", "first_frame", "last_frame")
    samples = list(map(shared, plan.dataset.samples))
    inputs = repr((model_digest, plan.protocol, samples)).encode(errors="backslashreplace")
    if len(set(group.all_gather(hashlib.sha256(inputs).hexdigest()))) > 1:
        raise DataError(
            f"the processes of this run do not see the same model and the same {plan.dataset.name};"
            " give each of them the same files, and do not change them while they start"
        )


def _threshold(thresholds: Mapping[str, float], head: HeadSpec) -> dict[str, float]:
    """The threshold of a head whose classes do not exclude each other."""
    return {"threshold": thresholds[head.name]} if head.name in thresholds else {}
