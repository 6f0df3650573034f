"""From an upstream checkpoint file to our safetensors.

Nothing is skipped silently: a missing, unexpected or mis-shaped tensor is an error, and so is NaN.
The classes of the file are brought to the order of its registry entry; where no source states the
file's order, the labels say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from vtcli.errors import DataError, DigestError, LayoutError, UsageError
from vtcli.models import Architecture, get_architecture, list_architectures
from vtcli.models.build import build_on_meta, check_state_dict, format_names
from vtcli.models.layouts import Layout, Mapped, from_vt, to_vt
from vtcli.runtime.progress import ProgressCallback, counted_tensors, no_progress
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, tensor_digest, write_checkpoint
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.configure import configure
from vtcli.weights.converted_card import (
    Converted,
    describe_labels,
    make_card,
    remarks,
    with_given_classes,
    with_warnings,
)
from vtcli.weights.formats.readers import (
    RawCheckpoint,
    checkpoint_digest,
    checkpoint_files,
    fits_a_layout,
    read_checkpoint,
)
from vtcli.weights.formats.transformers_repo import CONFIG, Reading, Repository
from vtcli.weights.registry import Checkpoint, Registry, load_registry
from vtcli.weights.repository import FolderFiles
from vtcli.weights.verify_logits import logits_difference, upstream_library


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


class Options(TypedDict, total=False):
    """What `convert` takes besides its parameters; None is the same as leaving it out.

    ema: take the EMA weights of a training checkpoint, not the raw ones.
    verify_logits: compare logits with the upstream library (`vtcli.weights.verify_logits`).
    on_stage: called with what is done next, in words. on_bytes: called with the bytes that are
        hashed, checked, verified and written.
    The others are fields of the configuration that neither the tensors nor `model` show.
    """

    ema: bool
    verify_logits: bool
    on_stage: Callable[[str], None]
    on_bytes: ProgressCallback
    num_frames: int | None
    image_size: int | None
    num_heads: int | None
    tubelet_size: tuple[int, ...] | None


def convert(
    src: str | Path | Repository,
    dst: str | Path,
    model: str | None = None,
    layout: str = "auto",
    labels: str | Path | None = None,
    verify: bool = False,
    registry: Registry | None = None,
    origin: CheckpointOrigin | None = None,
    **options: Unpack[Options],
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

    Raises `LayoutError` for tensors that do not fit the model, `DataError` for NaN or for labels
    that do not fit.

    >>> report = vtcli.convert("official.pth", "ours.safetensors")
    >>> report.layout, report.output
    ('official', 'ours.safetensors')
    """
    registry = registry or load_registry()
    if model is not None:
        registry.find(model)  # an unknown name is reported before the file is read
    say = options.pop("on_stage", lambda what: None)
    on_bytes = options.pop("on_bytes", no_progress)
    say(f"reading {src}")
    reading = Reading(labels is None, options.pop("ema", False), on_bytes)
    contents, origin, src = _read(src, model, registry, origin, reading)
    architecture, found = find_layout(contents.tensors, origin.entry, layout, src)
    if compares := options.pop("verify_logits", False):
        upstream_library(architecture, found)  # a missing one is reported before the work
    origin = with_given_classes(origin, labels)
    tensors_read = len(contents.tensors)
    say(f"matching {tensors_read} tensors")
    mapped = to_vt(found, contents.tensors, consume=not (verify or compares))
    _refuse_unexpected(mapped, found, src)
    config = configure(architecture, mapped, origin, options, src)
    _check_tensors(architecture, config, mapped.tensors, src, on_bytes)
    # Given names are in the file's own order, so its rows stay where they are.
    permutation = "" if labels is not None else find_permutation(origin, found, registry)
    tensors = reorder_classes(mapped.tensors, architecture, permutation)
    done = Converted(src, origin, architecture, config, found, permutation, tensors)
    card = make_card(done, labels, registry)
    assumed = [] if options.get("num_frames") else _assumed_frames(done)
    if "facts" in card.source:
        card, assumed = with_warnings(card, assumed), []
    report = _report(done, card, contents, mapped)
    report.output, report.tensors_read = str(dst), tensors_read
    report.labels = describe_labels(card, labels)
    report.notes += assumed
    if verify:
        say("converting back to verify")
        report.verified = _verify(contents, mapped, done, on_bytes)
    if compares:
        say("comparing logits")
        used = {found.full_name(name): contents.tensors[name] for name, _ in mapped.renamed}
        report.logits_difference, report.logits_library = logits_difference(done, used, card.labels)
    if verify or _known_digest(origin):
        report.tensors_sha256 = _checked_digest(done, card)
    say(f"writing {dst}")
    report.sha256 = write_checkpoint(Path(dst), tensors, {CARD_KEY: card.to_json()}, on_bytes)
    return report


def _report(
    done: Converted, card: ModelCard, contents: RawCheckpoint, mapped: Mapped
) -> ConversionReport:
    """What is known before anything is verified and written."""
    return ConversionReport(
        source=str(done.src),
        output="",
        arch=done.architecture.name,
        model=card.id or card.model,
        layout=done.layout.name,
        wrapper_keys=contents.wrapper_keys,
        tensors_read=0,
        tensors_written=len(done.tensors),
        renamed=mapped.renamed,
        dropped=[*mapped.dropped, *contents.unused],
        permutation=done.permutation,
        labels="",
        sha256="",
        config=card.config,
        notes=[*filter(None, [contents.note]), *remarks(card)],
    )


def _assumed_frames(done: Converted) -> list[str]:
    """What to tell where nothing states the frames of a network that accepts any number."""
    stated, entry = done.origin.stated, done.origin.entry
    if entry or (stated and "num_frames" in stated.config) or done.architecture.unseen_fields:
        return []
    frames = done.config.num_frames
    way = "-m or --num-frames changes that"
    if stated:
        way = f"vt convert {stated.place} --num-frames N -o model.safetensors changes that"
    return [f"clips have {frames} frames, which nothing states; {way}"]


def _read(
    src: str | Path | Repository,
    model: str | None,
    registry: Registry,
    origin: CheckpointOrigin | None,
    reading: Reading,
) -> tuple[RawCheckpoint, CheckpointOrigin, str | Path]:
    """The tensors, what is known besides them, and the source's name for messages."""
    if not isinstance(src, Repository) and not _is_repository(Path(src)):
        path = Path(src)
        contents = read_checkpoint(path, fits_a_layout, reading.ema)
        if CARD_KEY in contents.metadata:
            raise _already_ours(path, origin)
        origin = origin or _identify(path, model, registry, reading.on_bytes)
        if origin.entry is None and (path.parent / CONFIG).is_file():
            beside = Repository(FolderFiles(path.parent))
            if not beside.is_ours and beside.is_video_model:
                origin = replace(origin, stated=beside.stated(reading.labels))
        size = sum(file.stat().st_size for file in checkpoint_files(path))
        return contents, replace(origin, size=size), path
    repository = src if isinstance(src, Repository) else Repository(FolderFiles(Path(src)))
    if repository.is_ours:
        raise UsageError(f"{repository.files.place} is already in our form; use it with -m")
    contents, stated, digest, size = repository.read(reading)
    entry = registry.find(model) if model is not None else None
    origin = CheckpointOrigin(entry, None, digest, stated, size)
    return contents, origin, repository.files.place


def _already_ours(path: Path, origin: CheckpointOrigin | None) -> UsageError:
    if origin is not None and origin.entry is not None and origin.source is not None:
        return UsageError(
            f"the registry's source {origin.source.address} of {origin.entry.id} has the layout "
            f"'{origin.source.layout}', but is one of our files; correct it to 'vt'"
        )
    return UsageError(f"{path} is already converted; use --to to write it in an upstream's layout")


def _is_repository(path: Path) -> bool:
    """Whether a path is a folder with more than the shards of a checkpoint."""
    return path.is_dir() and ((path / CONFIG).is_file() or not any(path.glob("*.index.json")))


def _identify(
    src: Path, model: str | None, registry: Registry, on_bytes: ProgressCallback
) -> CheckpointOrigin:
    """The registry entry of a file: the named one, or the one that lists the file's sha256."""
    digest = checkpoint_digest(src, on_bytes)
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


def find_layout(
    tensors: Mapping[str, Tensor], entry: Checkpoint | None, layout: str, src: str | Path
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


def _refuse_unexpected(mapped: Mapped, layout: Layout, src: str | Path) -> None:
    if mapped.unexpected:
        names = format_names(mapped.unexpected)
        raise LayoutError(
            f"{src} has {names} that the {layout.name} layout does not know; save the model's "
            "tensors without them"
        )


def _check_tensors(
    architecture: Architecture,
    config: Any,
    tensors: dict[str, Tensor],
    src: str | Path,
    on_bytes: ProgressCallback,
) -> None:
    """Check the tensors against the network; one without a classifier gets one with no rows."""
    network = build_on_meta(architecture, config)
    if not config.num_classes:
        own = network.state_dict()
        for name in own.keys() & set(architecture.head_tensors) - tensors.keys():
            tensors[name] = torch.zeros(own[name].shape)
    check_state_dict(network, tensors, src)
    _refuse_nan(tensors, src, on_bytes)


def _refuse_nan(tensors: Mapping[str, Tensor], src: str | Path, on_bytes: ProgressCallback) -> None:
    for name, tensor in counted_tensors(tensors, "checking the tensors", on_bytes):
        if (
            tensor.is_floating_point()
            and not torch.isfinite(tensor.sum())
            and not torch.isfinite(tensor).all()
        ):
            raise DataError(
                f"{src}: the tensor '{name}' has NaN or infinite values; download the file again"
            )


def _verify(
    contents: RawCheckpoint, mapped: Mapped, done: Converted, on_bytes: ProgressCallback
) -> int:
    """Convert back and forth again: both results must be bitwise equal to what they came from.

    Returns the number of tensors. Raises `LayoutError` naming the first that differs.
    """
    layout, architecture, permutation = done.layout, done.architecture, done.permutation
    unordered = reorder_classes(done.tensors, architecture, permutation, undo=True)
    back = from_vt(layout, unordered, done.config)
    names_of: dict[str, list[str]] = {}
    for name, ours in mapped.renamed:
        upstream = layout.full_name(name)
        assert_bitwise_equal(back, {upstream: contents.tensors[name]})
        names_of.setdefault(ours, []).append(upstream)
    verified = {ours: done.tensors[ours] for ours in names_of}
    for ours, tensor in counted_tensors(verified, "verifying the tensors", on_bytes):
        # One at a time: no second copy of the model in memory.
        again = to_vt(layout, {name: back[name] for name in names_of[ours]}).tensors
        assert_bitwise_equal(reorder_classes(again, architecture, permutation), {ours: tensor})
    return len(names_of)


def _checked_digest(done: Converted, card: ModelCard) -> str:
    """The digest of the tensors alone; raises `DigestError` if it is known to be another one."""
    found, expected = tensor_digest(done.tensors), _known_digest(done.origin)
    if expected not in ("", found):
        raise DigestError(
            f"{done.src} does not have the weights of {card.id}: the digest of its tensors is "
            f"{found}, not {expected}; use another source"
        )
    return found


def assert_bitwise_equal(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    on_bytes: ProgressCallback = no_progress,
) -> int:
    """The number of tensors; raises `LayoutError` naming the first that is not bitwise equal."""
    for name, tensor in counted_tensors(expected, "verifying the tensors", on_bytes):
        if name not in tensors or not torch.equal(tensors[name], tensor):
            raise LayoutError(
                f"converting the tensor '{name}' back does not restore it bit for bit; please "
                "report this as a bug"
            )
    return len(expected)
