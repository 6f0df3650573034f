"""TODO-HEAD"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import LayoutError
from vtcli.weights.checkpoint import ModelCard

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


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


def build_on_meta(architecture: Any, config: Any) -> nn.Module:
    """A network without memory for its weights."""
    import torch

    with torch.device("meta"):
        model: nn.Module = architecture.build(config)
    return model


def check_state_dict(model: nn.Module, tensors: Mapping[str, Tensor], src: Path) -> None:
    """Whether the tensors are exactly those of the network, none missing, left over or mis-shaped.

    Raises `LayoutError` naming the tensors.
    """
    wanted = model.state_dict()
    if missing := wanted.keys() - tensors.keys():
        raise LayoutError(f"{src} lacks {format_names(list(missing))} of this model")
    if extra := tensors.keys() - wanted.keys():
        raise LayoutError(f"{src} has {format_names(list(extra))} that this model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise LayoutError(
                f"{src}: '{name}' has the shape {list(tensor.shape)}, this model's is "
                f"{list(wanted[name].shape)}"
            )


def format_names(names: Sequence[str]) -> str:
    """The first few of many tensor names."""
    listed = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'tensors' if len(names) > 1 else 'the tensor'} {listed}{more}"


def prepare_for_inference(
    model: nn.Module, card: ModelCard | None, device: torch.device, dtype: torch.dtype
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
