"""Running statistics of BatchNorm: kept unchanged for a while, or frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def preserve_bn_stats(model: nn.Module) -> Iterator[None]:
    """Forward passes inside the context update copies of the running statistics only."""
    saved = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.startswith("running_")
    ]
    for module, name, buffer in saved:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in saved:
            setattr(module, name, buffer)


def freeze_bn(model: nn.Module, everywhere: bool) -> None:
    """Normalize by the stored statistics and do not update them: in all BatchNorms, or in those
    whose parameters are not trained.
    """
    for module in model.modules():
        if "running_mean" in dict(module.named_buffers(recurse=False)) and (
            everywhere or not any(p.requires_grad for p in module.parameters())
        ):
            module.eval()
