"""One network in several processes: a whole copy in each (DDP), or a shard in each (FSDP2).

Either way gradients come out as means over the processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.training.freeze import blocks_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """A whole network in every process."""
    from torch.nn.parallel import DistributedDataParallel

    # Depth-wise kernels come with other strides than DDP lays out for them; it copies, no more.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    on_gpu = device.type == "cuda"
    return DistributedDataParallel(model, device_ids=[device] if on_gpu else None)


def apply_fsdp(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """The network itself, each parameter spread over all processes; a block is put together only
    while it is used.
    """
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise UsageError(
            "--parallel fsdp takes a newer PyTorch (2.9 or later); install that, or take "
            "--parallel ddp"
        ) from error

    # A block may return a view of its result; no block changes what it is given.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def no_grad_sync(net: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay in this process until a later step."""
    if hasattr(net, "no_sync"):
        return net.no_sync()  # type: ignore[operator]
    return _sharded_unsynchronized(net) if hasattr(net, "unshard") else nullcontext()


@contextmanager
def _sharded_unsynchronized(net: Any) -> Iterator[None]:
    net.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        net.set_requires_gradient_sync(True)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from the shards of all processes, which all have to ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def full_state_dict(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU where they are kept; all processes have to ask, and the others let
    go of each at once.
    """
    kept = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor)
        if keep:
            kept[name] = full.cpu()
    return kept


def copy_into(tensor: Any, value: Tensor) -> None:
    """Copy a whole tensor into one that may be spread over the processes."""
    if hasattr(tensor, "placements"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def local_bytes(tensors: Mapping[str, Any], leads: bool) -> int:
    """What this process's shards take, and the first one's whole tensors."""
    return sum(
        tensor.to_local().nbytes if hasattr(tensor, "to_local") else leads * tensor.nbytes
        for tensor in tensors.values()
    )


def broadcast_buffers(model: nn.Module) -> None:
    """The first process's running statistics, in all of them."""
    import torch.distributed as dist

    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
