"""Blocks that at least two architectures share, arranged so that most time goes into matrix
products.

Shapes: B clips, T frames, N tokens, C channels, H heads, D channels per head, L any leading
dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]

QUICK_GELU_SLOPE = 1.702
# Scores of explicit attention are kept below this many elements at a time (64 MiB in bf16).
MAX_SCORES = 32 * 1024 * 1024


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose gain and bias stay in fp32 when the rest of the network is bf16 or fp16."""

    def forward(self, x_LC: Tensor) -> Tensor:
        if x_LC.dtype == self.weight.dtype or x_LC.device.type == "cpu":
            # The CPU kernel takes fp32 parameters with half-precision input and sums in fp32.
            return super().forward(x_LC)
        normed = F.layer_norm(x_LC.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x_LC.dtype)


class Mlp(nn.Module):
    """Linear, activation, dropout, Linear on the last dimension: [L,C] -> [L,C]."""

    def __init__(
        self, width: int, hidden: int, activation: Activation, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation
        self.dropout = dropout

    def forward(self, x_LC: Tensor) -> Tensor:
        if self.activation == "quick_gelu":
            return self._quick_gelu(x_LC)
        h = F.gelu(self.fc1(x_LC), approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.fc2(F.dropout(h, self.dropout, self.training))

    def _quick_gelu(self, x_LC: Tensor) -> Tensor:
        """z·σ(1.702z) = silu(1.702z)/1.702, both factors left to the matrix products' own
        scaling.
        """
        x_MC = x_LC.flatten(0, -2)
        slope = QUICK_GELU_SLOPE
        z = torch.addmm(self.fc1.bias, x_MC, self.fc1.weight.t(), beta=slope, alpha=slope)
        h = F.silu(z, inplace=not torch.is_grad_enabled())
        h = F.dropout(h, self.dropout, self.training)
        y_MC = torch.addmm(self.fc2.bias, h, self.fc2.weight.t(), alpha=1 / slope)
        return y_MC.view(x_LC.shape)


def attention(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
    """softmax(q·kᵀ/√D)·v -> [B,H,N,D]; the fastest exact form for the device and precision."""
    on_cpu_in_half = q_BHND.device.type == "cpu" and q_BHND.dtype != torch.float32
    if not on_cpu_in_half or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD)
    # The CPU's fused kernel multiplies bf16 at a fraction of the rate of its plain matrix product.
    q_BHND, k_BHMD, v_BHMD = q_BHND.contiguous(), k_BHMD.contiguous(), v_BHMD.contiguous()
    per_clip = q_BHND.shape[1] * q_BHND.shape[2] * k_BHMD.shape[2]
    step = max(1, MAX_SCORES // per_clip)
    parts = [
        _explicit_attention(q, k, v)
        for q, k, v in zip(q_BHND.split(step), k_BHMD.split(step), v_BHMD.split(step), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _explicit_attention(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
    scores_BHNM = (q_BHND * q_BHND.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2)
    return scores_BHNM.softmax(-1) @ v_BHMD


class Attention(nn.Module):
    """Multi-head self-attention with packed q, k, v rows: [B,N,C] -> [B,N,C]."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        B, N, C = x_BNC.shape
        qkv_BN3HD = self.qkv(x_BNC).view(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv_BN3HD.permute(2, 0, 3, 1, 4)
        y_BHND = attention(q, k, v)
        return self.proj(y_BHND.transpose(1, 2).reshape(B, N, C))


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is dropped with `rate`, kept ones scaled by
    1/keep.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BLC: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_BLC
        keep = 1.0 - self.rate
        mask = x_BLC.new_empty((x_BLC.shape[0],) + (1,) * (x_BLC.ndim - 1)).bernoulli_(keep)
        return x_BLC * mask / keep


def depthwise_conv3d(x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Zero-padded depth-wise convolution of tokens on their grid, without copying them to channels
    first.

    weight [C,1,kt,kh,kw], bias [C] -> [B,T,H,W,C].
    """
    # Tokens on a grid are exactly PyTorch's channels-last layout of a volume.
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    padding = tuple(size // 2 for size in weight.shape[2:])
    y_BCTHW = F.conv3d(x_BCTHW, weight, bias, padding=padding, groups=weight.shape[0])
    return y_BCTHW.permute(0, 2, 3, 4, 1)


def patches(x_BCTHW: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Non-overlapping blocks of a clip as rows, in the order of a convolution kernel's elements.

    -> [B, T/kt, H/kh, W/kw, C·kt·kh·kw]; a strided convolution is then one matrix product.
    """
    kt, kh, kw = kernel
    B, C, T, H, W = x_BCTHW.shape
    blocks = x_BCTHW.view(B, C, T // kt, kt, H // kh, kh, W // kw, kw)
    rows = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return rows.reshape(B, T // kt, H // kh, W // kw, C * kt * kh * kw)
