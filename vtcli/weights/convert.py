"""From an upstream checkpoint file to our safetensors.

Nothing is skipped silently: a missing, unexpected or mis-shaped tensor is an error, and so is NaN.
The classes of the file are brought to the order of its registry entry; where no source states the
file's order, the labels say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import DataError, DigestError, LayoutError, UsageError
from vtcli.models import Architecture, get_architecture, list_architectures
from vtcli.models.build import format_names
from vtcli.models.layouts import Layout, Mapped, from_vt, to_vt
from vtcli.runtime.files import file_sha256
from vtcli.weights.checkpoint import CARD_KEY, tensor_digest, write_checkpoint
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.configure import check_tensors, configure
from vtcli.weights.converted_card import (
    Converted,
    describe_labels,
    make_card,
    with_given_classes,
)
from vtcli.weights.formats.readers import RawCheckpoint, checkpoint_files, read_checkpoint
from vtcli.weights.formats.transformers_repo import CONFIG, Repository
from vtcli.weights.registry import Checkpoint, Registry, load_registry
from vtcli.weights.repository import FolderFiles
from vtcli.weights.transformers_form import with_own_card
from vtcli.weights.verify_logits import Sides, logits_difference, upstream_library


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
    logits_difference: float | None = None
    logits_library: str = ""
    tensors_sha256: str = ""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)


def convert(
    src: str | Path | Repository,
    dst: str | Path,
    model: str | None = None,
    layout: str = "auto",
    labels: str | Path | None = None,
    verify: bool = False,
    registry: Registry | None = None,
    origin: CheckpointOrigin | None = None,
    **given: Any,
) -> ConversionReport:
    """Convert an upstream checkpoint file, or a model repository, to our safetensors.

    src: a file, the folder of a repository, or an opened `Repository`. A file next to the
        config.json of its library is read with what that states.

    model: the checkpoint id, which gives class order, frame count and all else that the weights do
        not show; without it, the entry with the file's sha256 is used, if there is one.
    labels: the class names in the file's own order: a file (`vtcli.labels.label_file`), or the
        name of a list.
    verify: also check that converting back gives the file's tensors bit for bit, and no more.
    origin: what a caller that has just downloaded the file knows of it; saves hashing it again.
    given: fields of the configuration that neither the tensors nor `model` show, such as num_heads;
        ema: take the EMA weights of a training checkpoint, not the raw ones; verify_logits: compare
        logits with the upstream library (`vtcli.weights.verify_logits`).

    Raises `LayoutError` for tensors that do not fit the model, `DataError` for NaN or for labels
    that do not fit.
    """
    dst, registry = Path(dst), registry or load_registry()
    if model is not None:
        registry.find(model)  # an unknown name is reported before the file is read
    verify_logits = bool(given.pop("verify_logits", False))
    contents, origin, src = _read(src, model, registry, origin, bool(given.pop("ema", False)))
    if CARD_KEY in contents.metadata:
        raise UsageError(
            f"{src} is already converted; use --to to write it in an upstream's layout"
        )
    architecture, found = find_layout(contents.tensors, origin.entry, layout, src)
    if verify_logits:
        upstream_library(architecture, found)  # a missing one is reported before the work
    tensors_read = len(contents.tensors)
    mapped = to_vt(found, contents.tensors, consume=not (verify or verify_logits))
    _refuse_unexpected(mapped, found, src)
    origin = with_given_classes(origin, labels)
    mapped.dropped += contents.unused
    config = configure(architecture, mapped, origin, given, src)
    check_tensors(architecture, config, mapped.tensors, src)
    _refuse_nan(mapped.tensors, src)
    # Given names are in the file's own order, so its rows stay where they are.
    permutation = "" if labels is not None else find_permutation(origin, found, registry)
    converted = reorder_classes(mapped.tensors, architecture, permutation)
    done = Converted(src, origin, architecture, config, found.name, permutation)
    card = make_card(done, labels, registry)
    if origin.entry is None and labels is None:
        card, stated = with_own_card(origin.stated, card, converted)
        origin = replace(origin, stated=stated)
    verified = 0
    if verify:
        verified = _verify(contents, mapped, converted, found, architecture, config, permutation)
    difference, library = None, ""
    if verify_logits:
        used = {found.full_name(name): contents.tensors[name] for name, _ in mapped.renamed}
        difference, library = _compare_logits(done, found, used, converted, card.labels)
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
        labels=describe_labels(card, labels),
        sha256=digest,
        config=card.config,
        verified=verified,
        logits_difference=difference,
        logits_library=library,
        tensors_sha256=tensors_sha256,
        notes=[*filter(None, [contents.note]), *_notes(origin)],
    )


def _read(
    src: str | Path | Repository,
    model: str | None,
    registry: Registry,
    origin: CheckpointOrigin | None,
    ema: bool,
) -> tuple[RawCheckpoint, CheckpointOrigin, Path]:
    """The tensors, what is known besides them, and the source's name for messages."""
    if not isinstance(src, Repository) and not _is_repository(Path(src)):
        path = Path(src)
        contents = read_checkpoint(path, fits_a_layout, ema)
        origin = origin or _identify(path, model, registry)
        if origin.entry is None and (path.parent / CONFIG).is_file():
            beside = Repository(FolderFiles(path.parent))
            if not beside.is_ours and beside.is_video_model:
                origin = replace(origin, stated=beside.stated())
        size = sum(file.stat().st_size for file in checkpoint_files(path))
        return contents, replace(origin, size=size), path
    repository = src if isinstance(src, Repository) else Repository(FolderFiles(Path(src)))
    if repository.is_ours:
        raise UsageError(f"{repository.files.place} is already in our form; use it with -m")
    contents, stated, digest, size = repository.read()
    entry = registry.find(model) if model is not None else None
    origin = CheckpointOrigin(entry, None, digest, stated, size)
    return contents, origin, Path(repository.files.place)


def _is_repository(path: Path) -> bool:
    """Whether a path is a folder with more than the shards of a checkpoint."""
    return path.is_dir() and ((path / CONFIG).is_file() or not any(path.glob("*.index.json")))


def _notes(origin: CheckpointOrigin) -> list[str]:
    """What to tell about the repository the file came from."""
    if origin.stated is None or origin.entry is not None:
        return []
    return [note for note in (origin.stated.summary, *origin.stated.warnings) if note]


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


def _compare_logits(
    done: Converted,
    layout: Layout,
    upstream: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    labels: tuple[str, ...],
) -> tuple[float, str]:
    """`logits_difference` of a conversion."""
    stated = done.origin.stated
    return logits_difference(
        Sides(
            architecture=done.architecture,
            config=done.config,
            layout=layout,
            upstream=upstream,
            ours=ours,
            permutation=done.permutation,
            library_config=stated.library_config if stated is not None else {},
            labels=labels,
        )
    )


def assert_bitwise_equal(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """The number of tensors; raises `LayoutError` naming the first that is not bitwise equal."""
    for name, tensor in expected.items():
        if name not in tensors or not torch.equal(tensors[name], tensor):
            raise LayoutError(
                f"converting the tensor '{name}' back does not restore it bit for bit; please "
                "report this as a bug"
            )
    return len(expected)
