"""Build a network without memory, check a state dict against it, and prepare it for inference.

Works for any architecture (`vtcli.models.Architecture`); reads and writes no files.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import LayoutError, UsageError, VtError
from vtcli.models.protocol import Card
from vtcli.runtime.memory import network_is_loaded

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vtcli.models import Architecture


_NOT_BUILT = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


def select_classes(
    tensors: Mapping[str, Tensor], head_tensors: Sequence[str], rows: Sequence[int]
) -> dict[str, Tensor]:
    """The same weights with other classifier rows: row i is row rows[i] of the given weights."""
    return {
        name: tensor[list(rows)] if name in head_tensors else tensor
        for name, tensor in tensors.items()
    }


def clip_shape(config: Any) -> tuple[int, int, int, int]:
    """[3,T,H,W] of the clip that a configuration is made for."""
    size = config.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return 3, config.num_frames, height, width


def head_sizes(config: Any) -> tuple[tuple[str, int], ...]:
    """Name and number of classes of each classifier of a configuration."""
    return getattr(config, "heads", ()) or (("action", config.num_classes),)


def build_on_meta(architecture: Architecture, config: Any) -> nn.Module:
    """A network on the meta device, which allocates no memory for its weights.

    Raises `UsageError` for a configuration whose numbers do not go together.
    """
    import torch

    with torch.device("meta"), warnings.catch_warnings():
        # A network without a classifier has one with no rows.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        try:
            model: nn.Module = architecture.build(config)
        except VtError:
            raise
        except _NOT_BUILT as error:
            raise UsageError(
                f"no {architecture.title} can be built from this configuration: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
    return model


def allocate_weights(model: nn.Module) -> None:
    """Give a network on the meta device memory on the CPU; its values are arbitrary.

    `nn.Module.to_empty` does the same, but imports a second of symbolic algebra for it.
    """
    import torch

    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


def check_state_dict(model: nn.Module, tensors: Mapping[str, Tensor], src: str | Path) -> None:
    """Check that the tensors are exactly those of the network.

    Raises `LayoutError` naming the tensors that are missing, unexpected, mis-shaped or not of
    floating-point numbers where the network's are.
    """
    expected = model.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise LayoutError(f"{src} lacks {format_names(list(missing))} of this model")
    if unexpected := tensors.keys() - expected.keys():
        raise LayoutError(
            f"{src} has {format_names(list(unexpected))} that this model does not have"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise LayoutError(
                f"{src}: '{name}' has the shape {list(tensor.shape)}, this model's is "
                f"{list(expected[name].shape)}"
            )
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise LayoutError(
                f"{src}: '{name}' is of the type {str(tensor.dtype).removeprefix('torch.')}, this "
                f"model's is {str(expected[name].dtype).removeprefix('torch.')}"
            )


def format_names(names: Sequence[str]) -> str:
    """The first three of the tensor names and the number of the others, for a message."""
    listed = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'tensors' if len(names) > 1 else 'the tensor'} {listed}{more}"


def prepare_for_inference(
    model: nn.Module,
    card: Card | None,
    device: torch.device,
    dtype: torch.dtype,
    packed: bool = False,
) -> nn.Module:
    """Move to device and precision (norms stay fp32), switch to evaluation mode, attach the card.

    Sets `.card`, `.labels` (the card's; empty without one) and `.dtype`. With `packed` the network
    cannot be trained; see `vtcli.models.packing`.
    """
    import torch

    from vtcli.models.packing import pack_weight, packing_memory

    memory = packing_memory(model, device, dtype) if packed else None
    copies = dtype != torch.float32 or memory is not None
    norms = (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)
    for module in model.modules():
        keeps_fp32 = isinstance(module, norms) or getattr(module, "keeps_fp32", False)
        module_dtype = torch.float32 if keeps_fp32 else dtype
        if memory is not None:
            pack_weight(module, memory)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_mkldnn:  # packed, and of this type already
                continue
            # What has its type already is copied with the others, or it keeps the file mapped.
            cast = parameter.detach().to(device, module_dtype, copy=copies)
            setattr(module, name, torch.nn.Parameter(cast, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            kind = module_dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, buffer.to(device, kind))
    model.card = card  # type: ignore[assignment]
    model.labels = card.labels if card is not None else ()  # type: ignore[assignment]
    model.dtype = dtype  # type: ignore[assignment]
    network_is_loaded()
    return model.eval()
