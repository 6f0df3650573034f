"""From a model's name to a network that runs: find the file (fetching and converting it once),
build, fill.

The network is built without memory and filled from the mapped file, so that nothing is initialised
only to be overwritten, and in fp32 on the CPU not even copied.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.engine.precision import check_precision
from vtcli.errors import FetchError, InputError, LayoutError, UnknownModelError, UsageError
from vtcli.labels import load_labels, load_permutation
from vtcli.weights.fetch import Progress
from vtcli.weights.registry import Checkpoint, Registry, bundled_path, load_registry
from vtcli.weights.store import Card, read_card

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

READ_OUTS = ("k400", "k600", "k700")


@dataclass(frozen=True)
class Resolved:
    """One of our files and its card."""

    path: Path
    card: Card


def list_models(pattern: str = "*") -> list[str]:
    """Ids of all known checkpoints that fit a shell pattern, such as `uniformerv2*`."""
    return [row.id for row in load_registry().match(pattern)]


def is_path(name: str | Path) -> bool:
    """Whether a `--model` means a file rather than a name: it looks like a path, or there is such a
    file.
    """
    text = str(name)
    return isinstance(name, Path) or text.endswith(".safetensors") or os.path.isfile(text)


def peek(name: str | Path, progress: Progress | None = None) -> Card | Checkpoint:
    """What can be said of a model before its weights are here: its card, or its registry row.

    Does not import PyTorch, and touches the network only for `hf://`. Raises what `resolve` raises.
    """
    if is_path(name) or str(name).startswith("hf://"):
        return resolve(name, progress).card
    return load_registry().find(str(name))


def resolve(
    name: str | Path, progress: Progress | None = None, registry: Registry | None = None
) -> Resolved:
    """Our file for an id, an alias, a path or `hf://org/repo[@revision]`; fetched and converted if
    need be.

    Raises `UnknownModelError` (exit 2), `InputError` (4) or `WeightsError` (5).
    """
    text = str(name)
    if text.startswith("hf://"):
        from vtcli.weights.fetch import fetch_hub_file

        repo, _, revision = text.removeprefix("hf://").partition("@")
        path = fetch_hub_file(repo, revision or None, ["model.safetensors"], progress=progress)
    elif is_path(name):
        path = Path(text).expanduser()
        if os.path.isfile(path) and path.suffix != ".safetensors":
            raise InputError(
                f"{path} is not one of our files; convert it first: vt convert {path} -m MODEL "
                "-o model.safetensors"
            )
    else:
        row = (registry or load_registry()).find(text)
        path = bundled_path(row) or _fetched(row, progress, registry)
    return Resolved(path, read_card(path))


def _fetched(row: Checkpoint, progress: Progress | None, registry: Registry | None) -> Path:
    try:
        return _ensure_cached(row, progress, registry)
    except FetchError:
        path = bundled_path(row, last_resort=True)
        if path is None:
            raise
        return path


def _ensure_cached(row: Checkpoint, progress: Progress | None, registry: Registry | None) -> Path:
    """The converted file of a row in the cache, made on first use and when the row has changed."""
    from vtcli.weights.cache import lock

    path = cached_path(row)
    if _is_fresh(path, row):
        return path
    from vtcli.engine.converter import convert
    from vtcli.weights.fetch import fetch

    registry = registry or load_registry()
    with lock(path):
        if not _is_fresh(path, row):
            fetched = fetch(row, progress=progress, alternatives=_alternatives(row, registry))
            convert(
                fetched.path,
                path,
                model=row.id,
                registry=registry,
                source=fetched.source,
                sha256=fetched.sha256,
            )
    return path


def cached_path(row: Checkpoint) -> Path:
    """Where the converted file of a row lies or will lie.

    Its name changes with what the row says of the weights, so that an older file is not taken.
    """
    from vtcli.weights.cache import checkpoint_path

    said: list[object] = [row.config, row.pipeline, [head.class_names() for head in row.heads]]
    said += [(s.address, s.layout, s.sha256, s.permutation) for s in row.sources]
    return checkpoint_path(row.id, hashlib.sha256(repr(said).encode()).hexdigest()[:8])


def _is_fresh(path: Path, row: Checkpoint) -> bool:
    """Whether a converted file is there and no older than the local files it may come from."""
    if not path.is_file():
        return False
    made = path.stat().st_mtime_ns
    local = [s.file for s in row.sources if s.kind == "local" and os.path.isfile(s.file)]
    return all(os.stat(file).st_mtime_ns <= made for file in local)


def _alternatives(row: Checkpoint, registry: Registry) -> list[str]:
    """Ids of the same dataset that can be had, those of the same model first."""
    others = [
        other
        for other in registry.checkpoints.values()
        if other.dataset == row.dataset and other.available and other.id != row.id
    ]
    others.sort(key=lambda other: (other.model != row.model, other.arch != row.arch))
    return [other.id for other in others[:3]]


def load_model(
    name: str | Path,
    device: str = "cpu",
    precision: str = "fp32",
    read_as: str | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """A network with its weights, in evaluation mode, with `.config`, `.labels` and `.card`.

    `name` is an id, an alias, a path to one of our safetensors files, or `hf://org/repo`. It takes
    a clip [B,3,T,H,W], normalised, of its own dtype, and returns logits [B,classes]. Raises what
    `resolve` raises, and `LayoutError` where file and card do not belong together.
    """
    return load_resolved(resolve(name, progress), device, precision, read_as)


def check_settings(precision: str, read_as: str | None) -> None:
    """Raise `UsageError` for settings that no model and no machine has."""
    check_precision(precision)
    if read_as is not None and read_as not in READ_OUTS:
        raise UsageError(f"a Kinetics-710 head reads as {', '.join(READ_OUTS)}, not '{read_as}'")


def load_resolved(
    found: Resolved, device: str = "cpu", precision: str = "fp32", read_as: str | None = None
) -> nn.Module:
    """`load_model` for a file that has been found already."""
    from vtcli.engine.precision import pick_device, pick_dtype
    from vtcli.models import get_architecture
    from vtcli.weights.store import open_tensors

    check_settings(precision, read_as)
    architecture = get_architecture(found.card.arch)
    tensors, card = open_tensors(found.path), found.card
    if read_as is not None:
        tensors, card = _read_out(tensors, card, architecture.head_tensors, read_as)
    target = pick_device(device)
    model = build_empty(architecture, architecture.read_config(card.config))
    check_fit(model, tensors, found.path)
    model.load_state_dict(tensors, assign=True)
    tensors.clear()
    return finish(model, card, target, pick_dtype(precision, target))


def _read_out(
    tensors: Mapping[str, Tensor], card: Card, head_tensors: Sequence[str], dataset: str
) -> tuple[dict[str, Tensor], Card]:
    """A Kinetics-710 head cut down to the classes of Kinetics-400, -600 or -700."""
    if card.dataset != "k710" or card.labels != load_labels("k710.mmaction2"):
        raise UsageError(f"{card.id or 'this model'} has no Kinetics-710 head to read out")
    rows = load_permutation(f"mmaction2_k710_to_alpha_{dataset}")
    labels = load_labels(dataset)
    head = replace(card.heads[0], size=len(labels), labels=labels)
    card = replace(card, heads=(head,), config={**card.config, "num_classes": len(labels)})
    return select_classes(tensors, head_tensors, rows), replace(card, dataset=dataset)


def select_classes(
    tensors: Mapping[str, Tensor], head_tensors: Sequence[str], rows: Sequence[int]
) -> dict[str, Tensor]:
    """The same weights with other classifier rows: class i becomes row rows[i]."""
    return {
        name: tensor[list(rows)] if name in head_tensors else tensor
        for name, tensor in tensors.items()
    }


def clip_shape(config: Any) -> tuple[int, int, int, int]:
    """[3,T,H,W] of the clip a configuration is made for."""
    size = config.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return 3, config.num_frames, height, width


def build_empty(architecture: Any, config: Any) -> nn.Module:
    """A network without memory for its weights."""
    import torch

    with torch.device("meta"):
        model: nn.Module = architecture.build(config)
    return model


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], src: Path) -> None:
    """Whether the tensors are exactly those of the network, none missing, left over or mis-shaped.

    Raises `LayoutError` naming the tensors.
    """
    wanted = model.state_dict()
    if missing := wanted.keys() - tensors.keys():
        raise LayoutError(f"{src} lacks {name_some(list(missing))} of this model")
    if extra := tensors.keys() - wanted.keys():
        raise LayoutError(f"{src} has {name_some(list(extra))} that this model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise LayoutError(
                f"{src}: '{name}' has the shape {list(tensor.shape)}, this model's is "
                f"{list(wanted[name].shape)}"
            )


def name_some(names: Sequence[str]) -> str:
    """The first few of many tensor names."""
    listed = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'tensors' if len(names) > 1 else 'the tensor'} {listed}{more}"


def finish(
    model: nn.Module, card: Card | None, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Move to device and precision (norms stay fp32), set to evaluation, attach card and labels."""
    import torch

    norms = (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)
    for module in model.modules():
        keeps_fp32 = isinstance(module, norms) or getattr(module, "keeps_fp32", False)
        module_dtype = torch.float32 if keeps_fp32 else dtype
        for name, parameter in module.named_parameters(recurse=False):
            # Copied even in its own type where others are cast, or it would keep a mapping alive.
            cast = parameter.detach().to(device, module_dtype, copy=dtype != torch.float32)
            setattr(module, name, torch.nn.Parameter(cast, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            kind = module_dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, buffer.to(device, kind))
    model.card = card  # type: ignore[assignment]
    model.labels = card.labels if card is not None else ()  # type: ignore[assignment]
    model.dtype = dtype  # type: ignore[assignment]
    return model.eval()


def create_model(name: str, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """A fresh network, randomly initialised: `name` is a model (`uniformerv2-b`) or a checkpoint
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
    model = build_empty(architecture, with_overrides(config, overrides))
    model.to_empty(device="cpu")
    if not callable(getattr(model, "init_weights", None)):
        raise UsageError(f"{architecture.title} has no rule for fresh weights")
    model.init_weights()  # type: ignore[operator]
    return model


def model_config(name: str) -> tuple[Any, Any]:
    """The architecture and configuration of a model name or a checkpoint id.

    Raises `UnknownModelError` naming the nearest names.
    """
    from vtcli.models import find_preset, get_architecture

    try:
        return find_preset(name)
    except UnknownModelError:
        row = load_registry().find(name)
        architecture = get_architecture(row.arch)
        return architecture, row_config(architecture, row)


def row_config(architecture: Any, row: Checkpoint) -> Any:
    """The published size of a row's model, with what the row says of this checkpoint."""
    from vtcli.models import with_overrides

    facts = {"num_classes": row.num_classes, "num_frames": row.frames, **row.config}
    return with_overrides(architecture.presets[row.model], facts)
