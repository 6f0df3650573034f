"""From our safetensors to an upstream's checkpoint file: its tensor names, nesting and class order.

What a layout is made of is a table beside each architecture (`vtcli/models/*/checkpoints.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import UsageError
from vtcli.models import get_architecture
from vtcli.models.build import build_on_meta, check_state_dict
from vtcli.models.layouts import Layout, from_vt, to_vt
from vtcli.runtime.files import atomic_write, file_sha256
from vtcli.runtime.progress import CountedFile, ProgressCallback, no_progress
from vtcli.weights.checkpoint import (
    ModelCard,
    open_tensors,
    read_card,
    require_classifier,
    write_checkpoint,
)
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.convert import ConversionReport, assert_bitwise_equal
from vtcli.weights.converted_card import describe_labels
from vtcli.weights.formats.readers import read_checkpoint
from vtcli.weights.registry import Registry, load_registry


def export(
    src: Path,
    dst: Path,
    layout: str,
    verify: bool = False,
    registry: Registry | None = None,
    on_bytes: ProgressCallback = no_progress,
) -> ConversionReport:
    """Write one of our files as an upstream's checkpoint, in that upstream's class order.

    `verify` reads the file back and compares it bit for bit. `on_bytes` is called with the bytes
    that are written, verified and hashed. Raises `UsageError` for a layout that the architecture
    does not have.
    """
    card = read_card(src)
    require_classifier(card, src)
    target = _target_layout(card, layout)
    architecture = get_architecture(card.arch)
    config = architecture.read_config(card.config)
    tensors = open_tensors(src)
    check_state_dict(build_on_meta(architecture, config), tensors, src)
    permutation = _export_permutation(card, target, registry or load_registry())
    upstream = from_vt(
        target, reorder_classes(tensors, architecture, permutation, undo=True), config
    )
    sidecar = _sidecar(dst, target, config, card)
    verified = 0
    with atomic_write(dst, sum(t.numel() * t.element_size() for t in upstream.values())) as part:
        write_upstream(part, upstream, target, on_bytes)
        if sidecar is not None:
            part.with_name(sidecar[0]).write_text(sidecar[1], encoding="utf-8")
        if verify:
            again = to_vt(target, read_checkpoint(part).tensors).tensors
            restored = reorder_classes(again, architecture, permutation)
            verified = assert_bitwise_equal(restored, tensors, on_bytes)
        digest = file_sha256(part, on_bytes)
    return ConversionReport(
        source=str(src),
        output=str(dst),
        arch=card.arch,
        model=card.id or card.model,
        layout=layout,
        wrapper_keys=".".join(target.wrapper_keys),
        tensors_read=len(tensors),
        tensors_written=len(upstream),
        renamed=[],
        dropped=[],
        permutation=permutation,
        labels=describe_labels(card, None),
        sha256=digest,
        config=card.config,
        verified=verified,
    )


def _sidecar(dst: Path, layout: Layout, config: Any, card: ModelCard) -> tuple[str, str] | None:
    """Name and text of the file that this upstream needs next to its weights, if any.

    Raises `UsageError` if it would overwrite a different file.
    """
    if layout.sidecar is None:
        return None
    name, text = layout.sidecar(config, card.labels, card.pipeline.multi_label)
    path = dst.with_name(name)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise UsageError(f"{path} would be overwritten; write to another folder with -o")
    return name, text


def export_suffix(src: Path, layout: str) -> str:
    """The file extension of an upstream's checkpoints."""
    return _target_layout(read_card(src), layout).suffix


def _target_layout(card: ModelCard, layout: str) -> Layout:
    architecture = get_architecture(card.arch)
    if layout not in architecture.layouts:
        known = ", ".join(["safetensors", *architecture.layouts])
        raise UsageError(f"{architecture.title} cannot be written as '{layout}'; known are {known}")
    return architecture.layouts[layout]


def _export_permutation(card: ModelCard, layout: Layout, registry: Registry) -> str:
    """The permutation from the layout's class order to the card's; "" where the card's stays."""
    if card.source.get("layout") == layout.name:
        return str(card.source.get("permutation", ""))
    entry = registry.checkpoints.get(card.id)
    if entry is None or card.labels != entry.labels:
        return ""
    return find_permutation(CheckpointOrigin(entry, None, ""), layout, registry)


def write_upstream(
    path: Path,
    tensors: Mapping[str, Tensor],
    layout: Layout,
    on_bytes: ProgressCallback = no_progress,
) -> None:
    """Write tensors in a layout's file format, wrapped in its keys."""
    if layout.suffix == ".safetensors":
        write_checkpoint(path, tensors, {}, on_bytes)
    elif layout.suffix == ".msgpack":
        from vtcli.weights.formats.flax import write_flax

        write_flax(path, dict(tensors), on_bytes)
    else:
        content: Any = {name: tensor.contiguous() for name, tensor in tensors.items()}
        for key in reversed(layout.wrapper_keys):
            content = {key: content}
        with path.open("wb") as file:
            size = sum(tensor.nbytes for tensor in tensors.values())
            torch.save(content, CountedFile(file, f"writing {path.name}", size, on_bytes))
