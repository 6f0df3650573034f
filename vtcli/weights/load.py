"""From a model's name to a network that runs: find the file (on_download and converting it once),
build, fill.

The network is built without memory and filled from the mapped file, so that nothing is initialized
only to be overwritten, and in fp32 on the CPU not even copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.labels import load_labels, load_permutation
from vtcli.models.build import (
    build_on_meta,
    check_state_dict,
    prepare_for_inference,
    select_classes,
)
from vtcli.runtime.device import check_precision
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.model_config import model_config
from vtcli.weights.resolve import LocalCheckpoint, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

KINETICS_SUBSETS = ("k400", "k600", "k700")


def load_model(
    name: str | Path,
    device: str = "cpu",
    precision: str = "fp32",
    label_set: str | None = None,
    progress: ProgressCallback | None = None,
) -> nn.Module:
    """A network with its weights, in evaluation mode, with `.config`, `.labels` and `.card`.

    `name` is an id, an alias, a path to one of our safetensors files, or `hf://org/repo`. It takes
    a clip [B,3,T,H,W], normalized, of its own dtype, and returns logits [B,classes]. Raises what
    `resolve` raises, and `LayoutError` where file and card do not belong together.
    """
    return load_resolved(resolve(name, progress), device, precision, label_set)


def check_settings(precision: str, label_set: str | None) -> None:
    """Raise `UsageError` for settings that no model and no machine has."""
    check_precision(precision)
    if label_set is not None and label_set not in KINETICS_SUBSETS:
        raise UsageError(
            f"a Kinetics-710 head reads as {', '.join(KINETICS_SUBSETS)}, not '{label_set}'"
        )


def load_resolved(
    found: LocalCheckpoint,
    device: str = "cpu",
    precision: str = "fp32",
    label_set: str | None = None,
) -> nn.Module:
    """`load_model` for a file that has been found already."""
    from vtcli.models import get_architecture
    from vtcli.runtime.device import resolve_device, resolve_dtype
    from vtcli.weights.checkpoint import open_tensors

    check_settings(precision, label_set)
    architecture = get_architecture(found.card.arch)
    tensors, card = open_tensors(found.path), found.card
    if label_set is not None:
        tensors, card = _restrict_to_subset(tensors, card, architecture.head_tensors, label_set)
    target = resolve_device(device)
    model = build_on_meta(architecture, architecture.read_config(card.config))
    check_state_dict(model, tensors, found.path)
    model.load_state_dict(tensors, assign=True)
    tensors.clear()
    return prepare_for_inference(model, card, target, resolve_dtype(precision, target))


def _restrict_to_subset(
    tensors: Mapping[str, Tensor], card: ModelCard, head_tensors: Sequence[str], dataset: str
) -> tuple[dict[str, Tensor], ModelCard]:
    """A Kinetics-710 head cut down to the classes of Kinetics-400, -600 or -700."""
    if card.dataset != "k710" or card.labels != load_labels("k710.mmaction2"):
        raise UsageError(f"{card.id or 'this model'} has no Kinetics-710 head to read out")
    rows = load_permutation(f"mmaction2_k710_to_alpha_{dataset}")
    labels = load_labels(dataset)
    head = replace(card.heads[0], size=len(labels), labels=labels)
    card = replace(card, heads=(head,), config={**card.config, "num_classes": len(labels)})
    return select_classes(tensors, head_tensors, rows), replace(card, dataset=dataset)


def create_model(name: str, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """A fresh network, randomly initialized: `name` is a model (`uniformerv2-b`) or a checkpoint
    id.

    `num_classes` and `overrides` replace fields of its configuration.
    Raises `UnknownModelError`, or `UsageError` for a field it does not have.
    """
    from vtcli.models import with_overrides

    architecture, config = model_config(name)
    if num_classes is not None:
        if num_classes < 1:
            raise UsageError(f"a classifier has at least one class, not {num_classes}")
        overrides["num_classes"] = num_classes
    model = build_on_meta(architecture, with_overrides(config, overrides))
    model.to_empty(device="cpu")
    if not callable(getattr(model, "init_weights", None)):
        raise UsageError(f"{architecture.title} has no rule for fresh weights")
    model.init_weights()  # type: ignore[operator]
    return model
