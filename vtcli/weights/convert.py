"""From an upstream checkpoint file to our safetensors.

Nothing is skipped silently: a missing, unexpected or mis-shaped tensor is an error, and so is NaN.
The classes of the file are brought to the order of its registry entry; where no source states the
file's order, the labels say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from vtcli._version import __version__
from vtcli.errors import DataError, DigestError, LayoutError, UsageError
from vtcli.labels import load_labels, unverified_labels
from vtcli.labels.heads import HeadSpec
from vtcli.labels.label_file import read_label_file
from vtcli.models import Architecture, get_architecture, list_architectures
from vtcli.models.build import build_on_meta, check_state_dict, format_names, head_sizes
from vtcli.models.layouts import Layout, Mapped, from_vt, to_vt
from vtcli.runtime.files import file_sha256
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, tensor_digest, write_checkpoint
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.formats.readers import RawCheckpoint, checkpoint_files, read_checkpoint
from vtcli.weights.model_config import config_for, pipeline_for
from vtcli.weights.registry import Checkpoint, Registry, load_registry

# Fields that no tensor shows and that do not make it another model.
_NOT_IN_SHAPES = ("num_frames", "dropout", "global_dropout", "drop_path", "global_drop_path")


class Reading(TypedDict, total=False):
    """How to read a file; ema: take the EMA weights of a training checkpoint, not the raw ones."""

    ema: bool


@dataclass
class ConversionReport:
    """What a conversion did, tensor by tensor."""

    source: str
    output: str
    arch: str
    model: str
    layout: str
    wrapper_keys: str
    tensors_read: int
    tensors_written: int
    renamed: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    permutation: str
    labels: str
    sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)
    verified: int = 0
    tensors_sha256: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)


def convert(
    src: str | Path,
    dst: str | Path,
    model: str | None = None,
    layout: str = "auto",
    labels: str | Path | None = None,
    verify: bool = False,
    registry: Registry | None = None,
    origin: CheckpointOrigin | None = None,
    **reading: Unpack[Reading],
) -> ConversionReport:
    """Convert an upstream checkpoint file to our safetensors.

    model: the checkpoint id, which gives class order, frame count and all else that the weights do
        not show; without it, the entry with the file's sha256 is used, if there is one.
    labels: the class names in the file's own order: a file (`vtcli.labels.label_file`), or the
        name of a list.
    verify: also check that converting back gives the file's tensors bit for bit.
    origin: what a caller that has just downloaded the file knows of it; saves hashing it again.
    reading: how to read the file, see `Reading`.

    Raises `LayoutError` for tensors that do not fit the model, `DataError` for NaN or for labels
    that do not fit.
    """
    src, dst = Path(src), Path(dst)
    registry = registry or load_registry()
    if model is not None:
        registry.find(model)  # an unknown name is reported before the file is read
    contents = read_checkpoint(src, fits_a_layout, reading.get("ema", False))
    if CARD_KEY in contents.metadata:
        raise UsageError(
            f"{src} is already converted; use --to to write it in an upstream's layout"
        )
    origin = origin or _identify(src, model, registry)
    architecture, found = find_layout(contents.tensors, origin.entry, layout, src)
    tensors_read = len(contents.tensors)
    mapped = to_vt(found, contents.tensors, consume=not verify)
    _refuse_unexpected(mapped, found, src)
    origin = _with_given_classes(origin, labels)
    mapped.dropped += contents.unused
    config = _configure(architecture, mapped, origin.entry, src)
    check_state_dict(build_on_meta(architecture, config), mapped.tensors, src)
    _refuse_nan(mapped.tensors, src)
    # Given names are in the file's own order, so its rows stay where they are.
    permutation = "" if labels is not None else find_permutation(origin, found, registry)
    converted = reorder_classes(mapped.tensors, architecture, permutation)
    card = _card(src, origin, architecture, config, found, labels, permutation, registry)
    verified = 0
    if verify:
        verified = _verify(contents, mapped, converted, found, architecture, config, permutation)
    tensors_sha256 = tensor_digest(converted) if verify or _known_digest(origin) else ""
    if _known_digest(origin) not in ("", tensors_sha256):
        raise DigestError(
            f"{src} does not have the weights of {card.id}: the digest of its tensors is "
            f"{tensors_sha256}, not {_known_digest(origin)}; use another source"
        )
    digest = write_checkpoint(dst, converted, {CARD_KEY: card.to_json()})
    return ConversionReport(
        source=str(src),
        output=str(dst),
        arch=architecture.name,
        model=card.id or card.model,
        layout=found.name,
        wrapper_keys=contents.wrapper_keys,
        tensors_read=tensors_read,
        tensors_written=len(converted),
        renamed=mapped.renamed,
        dropped=mapped.dropped,
        permutation=permutation,
        labels=_describe_labels(card, labels),
        sha256=digest,
        config=card.config,
        verified=verified,
        tensors_sha256=tensors_sha256,
        note=contents.note,
    )


def _identify(src: Path, model: str | None, registry: Registry) -> CheckpointOrigin:
    """The registry entry of a file: the named one, or the one that lists the file's sha256."""
    digest = _digest(src)
    if model is not None:
        return CheckpointOrigin(registry.find(model), None, digest)
    for entry in registry.checkpoints.values():
        for source in entry.sources:
            if source.sha256 == digest or (
                source.sha256_prefix and digest.startswith(source.sha256_prefix)
            ):
                return CheckpointOrigin(entry, source, digest)
    return CheckpointOrigin(None, None, digest)


def _known_digest(origin: CheckpointOrigin) -> str:
    """The digest that the tensors of an unverified source must have; "" for other sources."""
    if origin.entry is None or origin.source is None or not origin.source.unverified:
        return ""
    return origin.entry.tensors_sha256


def _digest(src: Path) -> str:
    """The sha256 of a file; of a sharded checkpoint, that of the digests of its files."""
    digests = [file_sha256(path) for path in checkpoint_files(src)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _with_given_classes(origin: CheckpointOrigin, labels: str | Path | None) -> CheckpointOrigin:
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


def fits_a_layout(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensor names are those of a layout of any architecture."""
    return any(
        layout.recognizes(tensors)
        for architecture in map(get_architecture, list_architectures())
        for layout in architecture.layouts.values()
    )


def find_layout(
    tensors: Mapping[str, Tensor], entry: Checkpoint | None, layout: str, src: Path
) -> tuple[Architecture, Layout]:
    """The architecture and layout that a file's tensor names match.

    Raises `LayoutError` naming what the file is if that is not what was asked for.
    """
    matching = [
        (architecture, candidate)
        for architecture in map(get_architecture, list_architectures())
        for candidate in architecture.layouts.values()
        if candidate.recognizes(tensors)
    ]
    if not matching:
        sample = ", ".join(list(tensors)[:3])
        raise LayoutError(
            f"{src} is in no layout that is known (its tensors are named {sample}, ...); see `vt "
            "models list` for the supported checkpoints"
        )
    named = " or ".join(
        f"a {a.title} checkpoint in the {found.name} layout" for a, found in matching
    )
    fitting = [
        (architecture, found)
        for architecture, found in matching
        if (entry is None or architecture.name == entry.arch) and layout in ("auto", found.name)
    ]
    if not fitting:
        asked = f"{entry.id}" if entry is not None else "what was asked for"
        asked += "" if layout == "auto" else f" in the {layout} layout"
        raise LayoutError(f"{src} is {named}, not {asked}; correct --model or --layout")
    return fitting[0]


def _refuse_unexpected(mapped: Mapped, layout: Layout, src: Path) -> None:
    if mapped.unexpected:
        names = format_names(mapped.unexpected)
        raise LayoutError(f"{src} has {names} that the {layout.name} layout does not know")


def _configure(
    architecture: Architecture, mapped: Mapped, entry: Checkpoint | None, src: Path
) -> Any:
    """The configuration of a file's tensors: the entry's, which must agree with their shapes."""
    shapes = _shapes(mapped.tensors)
    if entry is None:
        return architecture.infer_config(shapes, mapped.hints)
    config = config_for(architecture, entry)
    # Both are inferred from shapes alone, so that every difference is one of the tensors.
    expected_shapes = _shapes(build_on_meta(architecture, config).state_dict())
    try:
        actual = architecture.infer_config(shapes, {})
        expected = architecture.infer_config(expected_shapes, {})
    except LayoutError:
        return config  # check_state_dict names the missing tensor
    from_file = {f: getattr(actual, f) for f in architecture.variable_fields}
    expected, config = replace(expected, **from_file), replace(config, **from_file)
    different = [f for f in asdict(actual) if getattr(actual, f) != getattr(expected, f)]
    if different:
        name = different[0]
        way = "name another model with -m"
        if different == ["num_classes"]:
            way = "give its class names with --labels FILE, one per line"
        raise LayoutError(
            f"{src} does not fit {entry.id or 'the model and its labels'}: its {name} is "
            f"{getattr(actual, name)}, not {getattr(expected, name)}; {way}"
        )
    return config


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _refuse_nan(tensors: Mapping[str, Tensor], src: Path) -> None:
    for name, tensor in tensors.items():
        if (
            tensor.is_floating_point()
            and not torch.isfinite(tensor.sum())
            and not torch.isfinite(tensor).all()
        ):
            raise DataError(
                f"{src}: the tensor '{name}' has NaN or infinite values; download the file again"
            )


def _card(
    src: Path,
    origin: CheckpointOrigin,
    architecture: Architecture,
    config: Any,
    layout: Layout,
    labels: str | Path | None,
    permutation: str,
    registry: Registry,
) -> ModelCard:
    entry, source = origin.entry, origin.source
    license_ = (source.license if source is not None else "") or (entry.license if entry else "")
    default = registry.find(architecture.name) if entry is None else entry
    card = ModelCard(
        id=entry.id if entry is not None else "",
        arch=architecture.name,
        model=entry.model if entry is not None else _preset_name(architecture, config),
        config=asdict(config),
        heads=_heads(entry, config, labels),
        pipeline=entry.pipeline if entry is not None else pipeline_for(default, config),
        source={
            "address": source.address if source is not None else src.name,
            "sha256": origin.sha256,
            "bytes": sum(path.stat().st_size for path in checkpoint_files(src)),
            "layout": layout.name,
            "permutation": permutation,
            "license": license_,
        },
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


def _heads(
    entry: Checkpoint | None, config: Any, labels: str | Path | None
) -> tuple[HeadSpec, ...]:
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
    if entry is not None:
        return tuple(replace(h, confidence=h.confidence or "unverified") for h in entry.heads)
    return tuple(HeadSpec(n, size, unverified_labels(size), "unverified") for n, size in sizes)


def _describe_labels(card: ModelCard, labels: str | Path | None) -> str:
    """Where the class names come from; for those of a file, how it was read and the first ones."""
    text = card.heads[0].confidence
    if labels is not None and Path(labels).is_file():
        text += f", {read_label_file(Path(labels)).describe()}"
    return text


def _named_labels(labels: str | Path) -> tuple[tuple[str, ...], str]:
    """Class names from a file or a list of the package, and their source."""
    path = Path(labels)
    names = read_label_file(path).names if path.is_file() else load_labels(str(labels))
    return names, f"given: {path.name}"


def _verify(
    contents: RawCheckpoint,
    mapped: Mapped,
    converted: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    config: Any,
    permutation: str,
) -> int:
    """Convert back and forth again: both results must be bitwise equal to what they came from.

    Returns the number of tensors. Raises `LayoutError` naming the first that differs.
    """
    back = from_vt(layout, reorder_classes(converted, architecture, permutation, undo=True), config)
    upstream = {layout.full_name(name): contents.tensors[name] for name, _ in mapped.renamed}
    assert_bitwise_equal(back, upstream)
    again = reorder_classes(to_vt(layout, back).tensors, architecture, permutation)
    return assert_bitwise_equal(again, converted)


def assert_bitwise_equal(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """The number of tensors; raises `LayoutError` naming the first that is not bitwise equal."""
    for name, tensor in expected.items():
        if name not in tensors or not torch.equal(tensors[name], tensor):
            raise LayoutError(
                f"converting the tensor '{name}' back does not restore it bit for bit; please "
                "report this as a bug"
            )
    return len(expected)
