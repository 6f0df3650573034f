"""Attention in bf16 by a compiled kernel for processors with AVX-512 BF16 (`native_attention.c`).

The kernel is compiled when the package is installed, if there is a C compiler. Without it, and on
other processors, PyTorch computes attention.

Shapes: B clips or windows, H heads, N queries, M keys, D channels per head, K kinds of masks.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.runtime.device import cpu_features

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = SOURCE.with_name("_native_attention.so")
SWITCH = "VT_NATIVE_ATTENTION"  # environment variable: 0 leaves attention to PyTorch
CHANNELS = 32  # of which the channels of a head are a multiple
MIN_TOKENS = 32  # queries and keys from which the kernel is faster


class _Attention(ctypes.Structure):
    """The arguments of `vt_attend`, in the order of the C structure; strides count values."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "y", "bias", "mask", "kind")),
        *((name, ctypes.c_int64) for name in ("windows", "heads", "queries", "keys", "width")),
        *((f"{x}_{axis}", ctypes.c_int64) for x in "qkv" for axis in ("window", "head", "row")),
        *((name, ctypes.c_int64) for name in ("bias_head", "bias_row", "mask_kind", "mask_row")),
        *((name, ctypes.c_int64) for name in ("threads", "amx")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("parts", "next")),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """The library of this source; None if it is not compiled, or not for this processor."""
    if "avx512_bf16" not in cpu_features():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.vt_source.restype = ctypes.c_uint32
        return library if library.vt_source() == zlib.crc32(SOURCE.read_bytes()) else None
    except (OSError, AttributeError):
        return None


@cache
def has_amx() -> bool:
    """Whether the processor has a matrix unit, and the system lets this process use it."""
    library = _library()
    return library is not None and "amx_tile" in cpu_features() and bool(library.vt_request_amx())


def is_available() -> bool:
    """Whether the kernel computes attention here: compiled, AVX-512 BF16, not switched off."""
    return os.environ.get(SWITCH) != "0" and _library() is not None


def computes(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> bool:
    """Whether `attend` takes these tensors, and is faster than PyTorch.

    The caller must need no gradients, and the tensors must not be traced.
    """
    given = (q_BHND, k_BHMD, v_BHMD)
    if q_BHND.device.type != "cpu" or not is_available():
        return False
    tokens, channels = min(q_BHND.shape[2], k_BHMD.shape[2]), {x.shape[-1] for x in given}
    rows = all(x.dtype == torch.bfloat16 and x.stride(-1) == 1 for x in given)
    return rows and tokens >= MIN_TOKENS and len(channels) == 1 and min(channels) % CHANNELS == 0


def attend(
    q_BHND: Tensor,
    k_BHMD: Tensor,
    v_BHMD: Tensor,
    bias_HNM: Tensor | None = None,
    mask_KNM: Tensor | None = None,
    kind_B: Tensor | None = None,
) -> Tensor:
    """softmax(q·kᵀ/√D + bias + mask of the kind)·v -> [B,H,N,D], laid out as [B,N,H,D].

    Only for what `computes` is true; bias and mask are rounded to bf16. Raises `MemoryError`.
    """
    library = _library()
    assert library is not None
    (B, H, N, D), M = q_BHND.shape, k_BHMD.shape[2]
    y_BNHD = q_BHND.new_empty(B, N, H, D)
    fields: dict[str, Any] = dict(windows=B, heads=H, queries=N, keys=M, width=D, scale=D**-0.5)
    fields |= dict(y=y_BNHD.data_ptr(), threads=torch.get_num_threads(), amx=has_amx())
    for name, x in (("q", q_BHND), ("k", k_BHMD), ("v", v_BHMD)):
        fields |= _place(name, x, ("window", "head", "row"))
    if bias_HNM is not None:
        bias_HNM = _rows(bias_HNM, H, N, M)
        fields |= _place("bias", bias_HNM, ("head", "row"))
    if mask_KNM is not None and kind_B is not None:
        mask_KNM, kind_B = _rows(mask_KNM, len(mask_KNM), N, M), kind_B.long().contiguous()
        fields |= _place("mask", mask_KNM, ("kind", "row")) | dict(kind=kind_B.data_ptr())
    if not library.vt_attend(ctypes.byref(_Attention(**fields))):
        raise MemoryError("not enough memory for attention")
    return y_BNHD.transpose(1, 2)


def _place(name: str, x: Tensor, axes: tuple[str, ...]) -> dict[str, int]:
    """The fields that say where the values of a tensor lie: its address and the axes' strides."""
    strides = {f"{name}_{axis}": x.stride(number) for number, axis in enumerate(axes)}
    return {name: x.data_ptr()} | strides


def _rows(x_XNM: Tensor, X: int, N: int, M: int) -> Tensor:
    """Bias or mask as rows in bf16."""
    x_XNM = x_XNM.to(torch.bfloat16).expand(X, N, M)
    return x_XNM if x_XNM.stride(-1) == 1 else x_XNM.contiguous()
