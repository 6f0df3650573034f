"""From our safetensors to an upstream's own checkpoint file, in its names, nesting and class
order.
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
from vtcli.weights.checkpoint import ModelCard, open_tensors, read_card, write_checkpoint
from vtcli.weights.class_order import CheckpointOrigin, find_permutation, reorder_classes
from vtcli.weights.convert import ConversionReport, assert_bitwise_equal
from vtcli.weights.formats.readers import read_checkpoint
from vtcli.weights.registry import Registry, load_registry


def export(
    src: Path, dst: Path, layout: str, verify: bool = False, registry: Registry | None = None
) -> ConversionReport:
    """Write one of our files as an upstream's own checkpoint, in that upstream's class order.

    `verify` reads the file back and compares it bit for bit. Raises `UsageError` for a layout the
    architecture does not have.
    """
    card = read_card(src)
    target = _target_layout(card, layout)
    architecture = get_architecture(card.arch)
    config = architecture.read_config(card.config)
    ours = open_tensors(src)
    check_state_dict(build_on_meta(architecture, config), ours, src)
    permutation = _export_permutation(card, target, registry or load_registry())
    foreign = from_vt(target, reorder_classes(ours, architecture, permutation, undo=True), config)
    beside = _companion(dst, target, config, card)
    verified = 0
    with atomic_write(dst, sum(t.numel() * t.element_size() for t in foreign.values())) as part:
        write_foreign(part, foreign, target)
        if beside is not None:
            part.with_name(beside[0]).write_text(beside[1], encoding="utf-8")
        if verify:
            again = to_vt(target, read_checkpoint(part).tensors).tensors
            verified = assert_bitwise_equal(reorder_classes(again, architecture, permutation), ours)
        digest = file_sha256(part)
    return ConversionReport(
        source=str(src),
        output=str(dst),
        arch=card.arch,
        model=card.id or card.model,
        layout=layout,
        container=".".join(target.nest),
        tensors_read=len(ours),
        tensors_written=len(foreign),
        renamed=[],
        dropped=[],
        permutation=permutation,
        labels=card.heads[0].confidence,
        sha256=digest,
        config=card.config,
        verified=verified,
    )


def _companion(dst: Path, layout: Layout, config: Any, card: ModelCard) -> tuple[str, str] | None:
    """The file that this upstream wants beside its weights; never written over another one."""
    if layout.sidecar is None:
        return None
    name, text = layout.sidecar(config, card.labels)
    path = dst.with_name(name)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise UsageError(f"{path} lies in the way; write into a folder of its own with -o")
    return name, text


def export_suffix(src: Path, layout: str) -> str:
    """The file ending that an upstream's checkpoints have."""
    return _target_layout(read_card(src), layout).suffix


def _target_layout(card: ModelCard, layout: str) -> Layout:
    architecture = get_architecture(card.arch)
    if layout not in architecture.layouts:
        known = ", ".join(["safetensors", *architecture.layouts])
        raise UsageError(f"{architecture.title} cannot be written as '{layout}'; it can as {known}")
    return architecture.layouts[layout]


def _export_permutation(card: ModelCard, layout: Layout, registry: Registry) -> str:
    if card.source.get("layout") == layout.name:
        return str(card.source.get("permutation", ""))
    row = registry.checkpoints.get(card.id)
    if row is None or card.labels != tuple(n for h in row.heads for n in h.class_names()):
        return ""
    return find_permutation(CheckpointOrigin(row, None, ""), layout, registry)


def write_foreign(path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Write tensors in a layout's own file format."""
    if layout.suffix == ".safetensors":
        write_checkpoint(path, tensors, {})
    elif layout.suffix == ".msgpack":
        from vtcli.weights.formats.flax import write_flax

        write_flax(path, dict(tensors))
    else:
        content: Any = {name: tensor.contiguous() for name, tensor in tensors.items()}
        for key in reversed(layout.nest):
            content = {key: content}
        with path.open("wb") as file:
            torch.save(content, file)
