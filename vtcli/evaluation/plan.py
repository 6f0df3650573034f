"""TODO-HEAD"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtcli.data.catalog import known_entry
from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Dataset, require_labels
from vtcli.evaluation.class_mapping import ClassMapping, match_heads
from vtcli.evaluation.protocol import Protocol
from vtcli.labels import load_labels
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.decode import Backend
from vtcli.video.pipeline import parse_views
from vtcli.weights.checkpoint import HeadSpec, ModelCard
from vtcli.weights.load import KINETICS_SUBSETS, check_settings
from vtcli.weights.registry import Checkpoint, named_pipeline
from vtcli.weights.resolve import lookup

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class EvalSettings:
    """How to evaluate; None takes the model's or the machine's own."""

    views: str | None = "paper"
    pipeline: str | None = None
    label_set: str | None = None
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decoder: Backend = "auto"
    resume: bool = True


@dataclass(frozen=True)
class EvalPlan:
    """What is going to be evaluated, settled before any weights are fetched."""

    dataset: Dataset
    model: str | Path
    known: ModelCard | Checkpoint
    protocol: Protocol
    settings: EvalSettings
    matches: tuple[ClassMapping, ...]
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
    dataset: Dataset,
    model: str | Path,
    settings: EvalSettings,
    on_download: ProgressCallback | None = None,
) -> EvalPlan:
    """Settle protocol and classes.

    Raises `UsageError` for settings that cannot be, `DataError` for an empty or unlabeled dataset
    and for classes that are not the model's; and what `lookup` raises.
    """
    require_labels(dataset, "evaluate")
    known = lookup(model, on_download)
    label_set = settings.label_set
    if label_set is None and known.dataset == "k710" and dataset.name in KINETICS_SUBSETS:
        label_set = dataset.name
    check_settings(settings.precision, label_set)
    pipeline = named_pipeline(settings.pipeline, known.pipeline)
    clips, crops = parse_views(settings.views, pipeline)
    protocol = Protocol(pipeline, clips, crops, settings.precision, label_set)
    entry = known_entry(dataset.name)
    usual = entry.default_split if entry else dataset.split
    differs = protocol.differences(known, known.pipeline, dataset.name, dataset.split, usual)
    matches = match_heads(dataset, _heads(known, label_set))
    return EvalPlan(dataset, model, known, protocol, settings, matches, differs)


def _heads(known: ModelCard | Checkpoint, label_set: str | None) -> list[HeadSpec]:
    """The model's classifiers with their class names, as they are going to be read."""
    if label_set is not None:
        labels = load_labels(label_set)
        return [replace(known.heads[0], size=len(labels), labels=labels)]
    return list(known.heads)
