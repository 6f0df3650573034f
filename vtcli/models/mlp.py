"""The MLP of a transformer block and its activations, with fast exact forms on a CPU.

Shapes: B clips, C channels, M tokens, L any leading dimensions.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.models.layers import (
    DropPath,
    LayerNorm,
    Linear,
    add_branch,
    adds_in_place,
    linear,
    scaled_linear,
)

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]

QUICK_GELU_SLOPE = 1.702
# The tanh form of GELU is x·σ(u) with u = x·(GELU_SLOPE + GELU_CUBIC·x²).
GELU_SLOPE = 2 * (2 / math.pi) ** 0.5
GELU_CUBIC = GELU_SLOPE * 0.044715
# Activations that are computed at a time, in several passes of fp32: they fit in a CPU's cache.
GELU_ELEMENTS = 1 << 17
MIN_GELU = 1 << 15
# Tokens whose MLP is computed at a time by a thread: the hidden activations fit in a CPU's cache.
CPU_MLP_TOKENS = 1576  # eight frames of 197 tokens


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


def gelu(x: Tensor, activation: Activation) -> Tensor:
    """GELU, or its tanh form, of every element."""
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def gelu_(x: Tensor, activation: Activation) -> Tensor:
    """`gelu` in place, without gradients, which takes a quarter less time."""
    if activation != "gelu_tanh":
        return torch.ops.aten.gelu_(x)
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not on_cpu or x.numel() < MIN_GELU:
        return torch.ops.aten.gelu_(x, approximate="tanh")
    # The CPU's tanh takes longer than all of this, except for a few values.
    slope = torch.tensor(GELU_SLOPE)
    for part in x.view(-1).split(GELU_ELEMENTS):
        z = part.float()
        part.copy_(torch.addcmul(slope, z, z, value=GELU_CUBIC).mul_(z).sigmoid_().mul_(z))
    return x


def add_mlp(
    x_BLC: Tensor, norm: LayerNorm, mlp: Mlp, drop_path: DropPath, tokens: int = CPU_MLP_TOKENS
) -> Tensor:
    """x + mlp(norm(x)) -> [B,L,C]; in place where `add_branch` is, about `tokens` at a time."""
    if mlp.activation == "quick_gelu" and adds_in_place(x_BLC, drop_path):
        branch, scale = partial(mlp.scaled, norm=norm), 1 / QUICK_GELU_SLOPE
        return add_branch(x_BLC, branch, drop_path, tokens, scale)
    return add_branch(x_BLC, lambda x_LC: mlp(norm(x_LC)), drop_path, tokens)
