"""Layers that at least two architectures share, with fast exact forms for each device.

Shapes: B clips, T frames, N tokens, C channels, H heads, D channels per head, L any leading
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.models import native_attention
from vtcli.models.activations import QUICK_GELU_SLOPE, Activation, gelu, gelu_
from vtcli.models.opaque import dense_view, empty_opaque, has_views, is_traced, plain
from vtcli.runtime.device import cpu_features, cpu_name

# Scores that explicit attention computes at a time: they fit in a CPU's cache (2 MiB in bf16).
MAX_SCORES = 1024 * 1024
# Rows, and multiply-accumulates, from which a product takes less time by oneDNN: its call takes
# longer, and it rearranges the weights first.
MIN_ROWS = {torch.float32: 32, torch.bfloat16: 1024}
MIN_MACS = 3_000_000
# Channels up to which oneDNN computes products in fp32 faster than MKL on Intel's processors.
MAX_CHANNELS = 128
MIN_SOFTMAX = 1 << 16  # scores that make up for the calls of oneDNN's softmax
# Keys from which attention in fp32 is faster head by head.
MIN_KEYS = 512
# Tokens whose MLP is computed at a time by a thread: the hidden activations fit in a CPU's cache.
CPU_MLP_TOKENS = 1576  # eight frames of 197 tokens
# x·Wᵀ + b by oneDNN, which PyTorch's own compiler calls; None where PyTorch is built without it.
_linear_op = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN_LINEAR = None if _linear_op is None else _linear_op.default


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose weight and bias stay in fp32 when the rest of the network is bf16 or fp16."""

    def forward(self, x_LC: Tensor) -> Tensor:
        if x_LC.dtype == self.weight.dtype or x_LC.device.type == "cpu":
            # The CPU kernel accepts fp32 parameters with half-precision input and sums in fp32.
            return F.layer_norm(x_LC, self.normalized_shape, self.weight, self.bias, self.eps)
        normed = F.layer_norm(x_LC.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x_LC.dtype)

    def scaled(self, x_LC: Tensor, scale: float) -> Tensor:
        """scale·norm(x) on a CPU."""
        weight, bias = self.weight * scale, self.bias * scale
        return F.layer_norm(x_LC, self.normalized_shape, weight, bias, self.eps)


def linear(x_LC: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, by oneDNN where that is faster: [L,C] -> [L,K]; the weight may be packed for it."""
    if not _faster_by_onednn(x_LC, weight):
        return F.linear(x_LC, plain(weight), bias)
    return onednn_linear(x_LC, weight, bias)


def onednn_linear(x_LC: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear by oneDNN: [L,C] -> [L,K]; the weight must be contiguous, or its transpose."""
    if _ONEDNN_LINEAR is not None:
        y_LK: Tensor = _ONEDNN_LINEAR(x_LC, weight, bias, "none", [], "")
        return y_LK
    # Rows are the pixels of a channels-last image that is one pixel wide.
    x_1CM1 = x_LC.reshape(1, -1, 1, x_LC.shape[-1]).permute(0, 3, 1, 2)
    y_1KM1 = onednn_convolution(x_1CM1, weight[:, :, None, None], bias)
    return y_1KM1.permute(0, 2, 3, 1).reshape(*x_LC.shape[:-1], -1)


def scaled_linear(x_LC: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """scale·(x·Wᵀ + b) -> [L,K]; a matrix product applies the scale itself."""
    if _faster_by_onednn(x_LC, weight):
        return linear(x_LC, weight, bias).mul_(scale)
    x_MC = x_LC.flatten(0, -2)
    y_MK = torch.addmm(bias, x_MC, plain(weight).t(), beta=scale, alpha=scale)
    return y_MK.view(*x_LC.shape[:-1], -1)


def _faster_by_onednn(x_LC: Tensor, weight: Tensor) -> bool:
    """Whether a matrix product should be given to oneDNN by name.

    oneDNN uses the full vector width of every processor; MKL, which computes fp32 matrix products,
    uses half of it on AMD, and on Intel's processors is slower for few channels alone. In bf16
    oneDNN computes both, but by name it adds the bias in the same pass, which pays for any size
    with AMX.
    """
    if not onednn_computes(x_LC):
        return False
    if weight.is_mkldnn:
        return True
    if x_LC.dtype == torch.bfloat16 and _has_amx():
        return True
    if x_LC.dtype == torch.float32 and _is_intel() and x_LC.shape[-1] > MAX_CHANNELS:
        return False
    if x_LC.numel() * weight.shape[0] < MIN_MACS:
        return False
    return x_LC.numel() >= MIN_ROWS[x_LC.dtype] * x_LC.shape[-1]


def onednn_computes(x_LC: Tensor) -> bool:
    """Whether products and convolutions of a tensor may be given to oneDNN by name.

    Its backward pass takes two to six times as long as that of matrix products, so training does
    not use it; nor does validation with autocast, whose types autocast converts for PyTorch's own
    operators alone. Its bf16 kernels need AVX-512.
    """
    if x_LC.device.type != "cpu" or is_traced(x_LC):
        return False
    if torch.is_grad_enabled() or x_LC.dtype not in MIN_ROWS or torch.is_autocast_enabled("cpu"):
        return False
    # Without AVX-512 it refuses convolutions and softmax in bf16.
    can = x_LC.dtype != torch.bfloat16 or _has_avx512()
    return can and torch.backends.mkldnn.is_available()


def attends_by_onednn(q_LD: Tensor) -> bool:
    """Whether attention in fp32 is faster by oneDNN's products than by PyTorch's fused kernel.

    Only with AVX-512 and not on Intel's processors: elsewhere oneDNN multiplies no faster than MKL,
    which the kernel calls.
    """
    is_fp32 = q_LD.dtype == torch.float32
    return is_fp32 and onednn_computes(q_LD) and _has_avx512() and not _is_intel()


def attends_fused(q_LD: Tensor) -> bool:
    """Whether attention on a CPU is fastest by PyTorch's fused kernel.

    In bf16 the kernel is fast with AMX alone; elsewhere a plain matrix product is far faster.
    """
    if not onednn_computes(q_LD):
        return False
    return _has_amx() if q_LD.dtype == torch.bfloat16 else not attends_by_onednn(q_LD)


def _has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


@cache
def _has_amx() -> bool:
    return "amx_tile" in cpu_features()


@cache
def _is_intel() -> bool:
    """Whether MKL uses the full vector width, which it does on Intel's processors alone."""
    return "Intel" in cpu_name() or _has_amx()  # older PyTorch has no names; AMX is Intel's


def onednn_convolution(
    x_BC: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int] = (), groups: int = 1
) -> Tensor:
    """A convolution of stride 1 by oneDNN: [B,C,...] -> [B,K,...]; padding: () for none.

    PyTorch's own convolutions take another kernel where they run on one thread in fp32, which needs
    1.8 times as long for a matrix product and up to 20 times as long for a depth-wise one.
    """
    ones = (1,) * (weight.ndim - 2)
    padding = padding or (0,) * len(ones)
    return torch.mkldnn_convolution(x_BC, weight, bias, padding, ones, ones, groups)


class Linear(nn.Linear):
    """nn.Linear computed by `linear`; its state has no packed weight."""

    def forward(self, x_LC: Tensor) -> Tensor:
        return linear(x_LC, self.weight, self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = plain(destination[prefix + "weight"])


class Mlp(nn.Module):
    """Linear, activation, dropout, Linear on the last dimension: [L,C] -> [L,C]."""

    def __init__(
        self, width: int, hidden: int, activation: Activation, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.activation = activation
        self.dropout = dropout

    def forward(self, x_LC: Tensor) -> Tensor:
        if self.activation == "quick_gelu":
            return self._quick_gelu(x_LC)
        h = self.fc1(x_LC)
        h = gelu(h, self.activation) if torch.is_grad_enabled() else gelu_(h, self.activation)
        return self.fc2(F.dropout(h, self.dropout, self.training))

    def _quick_gelu(self, x_LC: Tensor) -> Tensor:
        """z·σ(1.702z) = silu(1.702z)/1.702; both factors are merged into the two products."""
        slope = QUICK_GELU_SLOPE
        z = scaled_linear(x_LC, self.fc1.weight, self.fc1.bias, slope)
        h = F.silu(z, inplace=not torch.is_grad_enabled())
        h = F.dropout(h, self.dropout, self.training)
        return scaled_linear(h, self.fc2.weight, self.fc2.bias * slope, 1 / slope)

    def scaled(self, x_LC: Tensor, norm: LayerNorm) -> Tensor:
        """QUICK_GELU_SLOPE·mlp(norm(x)) with quick GELU, without dropout and gradients.

        The factor before the activation is merged into the norm, where it takes no time.
        """
        slope = QUICK_GELU_SLOPE
        z = linear(norm.scaled(x_LC, slope), self.fc1.weight, self.fc1.bias * slope)
        return linear(F.silu(z, inplace=True), self.fc2.weight, self.fc2.bias * slope)


def attention(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
    """softmax(q·kᵀ/√D)·v -> [B,H,N,D]; the fastest exact form for the device and precision."""
    if onednn_computes(q_BHND) and native_attention.computes(q_BHND, k_BHMD, v_BHMD):
        return native_attention.attend(q_BHND, k_BHMD, v_BHMD)
    if attends_by_onednn(q_BHND) and k_BHMD.shape[2] >= MIN_KEYS:
        return _attention_by_rows(q_BHND, k_BHMD, v_BHMD)
    on_cpu_in_half = q_BHND.device.type == "cpu" and q_BHND.dtype != torch.float32
    if not on_cpu_in_half or torch.compiler.is_compiling() or attends_fused(q_BHND):
        return F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD)
    # Without AMX, the CPU's fused kernel multiplies bf16 far slower than a plain product does.
    q_XND, k_XMD, v_XMD = (x.flatten(0, 1).contiguous() for x in (q_BHND, k_BHMD, v_BHMD))
    rows = max(1, MAX_SCORES // k_XMD.shape[1])
    heads = max(1, rows // q_XND.shape[1])
    groups = zip(q_XND.split(heads), k_XMD.split(heads), v_XMD.split(heads), strict=True)
    scale = q_XND.shape[-1] ** -0.5
    parts = [
        torch.bmm(attention_weights(q_rows, k, scale), v).flatten(0, 1)
        for q, k, v in groups
        for q_rows in q.split(rows, dim=1)
    ]
    return torch.cat(parts).view(q_BHND.shape)


def _attention_by_rows(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
    """`attention` in fp32, some rows of a head at a time."""
    rows = max(1, MAX_SCORES // k_BHMD.shape[2])
    q_XND, k_XMD, v_XMD = (x.flatten(0, 1).contiguous() for x in (q_BHND, k_BHMD, v_BHMD))
    q_XND = q_XND * q_XND.shape[-1] ** -0.5
    parts = [
        onednn_attention(q_RD, k_MD, v_MD)
        for q_ND, k_MD, v_MD in zip(q_XND, k_XMD, v_XMD, strict=True)
        for q_RD in q_ND.split(rows)
    ]
    return torch.cat(parts).view(q_BHND.shape)


def onednn_attention(
    q_ND: Tensor, k_MD: Tensor, v_MD: Tensor, bias_NM: Tensor | None = None
) -> Tensor:
    """softmax(q·kᵀ + bias)·v of one head -> [N,D]; q is scaled, k and v are contiguous.

    oneDNN multiplies fp32 matrices up to twice as fast as PyTorch's fused kernel and its batched
    product, which call MKL.
    """
    scores_NM = onednn_linear(q_ND, k_MD)
    if bias_NM is not None:
        scores_NM.add_(bias_NM)
    return onednn_linear(scores_NM.softmax(-1), v_MD.t())


def attention_weights(
    q_XND: Tensor, k_XMD: Tensor, scale: float, bias_XNM: Tensor | None = None
) -> Tensor:
    """softmax(scale·q·kᵀ + bias) -> [X,N,M], computed one product and one softmax at a time."""
    beta, bias = (0.0, q_XND.new_zeros(1, 1, 1)) if bias_XNM is None else (1.0, bias_XNM)
    multiply = partial(torch.baddbmm, bias, q_XND, k_XMD.transpose(1, 2), beta=beta, alpha=scale)
    shape = (*q_XND.shape[:2], k_XMD.shape[1])
    if not (_softmax_by_onednn(q_XND, math.prod(shape)) and has_views()):
        return softmax(multiply())
    scores_XNM = empty_opaque(shape, q_XND.dtype)
    multiply(out=dense_view(scores_XNM))
    return dense_view(scores_XNM.softmax(-1))


def softmax(scores_XNM: Tensor) -> Tensor:
    """Softmax over the last dimension; in bf16 on the CPU by oneDNN, in half the time."""
    if not _softmax_by_onednn(scores_XNM, scores_XNM.numel()):
        return scores_XNM.softmax(-1)
    return scores_XNM.to_mkldnn().softmax(-1).to_dense()


def _softmax_by_onednn(x: Tensor, count: int) -> bool:
    return x.dtype == torch.bfloat16 and onednn_computes(x) and count >= MIN_SOFTMAX


def add_branch(
    x_BLC: Tensor,
    branch: Callable[[Tensor], Tensor],
    drop_path: DropPath,
    tokens: int = CPU_MLP_TOKENS,
    scale: float = 1.0,
) -> Tensor:
    """x + scale·branch(x) -> [B,L,C], for a branch that computes each token by itself.

    On a CPU without gradients it is added in place, about so many tokens per thread at a time: x
    must be contiguous and must not be used afterwards.
    """
    if not adds_in_place(x_BLC, drop_path):
        return torch.add(x_BLC, drop_path(branch(x_BLC)), alpha=scale)
    x_MC = x_BLC.view(-1, x_BLC.shape[-1])
    chunks = math.ceil(len(x_MC) / (tokens * torch.get_num_threads()))
    for chunk_MC in x_MC.tensor_split(chunks):
        chunk_MC.add_(branch(chunk_MC), alpha=scale)
    return x_BLC


def add_mlp(
    x_BLC: Tensor, norm: LayerNorm, mlp: Mlp, drop_path: DropPath, tokens: int = CPU_MLP_TOKENS
) -> Tensor:
    """x + mlp(norm(x)) -> [B,L,C]; in place where `add_branch` is, about `tokens` at a time."""
    if mlp.activation == "quick_gelu" and adds_in_place(x_BLC, drop_path):
        branch, scale = partial(mlp.scaled, norm=norm), 1 / QUICK_GELU_SLOPE
        return add_branch(x_BLC, branch, drop_path, tokens, scale)
    return add_branch(x_BLC, lambda x_LC: mlp(norm(x_LC)), drop_path, tokens)


def adds_in_place(x_BLC: Tensor, drop_path: DropPath) -> bool:
    """Whether branches are added to x in place: on a CPU, without gradients."""
    on_cpu = x_BLC.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and not torch.is_grad_enabled() and not drop_path.training


class Attention(nn.Module):
    """Multi-head self-attention with packed q, k, v rows: [B,N,C] -> [B,N,C]."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.proj = Linear(width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        B, N, C = x_BNC.shape
        qkv_BN3HD = self.qkv(x_BNC).view(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv_BN3HD.permute(2, 0, 3, 1, 4)
        y_BHND = attention(q, k, v)
        return self.proj(y_BHND.transpose(1, 2).reshape(B, N, C))


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's branch is dropped with probability `rate`; the
    others are scaled by 1 / (1 - rate).
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
    """Zero-padded depth-wise convolution of tokens on their grid: [B,T,H,W,C] -> [B,T,H,W,C].

    weight [C,1,kt,kh,kw], bias [C].
    """
    # Tokens on a grid are PyTorch's channels-last memory format of a volume: no copy is made.
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    padding = tuple(size // 2 for size in weight.shape[2:])
    groups = weight.shape[0]
    if onednn_computes(x_BCTHW):
        y_BCTHW = onednn_convolution(x_BCTHW, weight, bias, padding, groups)
    else:
        y_BCTHW = F.conv3d(x_BCTHW, weight, bias, padding=padding, groups=groups)
    return y_BCTHW.permute(0, 2, 3, 4, 1)


def _moves_as_integers(x_BCTHW: Tensor) -> bool:
    """Whether values of 16 bits can be seen as integers of 64 bits, and a CPU moves them."""
    if x_BCTHW.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x_BCTHW.is_contiguous() and bool(x_BCTHW.storage_offset() % 4 == 0)


def patches(x_BCTHW: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Non-overlapping patches of a clip as rows, flattened like a convolution kernel.

    -> [B, T/kt, H/kh, W/kw, C·kt·kh·kw]. A strided convolution is then one matrix product.
    """
    kt, kh, kw = kernel
    B, C, T, H, W = x_BCTHW.shape
    # Four bf16 values are moved as one integer, in a third of the time.
    wide = x_BCTHW.dtype == torch.bfloat16 and kw % 4 == 0 and _moves_as_integers(x_BCTHW)
    if wide:
        x_BCTHW, W, kw = x_BCTHW.view(torch.int64), W // 4, kw // 4
    blocks = x_BCTHW.view(B, C, T // kt, kt, H // kh, kh, W // kw, kw)
    rows = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    rows = rows.reshape(B, T // kt, H // kh, W // kw, C * kt * kh * kw)
    return rows.view(torch.bfloat16) if wide else rows
