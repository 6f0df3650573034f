"""TODO-HEAD"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def preserve_bn_stats(model: nn.Module) -> Iterator[None]:
    """What changes running statistics changes copies of them."""
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.startswith("running_")
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


def freeze_bn(model: nn.Module, everywhere: bool) -> None:
    """Normalize by the stored statistics and leave them alone: in all BatchNorms, or in those whose
    parameters are not trained.
    """
    for module in model.modules():
        if "running_mean" in dict(module.named_buffers(recurse=False)) and (
            everywhere or not any(p.requires_grad for p in module.parameters())
        ):
            module.eval()
