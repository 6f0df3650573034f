"""From an upstream checkpoint file to our safetensors, and back into any upstream's layout.

Nothing is skipped silently: a tensor that is missing, left over or mis-shaped is an error, and so
is NaN. The class order of the file is brought to the row's own; where no source states it, the
labels say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli._version import __version__
from vtcli.errors import DataError, LayoutError, UsageError
from vtcli.labels import load_labels, read_label_file, unverified_labels
from vtcli.models import Architecture, get_architecture, list_architectures
from vtcli.models.build import build_on_meta, check_state_dict, clip_shape, format_names
from vtcli.models.layouts import Layout, Mapped, from_vt, to_vt
from vtcli.runtime.files import file_sha256
from vtcli.video.pipeline import Pipeline
from vtcli.weights.checkpoint import CARD_KEY, HeadSpec, ModelCard, write_checkpoint
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.formats.readers import RawCheckpoint, read_checkpoint
from vtcli.weights.model_config import config_for
from vtcli.weights.registry import Checkpoint, Registry, Source, load_registry

# Fields that no tensor shows and that do not make another model of it.
_INVISIBLE = ("num_frames", "dropout", "global_dropout", "drop_path", "global_drop_path")


@dataclass
class ConversionReport:
    """What a conversion did, tensor by tensor."""

    source: str
    output: str
    arch: str
    model: str
    layout: str
    container: str
    tensors_read: int
    tensors_written: int
    renamed: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    permutation: str
    labels: str
    sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)
    verified: int = 0

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
    source: Source | None = None,
    sha256: str = "",
) -> ConversionReport:
    """Convert an upstream checkpoint file to our safetensors.

    `model` (an id) gives class order, frame count and all else that weights do not show; without it
    a known sha256 does. `labels` (a file with one name per line, or a list's name) names the
    classes in the file's own order. `source` and `sha256` spare looking up and hashing what the
    caller has just fetched and checked. Raises `LayoutError` for tensors that do not fit,
    `DataError` for NaN or labels that do not fit.
    """
    src, dst = Path(src), Path(dst)
    registry = registry or load_registry()
    contents = read_checkpoint(src)
    if CARD_KEY in contents.metadata:
        raise UsageError(f"{src} is converted already; --to writes it in an upstream's layout")
    identity = _identify(src, model, registry, source, sha256)
    architecture, found = find_layout(contents.tensors, identity.row, layout, src)
    tensors_read = len(contents.tensors)
    mapped = to_vt(found, contents.tensors, consume=not verify)
    _refuse_left_over(mapped, found, src)
    config = _configure(architecture, mapped, identity.row, src)
    check_state_dict(build_on_meta(architecture, config), mapped.tensors, src)
    _refuse_nan(mapped.tensors, src)
    # Names that are given name the file's own rows, which then stay where they are.
    permutation = "" if labels is not None else find_permutation(identity, found, registry)
    ours = reorder_classes(mapped.tensors, architecture, permutation)
    card = _card(src, identity, architecture, config, found, labels, permutation, registry)
    verified = 0
    if verify:
        verified = _verify(contents, mapped, ours, found, architecture, config, permutation)
    digest = write_checkpoint(dst, ours, {CARD_KEY: card.to_json()})
    return ConversionReport(
        source=str(src),
        output=str(dst),
        arch=architecture.name,
        model=card.id or card.model,
        layout=found.name,
        container=contents.container,
        tensors_read=tensors_read,
        tensors_written=len(ours),
        renamed=mapped.renamed,
        dropped=mapped.dropped,
        permutation=permutation,
        labels=card.heads[0].confidence,
        sha256=digest,
        config=card.config,
        verified=verified,
    )


def _identify(
    src: Path, model: str | None, registry: Registry, source: Source | None, sha256: str
) -> CheckpointOrigin:
    digest = sha256 or file_sha256(src)
    if model is not None:
        return CheckpointOrigin(registry.find(model), source, digest)
    for row in registry.checkpoints.values():
        for candidate in row.sources:
            if candidate.sha256 == digest or (
                candidate.sha256_prefix and digest.startswith(candidate.sha256_prefix)
            ):
                return CheckpointOrigin(row, candidate, digest)
    return CheckpointOrigin(None, None, digest)


def find_layout(
    tensors: Mapping[str, Tensor], row: Checkpoint | None, layout: str, src: Path
) -> tuple[Architecture, Layout]:
    """The architecture and layout that a file's tensor names show.

    Raises `LayoutError` naming what the file is instead, where it is not what was asked.
    """
    seen = [
        (architecture, candidate)
        for architecture in map(get_architecture, list_architectures())
        for candidate in architecture.layouts.values()
        if candidate.recognizes(tensors)
    ]
    if not seen:
        sample = ", ".join(list(tensors)[:3])
        raise LayoutError(
            f"{src} is in no layout that is known (its tensors are called {sample}, ...)"
        )
    named = " or ".join(f"a {a.title} checkpoint in the {found.name} layout" for a, found in seen)
    fitting = [
        (architecture, found)
        for architecture, found in seen
        if (row is None or architecture.name == row.arch) and layout in ("auto", found.name)
    ]
    if not fitting:
        asked = f"{row.id}" if row is not None else "what was asked"
        asked += "" if layout == "auto" else f" in the {layout} layout"
        raise LayoutError(f"{src} is {named}, not {asked}")
    return fitting[0]


def _refuse_left_over(mapped: Mapped, layout: Layout, src: Path) -> None:
    if mapped.left_over:
        raise LayoutError(
            f"{src} has {format_names(mapped.left_over)} that the {layout.name} layout does not know"
        )


def _configure(
    architecture: Architecture, mapped: Mapped, row: Checkpoint | None, src: Path
) -> Any:
    """The configuration the shapes show, completed by the row, which must agree with them."""
    shapes = _shapes(mapped.tensors)
    if row is None:
        return architecture.infer_config(shapes, mapped.hints)
    expected = config_for(architecture, row)
    # Both read off shapes alone, so that whatever differs is a difference of the tensors.
    wanted_shapes = _shapes(build_on_meta(architecture, expected).state_dict())
    try:
        shown = architecture.infer_config(shapes, {})
        wanted = architecture.infer_config(wanted_shapes, {})
    except LayoutError:
        return expected  # check_state_dict will say which tensor is missing
    believed = {f: getattr(shown, f) for f in architecture.variable_fields}
    wanted, expected = replace(wanted, **believed), replace(expected, **believed)
    unlike = [f for f in asdict(shown) if getattr(shown, f) != getattr(wanted, f)]
    if unlike:
        name = unlike[0]
        raise LayoutError(
            f"{src} does not fit {row.id}: its {name} is {getattr(shown, name)}, "
            f"not {getattr(wanted, name)}; name another model with -m"
        )
    return expected


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
                f"{src}: the tensor '{name}' has NaN or infinite values; fetch the file again"
            )


def _card(
    src: Path,
    identity: CheckpointOrigin,
    architecture: Architecture,
    config: Any,
    layout: Layout,
    labels: str | Path | None,
    permutation: str,
    registry: Registry,
) -> ModelCard:
    row, source = identity.row, identity.source
    origin = {
        "address": source.address if source is not None else src.name,
        "sha256": identity.sha256,
        "bytes": src.stat().st_size,
        "layout": layout.name,
        "permutation": permutation,
        "license": (source.license if source is not None else "") or (row.license if row else ""),
    }
    model = row.model if row is not None else _preset_name(architecture, config)
    card = ModelCard(
        id=row.id if row is not None else "",
        arch=architecture.name,
        model=model,
        config=asdict(config),
        heads=_heads(row, config, labels),
        pipeline=row.pipeline
        if row is not None
        else _usual_pipeline(architecture, config, registry),
        source=origin,
        created_with=f"vtcli {__version__}",
    )
    if row is None:
        return card
    facts = ("dataset", "pretrain", "top1", "top5", "metric", "metric_source", "license", "notes")
    return replace(card, **{name: getattr(row, name) for name in facts})


def _preset_name(architecture: Architecture, config: Any) -> str:
    """The published model with this configuration, "" where it is none's."""
    free = ("num_classes", *_INVISIBLE)
    for name, preset in architecture.presets.items():
        same = {f: getattr(preset, f) for f in asdict(config) if f in free}
        if replace(config, **same) == preset:
            return name
    return ""


def _heads(row: Checkpoint | None, config: Any, labels: str | Path | None) -> tuple[HeadSpec, ...]:
    sizes = getattr(config, "heads", ()) or (("action", config.num_classes),)
    if labels is not None:
        names, confidence = _named_labels(labels)
        if len(names) != config.num_classes:
            raise DataError(
                f"the labels {labels} are {len(names)} names, but the checkpoint has "
                f"{config.num_classes} classes"
            )
        rest = iter(names)
        return tuple(HeadSpec(n, k, tuple(islice(rest, k)), confidence) for n, k in sizes)
    if row is not None:
        return tuple(
            HeadSpec(h.name, h.size, h.class_names(), h.confidence or "unverified")
            for h in row.heads
        )
    return tuple(HeadSpec(n, size, unverified_labels(size), "unverified") for n, size in sizes)


def _named_labels(labels: str | Path) -> tuple[tuple[str, ...], str]:
    """Class names from a text file, one per line, or from a list that comes with the package."""
    path = Path(labels)
    names = read_label_file(path) if path.is_file() else load_labels(str(labels))
    return names, f"given: {path.name}"


def _usual_pipeline(architecture: Architecture, config: Any, registry: Registry) -> Pipeline:
    """The pipeline of the architecture's default checkpoint, at this configuration's size."""
    row = registry.find(architecture.name)
    _, frames, size, _ = clip_shape(config)
    short_side = round(row.pipeline.short_side * size / row.resolution)
    return replace(row.pipeline, frames=frames, crop_size=size, short_side=short_side)


def _verify(
    contents: RawCheckpoint,
    mapped: Mapped,
    ours: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    config: Any,
    permutation: str,
) -> int:
    """Both directions, bit for bit: ours -> layout equals the file, and that -> ours equals
    ours.
    """
    back = from_vt(layout, reorder_classes(ours, architecture, permutation, undo=True), config)
    theirs = {layout.full_name(name): contents.tensors[name] for name, _ in mapped.renamed}
    assert_bitwise_equal(back, theirs)
    again = reorder_classes(to_vt(layout, back).tensors, architecture, permutation)
    return assert_bitwise_equal(again, ours)


def assert_bitwise_equal(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """How many tensors are equal bit for bit: all of them, or `LayoutError` naming the first that
    is not.
    """
    for name, tensor in expected.items():
        if name not in tensors or not torch.equal(tensors[name], tensor):
            raise LayoutError(
                f"the tensor '{name}' does not come back bit for bit; please report this"
            )
    return len(expected)
