"""The model card of a converted file: what the registry, its repository and its tensors say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from vtcli._version import __version__
from vtcli.errors import DataError
from vtcli.labels import load_labels, unverified_labels
from vtcli.labels.heads import HeadSpec
from vtcli.labels.label_file import read_label_file
from vtcli.models import Architecture
from vtcli.models.build import clip_shape, head_sizes
from vtcli.models.layouts import Layout
from vtcli.video.pipeline import Pipeline
from vtcli.weights.card_check import check_card
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.class_order import CheckpointOrigin
from vtcli.weights.formats.transformers_repo import Stated
from vtcli.weights.model_config import pipeline_for
from vtcli.weights.registry import Checkpoint, Registry
from vtcli.weights.repository import HUB_PREFIX
from vtcli.weights.transformers_form import with_own_card

# Fields that no tensor shows and that do not make it another model.
_NOT_IN_SHAPES = ("num_frames", "dropout", "global_dropout", "drop_path", "global_drop_path")


@dataclass(frozen=True)
class Converted:
    """What a conversion has found out: where the tensors come from and what they are.

    permutation: from the class order of the file to ours; tensors: ours, in our order.
    """

    src: str | Path
    origin: CheckpointOrigin
    architecture: Architecture
    config: Any
    layout: Layout
    permutation: str
    tensors: Mapping[str, Tensor]


def make_card(done: Converted, labels: str | Path | None, registry: Registry) -> ModelCard:
    """The model card; `labels` are names given for it, else those of the entry or repository.

    A card of ours that the repository has counts where it describes these tensors. Raises
    `DataError` for a card that no command would read.
    """
    card, stated = _new_card(done, labels, registry), done.origin.stated
    if done.origin.entry is None and labels is None and stated is not None:
        card = with_own_card(stated, card, done.tensors)
    try:
        check_card(card, {name: {"shape": list(t.shape)} for name, t in done.tensors.items()})
    except ValueError as error:
        raise DataError(f"{done.src} cannot be converted: {error}; correct that first") from error
    return card


def _new_card(done: Converted, labels: str | Path | None, registry: Registry) -> ModelCard:
    entry, source, stated = done.origin.entry, done.origin.source, done.origin.stated
    architecture, config = done.architecture, done.config
    license_ = (source.license if source is not None else "") or (entry.license if entry else "")
    default = registry.find(architecture.name) if entry is None else entry
    card = ModelCard(
        id=entry.id if entry is not None else "",
        arch=architecture.name,
        model=entry.model if entry is not None else _preset_name(architecture, config),
        config=asdict(config),
        heads=_heads(done, labels),
        pipeline=_pipeline(done, default),
        source={
            "address": source.address if source is not None else _address(done),
            "sha256": done.origin.sha256,
            "bytes": done.origin.size,
            "layout": done.layout.name,
            "permutation": done.permutation,
            "license": license_,
            **(_facts(stated, config.num_classes > 0) if stated and entry is None else {}),
        },
        notes=stated.summary if stated is not None else "",
        created_with=f"vtcli {__version__}",
    )
    if entry is None:
        return card
    facts = ("dataset", "pretrain", "top1", "top5", "metric", "metric_source", "license", "notes")
    return replace(card, **{name: getattr(entry, name) for name in facts})


def _preset_name(architecture: Architecture, config: Any) -> str:
    """The published model with this configuration; "" if there is none."""
    free = ("num_classes", *_NOT_IN_SHAPES)
    for name, preset in architecture.presets.items():
        same = {f: getattr(preset, f) for f in asdict(config) if f in free}
        if replace(config, **same) == preset:
            return name
    return ""


def remarks(card: ModelCard) -> list[str]:
    """What to tell about the repository that a card was made from."""
    # Notes of other cards are of the checkpoint, not of how its repository is read.
    notes = card.notes if "facts" in card.source else ""
    return [text for text in (notes, *card.source.get("warnings", ())) if text]


def with_warnings(card: ModelCard, sentences: Sequence[str]) -> ModelCard:
    """A card that also says these sentences about its repository."""
    if not sentences:
        return card
    warnings = [*card.source.get("warnings", ()), *(f"warning: {text}" for text in sentences)]
    return replace(card, source={**card.source, "warnings": warnings})


def _facts(stated: Stated, has_classifier: bool) -> dict[str, Any]:
    facts = {k: v for k, v in stated.facts.items() if has_classifier or k != "labels"}
    table: dict[str, Any] = {"facts": facts}
    warnings = [f"warning: {text}" for text in stated.warnings]
    return table | ({"warnings": warnings} if warnings else {})


def _address(done: Converted) -> str:
    """Where the file came from; of a folder only its name, as a pushed card shows it to others."""
    stated = done.origin.stated
    is_hub = stated is not None and stated.place.startswith(HUB_PREFIX)
    return stated.place if stated is not None and is_hub else Path(done.src).resolve().name


def _pipeline(done: Converted, default: Checkpoint) -> Pipeline:
    """The entry's, the repository's at the clip of the configuration, or the architecture's."""
    entry, stated = done.origin.entry, done.origin.stated
    if entry is not None:
        return entry.pipeline
    own = pipeline_for(default, done.config)
    if stated is None or stated.pipeline is None:
        return own
    _, frames, size, _ = clip_shape(done.config)
    if stated.pipeline.crop_size == size:
        return replace(stated.pipeline, frames=frames)
    return replace(own, view_fusion=stated.pipeline.view_fusion)


def _heads(done: Converted, labels: str | Path | None) -> tuple[HeadSpec, ...]:
    entry, config, stated = done.origin.entry, done.config, done.origin.stated
    if not config.num_classes:
        return ()
    sizes = head_sizes(config)
    if labels is not None:
        names, confidence = _named_labels(labels)
        if len(names) != config.num_classes:
            raise DataError(
                f"the labels {labels} are {len(names)} names, but the checkpoint has "
                f"{config.num_classes} classes; give one name per class"
            )
        rest = iter(names)
        return tuple(HeadSpec(n, k, tuple(islice(rest, k)), confidence) for n, k in sizes)
    if entry is None and stated is not None and stated.labels:
        if len(stated.labels) != config.num_classes:
            raise DataError(
                f"{done.src} names {len(stated.labels)} classes ({stated.confidence}), but its "
                f"classifier has {config.num_classes}; give their names: vt convert {done.src} "
                "--labels FILE -o model.safetensors"
            )
        return (HeadSpec(sizes[0][0], config.num_classes, stated.labels, stated.confidence),)
    if entry is not None:
        return tuple(replace(h, confidence=h.confidence or "unverified") for h in entry.heads)
    return tuple(HeadSpec(n, size, unverified_labels(size), "unverified") for n, size in sizes)


def with_given_classes(origin: CheckpointOrigin, labels: str | Path | None) -> CheckpointOrigin:
    """The origin of a file with classes of its own: its entry without id, scores and dataset.

    A head that was fine-tuned elsewhere has other classes than the entry: frames, protocol and
    structure stay those of the entry.
    """
    entry = origin.entry
    if labels is None or entry is None or len(entry.heads) > 1:
        return origin
    names, confidence = _named_labels(labels)
    if sorted(names) == sorted(entry.labels):
        return origin
    head = HeadSpec(entry.heads[0].name, len(names), names, confidence)
    own = replace(
        entry,
        id="",
        heads=(head,),
        dataset="",
        top1=None,
        top5=None,
        metric_source="",
        notes=f"Fine-tuned from the structure of {entry.id}.",
    )
    return replace(origin, entry=own, source=None)


def describe_labels(card: ModelCard, labels: str | Path | None) -> str:
    """Where the class names come from; for those of a file, how it was read and the first ones."""
    if not card.heads:
        return "no classifier"
    text = card.heads[0].confidence or "order not stated"
    if labels is not None and Path(labels).is_file():
        text += f", {read_label_file(Path(labels)).describe()}"
    return text


def _named_labels(labels: str | Path) -> tuple[tuple[str, ...], str]:
    """Class names from a file or a list of the package, and their source."""
    path = Path(labels)
    names = read_label_file(path).names if path.is_file() else load_labels(str(labels))
    return names, f"given: {path.name}"
