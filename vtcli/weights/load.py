"""From a model's name to a network: resolve its file, build the network, load the weights.

The network is built on the meta device and filled from the memory-mapped file. So no weight is
initialized only to be overwritten, and in fp32 on the CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli._version import __version__
from vtcli.errors import UsageError, WeightsError
from vtcli.labels import load_labels, load_permutation
from vtcli.labels.heads import HeadSpec
from vtcli.models.build import (
    allocate_weights,
    build_on_meta,
    check_state_dict,
    head_sizes,
    prepare_for_inference,
    select_classes,
)
from vtcli.runtime.device import check_precision
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.model_config import model_config, pipeline_for
from vtcli.weights.registry import Checkpoint, load_registry
from vtcli.weights.resolve import LocalCheckpoint, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

KINETICS_SUBSETS = ("k400", "k600", "k700")


def load_model(
    name: str | Path,
    device: str = "cpu",
    precision: str = "fp32",
    label_set: str | None = None,
    on_download: ProgressCallback | None = None,
) -> nn.Module:
    """A network with its weights, in evaluation mode, with `.config`, `.labels` and `.card`.

    `name` is an id, an alias, a path to one of our safetensors files, or `hf://org/repo`. The
    network takes normalized clips [B,3,T,H,W] of its own dtype and returns logits [B,K].
    `label_set` (k400, k600 or k700) restricts a Kinetics-710 head to the classes of that subset.
    The networks of this package have `features(clip)` [B,C], `reset_classifier(classes)` and
    `save(path)`. Raises what `resolve` raises, and `LayoutError` if the file's tensors do not match
    its card.

    >>> import torch
    >>> model = vtcli.load_model("uniformerv2-nano")
    >>> clip = torch.zeros(1, 3, model.config.num_frames, 32, 32)
    >>> model(clip).shape, model.features(clip).shape
    (torch.Size([1, 8]), torch.Size([1, 64]))
    """
    return load_resolved(resolve(name, on_download), device, precision, label_set)


def check_settings(precision: str, label_set: str | None) -> None:
    """Raise `UsageError` for settings that no model and no device supports."""
    check_precision(precision)
    if label_set is not None and label_set not in KINETICS_SUBSETS:
        raise UsageError(
            f"a Kinetics-710 head can be restricted to {', '.join(KINETICS_SUBSETS)}, not "
            f"'{label_set}'"
        )


def load_resolved(
    found: LocalCheckpoint,
    device: str = "cpu",
    precision: str = "fp32",
    label_set: str | None = None,
    packed: bool = False,
) -> nn.Module:
    """`load_model` for a file that is already resolved; `packed` as in `prepare_for_inference`."""
    from vtcli.models import get_architecture
    from vtcli.runtime.device import resolve_device, resolve_dtype
    from vtcli.weights.checkpoint import open_tensors

    check_settings(precision, label_set)
    tensors, card = open_tensors(found.path), found.card
    if label_set is not None:
        heads = get_architecture(card.arch).head_tensors
        tensors, card = _restrict_to_subset(tensors, card, heads, label_set)
    target = resolve_device(device)
    model = network_of(card, tensors, found.path)
    model.load_state_dict(tensors, assign=True)
    tensors.clear()
    dtype = resolve_dtype(precision, target, parameter_count(model))
    return prepare_for_inference(model, card, target, dtype, packed)


def resolved_precision(card: ModelCard, device: str, precision: str) -> str:
    """The precision that `load_resolved` takes for `auto`; raises `UsageError` as it does."""
    from vtcli.models import get_architecture
    from vtcli.models.build import build_on_meta
    from vtcli.runtime.device import precision_name, resolve_device, resolve_dtype

    architecture = get_architecture(card.arch)
    network = build_on_meta(architecture, architecture.read_config(card.config))
    dtype = resolve_dtype(precision, resolve_device(device), parameter_count(network))
    return precision_name(dtype)


def parameter_count(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def network_of(card: ModelCard, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network that a card describes, on the meta device, checked against the file's tensors.

    Raises `WeightsError` where none can be built, `LayoutError` for tensors that do not fit it.
    """
    from vtcli.models import get_architecture

    try:
        architecture = get_architecture(card.arch)
        model = build_on_meta(architecture, architecture.read_config(card.config))
    except UsageError as error:
        raise WeightsError(f"the model card in {path} cannot be used: {error}") from error
    check_state_dict(model, tensors, path)
    return model


def _restrict_to_subset(
    tensors: Mapping[str, Tensor], card: ModelCard, head_tensors: Sequence[str], dataset: str
) -> tuple[dict[str, Tensor], ModelCard]:
    """A Kinetics-710 head restricted to the classes of Kinetics-400, -600 or -700."""
    if card.dataset != "k710" or card.labels != load_labels("k710.mmaction2"):
        raise UsageError(
            f"{card.id or 'this model'} has no Kinetics-710 head to restrict to {dataset}; leave "
            "the label set out"
        )
    rows = load_permutation(f"mmaction2_k710_to_alpha_{dataset}")
    labels = load_labels(dataset)
    head = replace(card.heads[0], size=len(labels), labels=labels)
    config = {**card.config, "num_classes": len(labels)}
    card = replace(card, heads=(head,), config=config, calibration={}, adaptive_views={}, events={})
    return select_classes(tensors, head_tensors, rows), replace(card, dataset=dataset)


def create_model(name: str, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """A randomly initialized network, in training mode, with `.config`, `.labels` and `.card`.

    `name` is a checkpoint id, an alias such as `uniformerv2-b`, or a published model. `num_classes`
    and `overrides` replace fields of its configuration. A checkpoint's classes are kept unless they
    are replaced: then, and for a model without a checkpoint, `.labels` is empty. Raises
    `UnknownModelError`, or `UsageError` for a field that the configuration does not have.

    >>> model = vtcli.create_model("uniformerv2-nano", num_classes=12)
    >>> model.head.out_features, model.training
    (12, True)
    """
    from vtcli.models import with_overrides

    architecture, config = model_config(name)
    if num_classes is not None:
        if num_classes < 1:
            raise UsageError(f"a classifier has at least one class, not {num_classes}")
        overrides["num_classes"] = num_classes
    model: Any = build_on_meta(architecture, with_overrides(config, overrides))
    allocate_weights(model)
    if not callable(getattr(model, "init_weights", None)):
        raise UsageError(
            f"{architecture.title} cannot be randomly initialized: its network has no init_weights"
        )
    model.init_weights()
    entry = load_registry().get(name)
    model.card = _fresh_card(entry, model.config) if entry is not None else None
    model.labels = model.card.labels if entry is not None else ()
    model.dtype = next(model.parameters()).dtype
    network: nn.Module = model
    return network


def _fresh_card(entry: Checkpoint, config: Any) -> ModelCard:
    """The card of a network built like an entry's but not trained: no id, no scores, no source."""
    sizes = head_sizes(config)
    if [size for _, size in sizes] == [head.size for head in entry.heads]:
        heads = entry.heads
    else:
        heads = tuple(HeadSpec(name, size) for name, size in sizes)
    return ModelCard(
        id="",
        arch=entry.arch,
        model=entry.model,
        config=asdict(config),
        heads=heads,
        pipeline=pipeline_for(entry, config),
        dataset=entry.dataset if heads is entry.heads else "",
        created_with=f"vtcli {__version__}",
    )
