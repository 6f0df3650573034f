"""Weights of linear layers in the order in which oneDNN multiplies them.

oneDNN rearranges a weight in every product unless it is given in that order. The results are the
same bit for bit; a pass is up to 1.12 times as fast (benchmarks/RESULTS.md).
A packed parameter has its shape and type, but no values that PyTorch's other operators can read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtcli.models.layers import Linear, attends_fused, onednn_computes

# Values of a weight from which packing it pays.
MIN_WEIGHT = 1 << 16


def pack_weights(network: nn.Module) -> None:
    """Pack the weights of a network on a CPU that is only evaluated, where that is faster.

    No gradients of them are computed any more. It takes no memory beside one layer's weight.
    """
    for module in network.modules():
        if isinstance(module, Linear) and module.weight.numel() >= MIN_WEIGHT:
            weight = module.weight.detach()
            if packed_is_faster(weight):
                packed = torch.ops.mkldnn._reorder_linear_weight(weight)
                module.weight = nn.Parameter(packed, requires_grad=False)


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
