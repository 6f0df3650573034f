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


def pack_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of linear layers to a type and pack them, where that is faster.

    The network is then only evaluated: these weights get no gradients.
    """
    packer = Packer(network, dtype)
    for module in network.modules():
        packer.pack(module)


class Packer:
    """`pack_weights`, one layer at a time.

    All weights are converted in the same memory: a block for each would leave gaps as large.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        sizes = [m.weight.numel() for m in network.modules() if _is_large(m)]
        on_cpu = next(network.parameters()).device.type == "cpu"
        faster = on_cpu and packed_is_faster(torch.empty(0, dtype=dtype))
        self.converted = torch.empty(max(sizes), dtype=dtype) if faster and sizes else None

    @property
    def packs(self) -> bool:
        """Whether any weight is packed."""
        return self.converted is not None

    def pack(self, module: nn.Module) -> None:
        """Pack the weight of a large linear layer; other modules are left as they are."""
        if self.converted is None or not _is_large(module):
            return
        weight = self.converted[: module.weight.numel()].view(module.weight.shape)
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


def plain(weight: Tensor) -> Tensor:
    """A weight in the usual order, whether it is packed or not."""
    return weight.to_dense() if weight.is_mkldnn else weight
