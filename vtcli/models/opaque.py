"""Tensors whose memory belongs to oneDNN, read and written without the copies of `to_mkldnn` and
`to_dense`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_traced(x: Tensor) -> bool:
    """Whether operators on a tensor are traced, transformed or counted: all must be PyTorch's."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode():
        return True
    if forward_ad._current_level >= 0 or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return True
    return type(x) not in (Tensor, nn.Parameter)


def has_views() -> bool:
    """Whether this PyTorch tells where the values of such a tensor lie."""
    return hasattr(torch.ops.mkldnn, "data_ptr")


def empty_opaque(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of oneDNN's whose values are arbitrary and lie row by row."""
    return torch.empty(shape, dtype=dtype, layout=torch._mkldnn)  # type: ignore[attr-defined]


def dense_view(opaque: Tensor) -> Tensor:
    """The values of a tensor of oneDNN's that lie row by row, as an ordinary tensor; no copy."""
    address = torch.ops.mkldnn.data_ptr(opaque)
    memory = (ctypes.c_char * (opaque.numel() * opaque.element_size())).from_address(address)
    memory.owner = opaque  # type: ignore[attr-defined]  # lives as long as the view
    return torch.frombuffer(memory, dtype=opaque.dtype).view(opaque.shape)


def plain(weight: Tensor) -> Tensor:
    """A weight as an ordinary tensor, whether it is packed (`vtcli.models.packing`) or not."""
    return weight.to_dense() if weight.is_mkldnn else weight
