"""Weights of linear layers in the order in which oneDNN multiplies them.

oneDNN rearranges a weight in every product unless it is given in that order. The results are the
same bit for bit; a pass is up to 1.12 times as fast (benchmarks/RESULTS.md).
A packed parameter has its shape and type, but no values that PyTorch's other operators can read.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from vtcli.models.layers import Linear, attends_fused, onednn_computes

# Values of a weight from which packing it pays.
MIN_WEIGHT = 1 << 16


def packing_memory(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """Where `pack_weight` converts the weights of a network to a type, one after the other; None
    where packing is not faster. A block for each would leave gaps as large.
    """
    sizes = [module.weight.numel() for module in network.modules() if _is_large(module)]
    if not sizes or not packed_is_faster(torch.empty(0, device=device, dtype=dtype)):
        return None
    return torch.empty(max(sizes), dtype=dtype)


def pack_weight(module: nn.Module, memory: Tensor) -> None:
    """Pack the weight of a large linear layer, which gets no gradients then; other modules are left
    as they are.
    """
    if not _is_large(module):
        return
    weight = memory[: module.weight.numel()].view(module.weight.shape)
    weight.copy_(module.weight.detach())
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    module.weight = nn.Parameter(packed, requires_grad=False)


def _is_large(module: nn.Module) -> TypeGuard[Linear]:
    return isinstance(module, Linear) and module.weight.numel() >= MIN_WEIGHT


def packed_is_faster(weight: Tensor) -> bool:
    """Whether products with a weight of `MIN_WEIGHT` are faster if it is packed once.

    So it is with AVX-512, except in bf16 with AMX and in fp32 on Intel's processors, which are
    those where attention is fused (there it was no gain, or products are left to MKL). With AVX2
    alone it was 0.92 to 1.07 times as fast.
    """
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    with torch.no_grad():
        return onednn_computes(weight) and not attends_fused(weight)
