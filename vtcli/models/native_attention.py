"""Attention in bf16 by a compiled kernel for processors with AVX-512 BF16 (`native_attention.c`).

The kernel is compiled when the package is installed, if there is a C compiler. Without it, and on
other processors, PyTorch computes attention.

Shapes: B clips or windows, H heads, N queries, M keys, D channels per head, K kinds of masks.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vtcli.runtime.device import cpu_features

LIBRARY = Path(__file__).with_name("_native_attention.so")
VERSION = 1  # of the functions and fields below; a library of another version is not used
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
        ("amx", ctypes.c_int64),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("parts", "next", "failed")),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel; None if there is none for this package, processor or process."""
    if "avx512_bf16" not in cpu_features():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        return library if library.vt_attention_version() == VERSION else None
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
    """Whether `attend` takes these tensors, and is faster than PyTorch. Gradients are not asked."""
    if q_BHND.dtype != torch.bfloat16 or q_BHND.device.type != "cpu" or not is_available():
        return False
    tokens = min(q_BHND.shape[2], k_BHMD.shape[2])
    rows = all(x.stride(-1) == 1 for x in (q_BHND, k_BHMD, v_BHMD))
    return rows and tokens >= MIN_TOKENS and q_BHND.shape[-1] % CHANNELS == 0


def attend(
    q_BHND: Tensor,
    k_BHMD: Tensor,
    v_BHMD: Tensor,
    bias_HNM: Tensor | None = None,
    mask_KNM: Tensor | None = None,
    kind_B: Tensor | None = None,
) -> Tensor:
    """softmax(q·kᵀ/√D + bias + mask of the kind)·v -> [B,H,N,D], laid out as [B,N,H,D].

    All in bf16, and only for what `computes` is true. Raises `MemoryError`.
    """
    B, H, N, D = q_BHND.shape
    y_BNHD = q_BHND.new_empty(B, N, H, D)
    fields = dict(y=y_BNHD.data_ptr(), scale=D**-0.5, amx=has_amx())
    fields |= dict(windows=B, heads=H, queries=N, keys=k_BHMD.shape[2], width=D)
    for name, x in (("q", q_BHND), ("k", k_BHMD), ("v", v_BHMD)):
        fields[name] = x.data_ptr()
        fields |= {f"{name}_window": x.stride(0), f"{name}_head": x.stride(1)}
        fields[f"{name}_row"] = x.stride(2)
    if bias_HNM is not None:
        bias_HNM = _with_rows(bias_HNM)
        fields |= dict(bias=bias_HNM.data_ptr(), bias_head=bias_HNM.stride(0))
        fields["bias_row"] = bias_HNM.stride(1)
    if mask_KNM is not None and kind_B is not None:
        mask_KNM, kind_B = _with_rows(mask_KNM), kind_B.contiguous()
        fields |= dict(mask=mask_KNM.data_ptr(), mask_kind=mask_KNM.stride(0))
        fields |= dict(mask_row=mask_KNM.stride(1), kind=kind_B.data_ptr())
    library = _library()
    if library is None or not library.vt_attend(ctypes.byref(_Attention(**fields))):
        raise MemoryError("not enough memory for attention")
    return y_BNHD.transpose(1, 2)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
