"""From a labelled dataset to honest figures: every view scored once and kept, on one process or
many.

Views go through the network in batches whose shape and places are fixed by the dataset's order
alone, empty places staying zero: no score depends on its neighbours, on what was scored before a
kill, or on how many processes share the work.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli import __version__
from vtcli.data.catalogue import known_entry
from vtcli.data.loader import ClipReader, Loaded, Loader, Request, workers_of
from vtcli.data.samples import Dataset, Sample, labels_by_head, require_labels
from vtcli.engine.converter import file_sha256
from vtcli.engine.distributed import Group
from vtcli.engine.loading import (
    READ_OUTS,
    Progress,
    check_settings,
    clip_shape,
    load_resolved,
    peek,
    resolve,
)
from vtcli.engine.matching import HeadMatch, match_heads
from vtcli.engine.predictor import named_pipeline, parse_views
from vtcli.engine.protocol import Protocol
from vtcli.engine.rundir import (
    RunDirectory,
    RunSample,
    ScoreWriter,
    failure_record,
    sample_key,
    view_record,
)
from vtcli.engine.scoring import forward, is_out_of_memory, views_per_batch
from vtcli.engine.strips import frame_strip
from vtcli.engine.tally import (
    failure_rows,
    head_results,
    mistakes,
    published_figures,
    suspicions,
    tally,
    write_failures,
    write_predictions,
)
from vtcli.errors import DataError, OutOfMemoryError, VideoDecodeError
from vtcli.labels import load_labels
from vtcli.report.evaluation import EvaluationReport, as_json
from vtcli.report.html import write_html
from vtcli.video.decode import Backend
from vtcli.weights.atomic import whole_file
from vtcli.weights.registry import Checkpoint
from vtcli.weights.store import Card, CardHead

if TYPE_CHECKING:
    from torch import Tensor

Slot = tuple[int, int]  # sample and view, by number


@dataclass(frozen=True)
class Settings:
    """How to evaluate; None takes the model's or the machine's own."""

    views: str | None = "paper"
    pipeline: str | None = None
    read_as: str | None = None
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decoder: Backend = "auto"
    resume: bool = True


@dataclass
class Pace:
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


@dataclass(frozen=True)
class Plan:
    """What is going to be evaluated, settled before any weights are fetched."""

    dataset: Dataset
    model: str | Path
    known: Card | Checkpoint
    protocol: Protocol
    settings: Settings
    matches: tuple[HeadMatch, ...]
    differs: str

    @property
    def name(self) -> str:
        """The checkpoint's id, or the file."""
        return self.known.id or str(self.model)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures has to know about the classes."""
        return tuple(warning for match in self.matches for warning in match.warnings)

    @property
    def reader(self) -> ClipReader:
        """How samples become clips."""
        p = self.protocol
        rate, decoder = self.dataset.frame_rate, self.settings.decoder
        return ClipReader(p.pipeline, p.clips, p.crops, rate, decoder)


def plan_evaluation(
    dataset: Dataset, model: str | Path, settings: Settings, fetching: Progress | None = None
) -> Plan:
    """Settle protocol and classes.

    Raises `UsageError` for settings that cannot be, `DataError` for an empty or unlabelled dataset
    and for classes that are not the model's; and what `peek` raises.
    """
    require_labels(dataset, "evaluate")
    known = peek(model, fetching)
    read_as = settings.read_as
    if read_as is None and known.dataset == "k710" and dataset.name in READ_OUTS:
        read_as = dataset.name
    check_settings(settings.precision, read_as)
    pipeline = named_pipeline(settings.pipeline, known.pipeline)
    clips, crops = parse_views(settings.views, pipeline)
    protocol = Protocol(pipeline, clips, crops, settings.precision, read_as)
    entry = known_entry(dataset.name)
    usual = entry.default_split if entry else dataset.split
    differs = protocol.differences(known, known.pipeline, dataset.name, dataset.split, usual)
    matches = match_heads(dataset, _heads(known, read_as))
    return Plan(dataset, model, known, protocol, settings, matches, differs)


def _heads(known: Card | Checkpoint, read_as: str | None) -> list[CardHead]:
    """The model's classifiers with their class names, as they are going to be read."""
    if read_as is not None:
        labels = load_labels(read_as)
        return [replace(_card_heads(known)[0], size=len(labels), labels=labels)]
    return _card_heads(known)


def _card_heads(known: Card | Checkpoint) -> list[CardHead]:
    if isinstance(known, Card):
        return list(known.heads)
    return [CardHead(h.name, h.size, h.class_names(), h.confidence) for h in known.heads]


@dataclass(frozen=True)
class Unit:
    """Samples that share batches: what is scored together, whoever does it and whenever."""

    samples: range
    batches: tuple[tuple[Slot, ...], ...]


def cut_units(samples: int, views: int, batch_size: int) -> list[Unit]:
    """The fixed batches of a dataset, grouped so that no sample is in two groups.

    Where a batch holds several videos, all their views are in it; where a video has more views
    than a batch holds, they are spread evenly over as few batches as will do.
    """
    together = max(1, batch_size // views)
    count = -(-views // batch_size) if together == 1 else 1
    size = -(-together * views // count)
    units = []
    for first in range(0, samples, together):
        inside = range(first, min(first + together, samples))
        slots = [(sample, view) for sample in inside for view in range(views)]
        batches = [tuple(slots[i : i + size]) for i in range(0, len(slots), size)]
        units.append(Unit(inside, tuple(batches)))
    return units


def batch_places(views: int, batch_size: int) -> int:
    """Places of every batch that `cut_units` makes."""
    together = max(1, batch_size // views)
    return together * views if together > 1 else -(-views // -(-views // batch_size))


class Evaluator:
    """One process's part of an evaluation.

    Making one finds the model's file and what is to be scored, the same in all processes; `run`
    loads the model and scores what is missing. The figures come from the run directory
    (`engine.tally`). `pace` is this process's, `done` counts the samples that all of them came to
    in this call, which took `seconds`.
    """

    def __init__(
        self, plan: Plan, folder: Path, group: Group, fetching: Progress | None = None
    ) -> None:
        self.plan, self.group, self.run_dir = plan, group, RunDirectory(folder)
        found = resolve(plan.model, fetching)
        digest = file_sha256(found.path)
        _require_alike(group, digest, plan)
        heads = _heads(found.card, plan.protocol.read_as)
        self.plan = replace(plan, matches=match_heads(plan.dataset, heads))
        # Keys tell files by their time of change: the first process's, for all.
        self.samples = group.share(self._samples(heads) if group.leads else None)
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
        self.pace = Pace()
        self.done = 0
        self.seconds = 0.0

    def _samples(self, heads: Sequence[CardHead]) -> list[RunSample]:
        """Each sample with its right classes, in the model's numbering, for each head."""
        places = [[head.name for head in heads].index(m.head) for m in self.plan.matches]
        samples = []
        for sample in self.plan.dataset.samples:
            truth: list[tuple[int, ...]] = [()] * len(heads)
            for place, labels, match in zip(
                places, labels_by_head(sample, len(places)), self.plan.matches, strict=True
            ):
                truth[place] = tuple(self._model_class(sample, label, match) for label in labels)
            path = str(sample.path)
            samples.append(RunSample(sample.id, path, sample_key(sample), tuple(truth)))
        return samples

    def _model_class(self, sample: Sample, label: int, match: HeadMatch) -> int:
        if not 0 <= label < len(match.model_class):
            raise DataError(
                f"{sample.id} is labelled {label}, and there are {len(match.model_class)} classes; "
                "correct the annotation"
            )
        return match.model_class[label]

    def run(self, progress: Callable[[Pace], None] = lambda pace: None) -> None:
        """Score every view that is not in the run directory yet; returns when all processes are
        done.

        Raises `DataError` (see `RunDirectory.claimed`; a full disk; NaN; another process gone) and
        `OutOfMemoryError`.
        """
        if not self.group.leads:
            self._work(progress)
            return
        with self.run_dir.claimed(self.about, self.notes, self.plan.settings.resume):
            self.run_dir.write_samples(self.samples)
            self._work(progress)

    def _work(self, progress: Callable[[Pace], None]) -> None:
        settings, views = self.plan.settings, self.plan.protocol.views
        # Nobody reads or writes scores before the first process has the folder to itself.
        self.group.share(True if self.group.leads else None)
        scores = self.run_dir.scores()
        # The others may write as soon as they know what is theirs, so all have to have read.
        self.group.gather(True)
        net: Any = None
        missing = {n: scores.missing(s.key, views) for n, s in enumerate(self.samples)}
        if any(missing.values()):
            device = self.group.device(settings.device)
            precision, read_as = self.plan.protocol.precision, self.plan.protocol.read_as
            net = load_resolved(self.found, device, precision, read_as)
            self._score_missing(net, missing, progress)
        self.done = sum(self.group.gather(self.pace.done))
        self.seconds = self.pace.seconds

    def _score_missing(
        self, net: Any, missing: Mapping[int, list[int]], progress: Callable[[Pace], None]
    ) -> None:
        views, settings = self.plan.protocol.views, self.plan.settings
        # Of several kinds of device each would choose its own size, and cut other units.
        size = self.group.share(settings.batch_size or views_per_batch(net, clip_shape(net.config)))
        places = batch_places(views, size)
        units = [
            unit
            for unit in cut_units(len(self.samples), views, size)
            if any(missing[sample] for sample in unit.samples)
        ][self.group.rank :: self.group.size]
        self.pace = Pace(total=sum(bool(missing[s]) for unit in units for s in unit.samples))
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

    def _requests(self, unit: Unit, missing: Mapping[int, list[int]]) -> list[Request]:
        samples = self.plan.dataset.samples
        return [Request(samples[n], tuple(missing[n])) for n in unit.samples if missing[n]]

    def _score_unit(
        self,
        net: Any,
        unit: Unit,
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


def _require_alike(group: Group, model_digest: str, plan: Plan) -> None:
    """Each process takes its share of the samples by number: all must have the same, in one order.

    Raises `DataError` in all of them where one sees another model, protocol or dataset.
    """
    samples = [
        (s.id, s.labels, s.start, s.end, s.first_frame, s.last_frame) for s in plan.dataset.samples
    ]
    said = repr((model_digest, plan.protocol, samples)).encode(errors="backslashreplace")
    if len(set(group.gather(hashlib.sha256(said).hexdigest()))) > 1:
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


def conclude(evaluator: Evaluator, mistakes_shown: int = 24) -> EvaluationReport:
    """The figures of a finished run, written into its directory: summary.json, predictions.csv,
    failures.csv and report.html.
    """
    plan, run = evaluator.plan, evaluator.run_dir
    found = tally(run)
    results, action = head_results(found)
    samples = {sample.id: sample for sample in plan.dataset.samples}
    shown = [
        replace(mistake, frames=frames, times=times)
        for sample, mistake in mistakes(found, mistakes_shown)
        for frames, times in [frame_strip(plan.reader, samples[sample.id])]
    ]
    known = plan.known
    fits = plan.dataset.name == known.dataset
    report = EvaluationReport(
        title=f"{plan.name} on {plan.dataset.name}",
        model=plan.name,
        dataset=plan.dataset.name,
        split=plan.dataset.split,
        protocol=plan.protocol.in_words(),
        differs=plan.differs,
        published=published_figures(known.top1, known.top5, known.metric_source) if fits else None,
        expected=found.expected,
        read=len(found.read),
        failed=len(found.failed),
        heads=results,
        action=action,
        warnings=(*plan.warnings, *suspicions(results)),
        failures=failure_rows(found),
        mistakes=tuple(shown),
        seconds=evaluator.seconds if evaluator.done == found.expected else 0.0,
        settings=_settings(evaluator),
    )
    text = as_json(report.to_dict())
    with whole_file(run.folder / "summary.json", len(text)) as part:
        part.write_text(text, encoding="utf-8")
    write_predictions(found, run.folder / "predictions.csv")
    write_failures(found, run.folder / "failures.csv")
    write_html(report, run.folder / "report.html")
    return report


def _settings(evaluator: Evaluator) -> dict[str, str]:
    """What a reader of the report needs to run it again."""
    plan = evaluator.plan
    return {
        "checkpoint": plan.name,
        "weights (sha256)": str(evaluator.about["model_sha256"]),
        "dataset": plan.dataset.understood,
        "views": f"{plan.protocol.clips}x{plan.protocol.crops}",
        "precision": plan.protocol.precision,
        "vtcli": __version__,
    }
