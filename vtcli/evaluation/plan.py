"""Settles what an evaluation is going to do before any weights are downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vtcli.data.catalog import known_entry
from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Dataset, require_labels
from vtcli.evaluation.class_mapping import ClassMapping, match_heads
from vtcli.evaluation.protocol import Protocol
from vtcli.labels import load_labels
from vtcli.runtime.progress import ProgressCallback
from vtcli.video import TIMEOUT_SECONDS
from vtcli.video.decode import Backend
from vtcli.video.pipeline import parse_views
from vtcli.weights.checkpoint import HeadSpec, ModelCard
from vtcli.weights.load import KINETICS_SUBSETS, check_settings
from vtcli.weights.registry import Checkpoint, named_pipeline
from vtcli.weights.resolve import lookup


@dataclass(frozen=True)
class EvalSettings:
    """How to evaluate; None means the model's or the machine's default.

    views: CLIPSxCROPS, or "paper" for the published protocol. pipeline: another checkpoint's
    preprocessing. label_set: k400, k600 or k700 for a Kinetics-710 model. workers: decoding
    processes. timeout: seconds that decoding one file may take. strict: a video that shows signs of
    damage is a failure. resume: continue the run that the run directory holds. retry_failures:
    decode every failed sample of that run again, not only those whose failure may have been
    temporary. compile: compile the network with `torch.compile`.
    """

    views: str | None = "paper"
    pipeline: str | None = None
    label_set: str | None = None
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    timeout: float = TIMEOUT_SECONDS
    strict: bool = False
    decoder: Backend = "auto"
    resume: bool = True
    retry_failures: bool = False
    compile: bool = False


@dataclass(frozen=True)
class EvalPlan:
    """What is going to be evaluated and how.

    checkpoint: the model's card or its entry in the registry. mappings: one per head of the
    dataset. differs: how the protocol differs from the published one, "" if it does not.
    """

    dataset: Dataset
    model: str | Path
    checkpoint: ModelCard | Checkpoint
    protocol: Protocol
    settings: EvalSettings
    mappings: tuple[ClassMapping, ...]
    differs: str

    def with_precision(self, precision: str) -> EvalPlan:
        """The same at another precision."""
        protocol = replace(self.protocol, precision=precision)
        differs = _differences(self.dataset, self.checkpoint, protocol)
        return replace(self, protocol=protocol, differs=differs)

    @property
    def name(self) -> str:
        """The checkpoint's id, or the path of the file."""
        return self.checkpoint.id or str(self.model)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong about the classes."""
        return tuple(warning for mapping in self.mappings for warning in mapping.warnings)

    @property
    def reader(self) -> ClipReader:
        """Reads the clips of a sample as the protocol says."""
        p = self.protocol
        rate, decoder = self.dataset.frame_rate, self.settings.decoder
        return ClipReader(p.pipeline, p.clips, p.crops, rate, decoder, self.settings.strict)


def plan_evaluation(
    dataset: Dataset,
    model: str | Path,
    settings: EvalSettings,
    on_download: ProgressCallback | None = None,
) -> EvalPlan:
    """Settle the protocol and the classes.

    Raises `UsageError` for invalid settings, `DataError` for an empty or unlabeled dataset and for
    classes that the model does not have, and what `lookup` raises.
    """
    require_labels(dataset, "evaluate")
    checkpoint = lookup(model, on_download)
    label_set = settings.label_set
    if label_set is None and checkpoint.dataset == "k710" and dataset.name in KINETICS_SUBSETS:
        label_set = dataset.name
    check_settings(settings.precision, label_set)
    pipeline = named_pipeline(settings.pipeline, checkpoint.pipeline)
    clips, crops = parse_views(settings.views, pipeline)
    protocol = Protocol(pipeline, clips, crops, settings.precision, label_set)
    differs = _differences(dataset, checkpoint, protocol)
    mappings = match_heads(dataset, model_heads(checkpoint, label_set))
    return EvalPlan(dataset, model, checkpoint, protocol, settings, mappings, differs)


def _differences(dataset: Dataset, checkpoint: ModelCard | Checkpoint, protocol: Protocol) -> str:
    entry = known_entry(dataset.name)
    default_split = entry.default_split if entry else dataset.split
    return protocol.differences(checkpoint, dataset.name, dataset.split, default_split)


def model_heads(checkpoint: ModelCard | Checkpoint, label_set: str | None) -> list[HeadSpec]:
    """The model's classifiers with their class names, restricted to `label_set` if given."""
    if label_set is None:
        return list(checkpoint.heads)
    labels = load_labels(label_set)
    return [replace(checkpoint.heads[0], size=len(labels), labels=labels)]
