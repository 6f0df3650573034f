"""One network trained by several processes: a full copy in each (DDP), or a shard in each (FSDP2).

In both cases gradients are averaged over the processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.training.layers import transformer_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """Keep a full copy of the network in every process."""
    from torch.nn.parallel import DistributedDataParallel

    # Gradients of depth-wise kernels have other strides than DDP's buckets: they are only copied.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    on_gpu = device.type == "cuda"
    return DistributedDataParallel(model, device_ids=[device] if on_gpu else None)


def apply_fsdp(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Shard each parameter over all processes; a block is gathered only while it is used.

    Changes `model` and returns it. Raises `UsageError` where PyTorch is too old, or where the
    network does not state its blocks.
    """
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise UsageError(
            "--parallel fsdp needs PyTorch 2.9 or later; update it, or use --parallel ddp"
        ) from error

    # A block may return a view of its output, which is safe: no block changes its input in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    blocks = transformer_blocks(model, "--parallel fsdp")
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def no_grad_sync(net: nn.Module) -> AbstractContextManager[Any]:
    """Accumulate gradients in this process without averaging them over the processes."""
    if hasattr(net, "no_sync"):
        return net.no_sync()  # type: ignore[operator]
    return _fsdp_no_grad_sync(net) if hasattr(net, "unshard") else nullcontext()


@contextmanager
def _fsdp_no_grad_sync(net: Any) -> Iterator[None]:
    net.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        net.set_requires_gradient_sync(True)


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor gathered from the shards of all processes; all of them must call this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def full_state_dict(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Full tensors on the CPU where `keep` is set; all processes must call this."""
    kept = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor)
        if keep:
            kept[name] = full.cpu()
    return kept


def copy_into(tensor: Any, value: Tensor) -> None:
    """Copy a full tensor into one that may be sharded over the processes."""
    if hasattr(tensor, "placements"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def local_bytes(tensors: Mapping[str, Any], is_main_process: bool) -> int:
    """Bytes that this process writes: its shards, and on rank 0 also unsharded tensors."""
    return sum(
        tensor.to_local().nbytes if hasattr(tensor, "to_local") else is_main_process * tensor.nbytes
        for tensor in tensors.values()
    )


def broadcast_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0 (running statistics) to all processes."""
    import torch.distributed as dist

    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
