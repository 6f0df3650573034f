"""One network in several processes: a whole copy in each (DDP), or a shard in each (FSDP2).

Either way gradients come out as means over the processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vtcli.engine.optimising import blocks_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """A whole network in every process."""
    from torch.nn.parallel import DistributedDataParallel

    # Depth-wise kernels come with other strides than DDP lays out for them; it copies, no more.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    on_gpu = device.type == "cuda"
    return DistributedDataParallel(model, device_ids=[device] if on_gpu else None)


def shard(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """The network itself, each parameter spread over all processes; a block is put together only
    while it is used.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # A block may return a view of its result; no block changes what it is given.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def unsynchronised(net: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay in this process until a later step."""
    if hasattr(net, "no_sync"):
        return net.no_sync()  # type: ignore[operator]
    return _sharded_unsynchronised(net) if hasattr(net, "unshard") else nullcontext()


@contextmanager
def _sharded_unsynchronised(net: Any) -> Iterator[None]:
    net.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        net.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from the shards of all processes, which all have to ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(value: Any, parameter: Any) -> Any:
    """The part of an optimiser's tensor that belongs to this process's part of a parameter."""
    if not hasattr(parameter, "placements") or getattr(value, "shape", None) != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )
