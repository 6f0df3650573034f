"""Running statistics of BatchNorm: kept unchanged for a while, frozen, or those of the clips of all
processes.

Legend: N values per channel, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

EPS, MOMENTUM = 1e-5, 0.1  # PyTorch's, of a module that does not state its own


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


@contextmanager
def leave_out_of_bn(model: nn.Module) -> Iterator[None]:
    """Forward passes inside the context are of no clip: they count in no statistics."""
    synchronized = [
        module.forward
        for module in model.modules()
        if isinstance(module.forward, _SynchronizedForward)
    ]
    if not synchronized:
        with preserve_bn_stats(model):
            yield
        return
    for forward in synchronized:
        forward.counted = False
    try:
        yield
    finally:
        for forward in synchronized:
            forward.counted = True


def freeze_bn(model: nn.Module, everywhere: bool) -> None:
    """Normalize by the stored statistics and do not update them: in all BatchNorms, or in those
    whose parameters are not trained.
    """
    for module in _batchnorms(model):
        if everywhere or not any(p.requires_grad for p in module.parameters()):
            module.eval()


def synchronize_bn(model: nn.Module) -> None:
    """Have BatchNorms in training mode normalize by the statistics of the clips of all processes,
    as in one process with all of them; all processes must run the same forward passes.

    Unlike `torch.nn.SyncBatchNorm` it also runs on CPUs, and a process without clips counts none.
    """
    for module in _batchnorms(model):
        module.forward = _SynchronizedForward(module)


def _batchnorms(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if "running_mean" in dict(module.named_buffers(recurse=False))
    ]


class _SynchronizedForward:
    """The forward pass of one BatchNorm, over tensors [N,C,...]."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own, self.counted = module, module.forward, True

    def __call__(self, x: Tensor) -> Tensor:
        module: Any = self.module
        if not module.training:
            normalized: Tensor = self.own(x)
            return normalized
        import torch

        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        own = x.float()
        mine = x.numel() // x.shape[1] * self.counted
        sums = _summed(torch.cat([self.counted * own.sum(others), own.new_tensor([mine])]))
        count = sums[-1].detach()
        mean_C = sums[:-1] / count.clamp_min(1.0)
        squares_C = (own - mean_C.view(shape)).square().sum(others)
        variance_C = _summed(self.counted * squares_C) / count.clamp_min(1.0)
        self._update(mean_C.detach(), variance_C.detach(), count)
        scale_C = torch.rsqrt(variance_C + getattr(module, "eps", EPS))
        normalized = (own - mean_C.view(shape)) * (scale_C * module.weight).view(shape)
        return (normalized + module.bias.view(shape)).to(x.dtype)

    def _update(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        """Move the running statistics towards those of this pass, as PyTorch does."""
        module: Any = self.module
        if not count:
            return
        momentum = getattr(module, "momentum", MOMENTUM)
        module.running_mean.lerp_(mean_C, momentum)
        unbiased_C = variance_C * count / (count - 1).clamp_min(1.0)
        module.running_var.lerp_(unbiased_C, momentum)


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes; its gradient is that of the sum of their losses."""
    import torch
    import torch.distributed as dist

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, mine: Tensor) -> Tensor:
            total = mine.clone()
            dist.all_reduce(total)
            return total

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            total = gradient.clone()
            dist.all_reduce(total)
            return total

    found: Tensor = Summed.apply(values)
    return found
