"""Video Swin Transformer (Liu et al., arXiv 2106.13230): attention in shifted space-time windows.

Tokens attend only within windows of 8x7x7; every second block shifts the windows by half their size
so that information crosses their borders (section 3.2; `windows.py`). Between stages 2x2 tokens of
a frame are merged into one. On the CPU a block computes a few windows at a time, so that the
intermediate results stay in the cache.

Shapes: B clips, T,H,W tokens along time, height, width, M tokens of all clips, W windows of N
slots, P slots of all windows, K kinds of windows, C channels, H heads of D channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby, product
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vtcli.models.input_check import check_clip
from vtcli.models.layers import (
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    add_branch,
    adds_in_place,
    attends_by_onednn,
    attends_fused,
    linear,
    onednn_attention,
    patches,
    softmax,
)
from vtcli.models.network import VideoNetwork
from vtcli.models.videoswin.configs import VideoSwinConfig
from vtcli.models.videoswin.windows import Windows, cut_windows, relative_position

INITIAL_STD = 0.02
# Narrower than any published network: at 48 channels, branches initialized with 0.02 contribute
# almost nothing for the first epochs.
NARROW_WIDTH, NARROW_STD = 96, 0.08
HEAD_STD = 0.01
# Largest number of elements of a temporary tensor: it fits in a CPU's cache, or in a GPU's memory.
CPU_ELEMENTS = 2**22
CPU_SCORES = 2**20
GPU_SCORES = 2**29
# Tokens of a window from which attention in fp32 is faster head by head (with AVX-512).
MIN_WINDOW = 128


def chunked(elements: int, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Chunks of the first dimension of tensors with equally many rows.

    elements: the size of the largest temporary tensor that is computed from all rows. Chunks are
    faster only on a CPU and only without gradients; otherwise there is one.
    """
    first = rows[0]
    if first.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return iter([rows])
    count = min(len(first), math.ceil(elements / CPU_ELEMENTS))
    return zip(*(r.tensor_split(count) for r in rows), strict=True)


def biased_attention(
    q_WHND: Tensor,
    k_WHND: Tensor,
    v_WHND: Tensor,
    bias_HNN: Tensor,
    mask_KNN: Tensor | None,
    kind_W: Tensor,
) -> Tensor:
    """softmax(q·kᵀ/√D + bias + mask)·v -> [W,H,N,D], a few windows or heads at a time."""
    on_cpu = q_WHND.device.type == "cpu"
    attend, scores = (_explicit, CPU_SCORES) if on_cpu else (_fused, GPU_SCORES)
    if torch.compiler.is_compiling():
        # In one chunk: a loop over windows would fix their number, and with it the batch size.
        return attend(q_WHND, k_WHND, v_WHND, _masked(bias_HNN, mask_KNN, kind_W))
    if on_cpu and mask_KNN is not None:
        return _by_kind(q_WHND, k_WHND, v_WHND, bias_HNN, mask_KNN, kind_W)
    by_onednn = attends_by_onednn(q_WHND)
    if by_onednn or attends_fused(q_WHND):
        by_head = by_onednn and q_WHND.shape[2] >= MIN_WINDOW
        return (_head_by_head if by_head else _fused)(q_WHND, k_WHND, v_WHND, bias_HNN[None])
    W, H, N, _ = q_WHND.shape
    window_step, head_step = max(1, scores // (H * N * N)), max(1, scores // (N * N))
    chunks = []
    # A chunk has all heads of some windows or some heads of one, so concatenation keeps the order.
    for w, h in product(range(0, W, window_step), range(0, H, head_step)):
        ws, hs = slice(w, w + window_step), slice(h, h + head_step)
        bias_WHNN = _masked(bias_HNN[hs], mask_KNN, kind_W[ws])
        y_WHND = attend(q_WHND[ws, hs], k_WHND[ws, hs], v_WHND[ws, hs], bias_WHNN)
        chunks.append(y_WHND.flatten(0, 1))
    return torch.cat(chunks).view(q_WHND.shape)


def _by_kind(
    q_WHND: Tensor,
    k_WHND: Tensor,
    v_WHND: Tensor,
    bias_HNN: Tensor,
    mask_KNN: Tensor,
    kind_W: Tensor,
) -> Tensor:
    """`biased_attention` with one sum of bias and mask for all windows of a kind."""
    kinds = kind_W.tolist()
    bias_of = {kind: bias_HNN + mask_KNN[kind] if kind else bias_HNN for kind in set(kinds)}
    parts, end = [], 0
    for kind, same in groupby(kinds):
        ws = slice(end, end + len(list(same)))
        y_WHND = biased_attention(q_WHND[ws], k_WHND[ws], v_WHND[ws], bias_of[kind], None, kind_W)
        parts.append(y_WHND.transpose(1, 2))
        end = ws.stop
    return torch.cat(parts).transpose(1, 2)


def _head_by_head(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_1HNN: Tensor) -> Tensor:
    """Each head of each window by itself: scores stay in the cache."""
    q_WHND = q_WHND * q_WHND.shape[-1] ** -0.5
    k_WHND, v_WHND = k_WHND.contiguous(), v_WHND.contiguous()
    y_WNHD = q_WHND.new_empty(q_WHND.transpose(1, 2).shape)
    for w, h in product(range(y_WNHD.shape[0]), range(y_WNHD.shape[2])):
        y_WNHD[w, :, h] = onednn_attention(
            q_WHND[w, h], k_WHND[w, h], v_WHND[w, h], bias_1HNN[0, h]
        )
    return y_WNHD.transpose(1, 2)


def _masked(bias_HNN: Tensor, mask_KNN: Tensor | None, kind_W: Tensor) -> Tensor:
    """Bias and mask of each window's scores: [W,H,N,N], or [1,H,N,N] if the same for all."""
    bias_1HNN = bias_HNN[None]
    return bias_1HNN if mask_KNN is None else bias_1HNN + mask_KNN[kind_W, None]


def _explicit(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_WHNN: Tensor) -> Tensor:
    """Faster on the CPU than the fused kernel, which adds a bias slowly and is slow in bf16."""
    q, k, v = (x.flatten(0, 1) for x in (q_WHND, k_WHND, v_WHND))
    bias = bias_WHNN.expand(q_WHND.shape[0], -1, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return (softmax(scores) @ v).view(v_WHND.shape)


def _fused(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_WHNN: Tensor) -> Tensor:
    bias_WHNN = bias_WHNN.expand(q_WHND.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q_WHND, k_WHND, v_WHND, attn_mask=bias_WHNN)


class WindowAttention(nn.Module):
    """Attention within windows with a relative position bias (3D W-MSA): [W,N,C] -> [W,N,C]."""

    def __init__(self, config: VideoSwinConfig, stage: int) -> None:
        super().__init__()
        C, self.num_heads = config.widths[stage], config.num_heads[stage]
        self.window_size = config.window_size
        self.bias_table = nn.Parameter(torch.empty(config.bias_rows, self.num_heads))
        self.qkv = Linear(C, 3 * C, bias=config.qkv_bias)
        self.proj = Linear(C, C)

    def position_bias(self, slots: int) -> Tensor:
        """The relative position bias of each head in windows with this number of slots: [H,N,N].

        A window smaller than the configured one uses the rows of its first slots. These are not a
        sub-window in space, but the released networks were trained this way.
        """
        row_NN = relative_position(self.window_size, self.bias_table.device)[:slots, :slots]
        # In fp32, where picking values takes a third of the time.
        bias_HM = self.bias_table.t().float().index_select(1, row_NN.flatten())
        return bias_HM.view(self.num_heads, slots, slots).to(self.bias_table.dtype)

    def forward(
        self, x_WNC: Tensor, bias_HNN: Tensor, mask_KNN: Tensor | None, kind_W: Tensor
    ) -> Tensor:
        W, N, C = x_WNC.shape
        qkv_WN3HD = self.qkv(x_WNC).view(W, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv_WN3HD.permute(2, 0, 3, 1, 4)
        y_WHND = biased_attention(q, k, v, bias_HNN, mask_KNN, kind_W)
        return self.proj(y_WHND.transpose(1, 2).reshape(W, N, C))


class Block(nn.Module):
    """Window attention and an MLP: [B,T,H,W,C] -> [B,T,H,W,C].

    `shifted` shifts the windows by half their size. An axis no longer than a window is one window
    and is not shifted.
    """

    def __init__(
        self, config: VideoSwinConfig, stage: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        C = config.widths[stage]
        self.window_size, self.shifted = config.window_size, shifted
        self.hidden = round(config.mlp_ratio * C)
        self.norm1 = LayerNorm(C)
        self.attn = WindowAttention(config, stage)
        self.norm2 = LayerNorm(C)
        self.mlp = Mlp(C, self.hidden, "gelu")
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """On a CPU without gradients x is changed in place: it must be contiguous and must not be
        used afterwards.
        """
        in_place = adds_in_place(x_BTHWC, self.drop_path)
        attend = self._add_attention_ if in_place else self._add_attention
        x_BTHWC = attend(x_BTHWC, *self._cut(x_BTHWC))
        tokens = CPU_ELEMENTS // self.hidden
        return add_branch(x_BTHWC, lambda x: self.mlp(self.norm2(x)), self.drop_path, tokens)

    def _cut(self, x_BTHWC: Tensor) -> tuple[list[Windows], Tensor, Tensor]:
        """The windows of the tokens, the slot of each token [M], the bias of full windows."""
        B, *grid, _ = x_BTHWC.shape
        sizes = list(zip(grid, self.window_size, strict=True))
        window = tuple(min(size, step) for size, step in sizes)
        shift = tuple(step // 2 if self.shifted and size > step else 0 for size, step in sizes)
        cut, slot_M = cut_windows(B, tuple(grid), window, shift, x_BTHWC.device, x_BTHWC.dtype)
        return cut, slot_M, self.attn.position_bias(math.prod(window))

    def _add_attention(
        self, x_BTHWC: Tensor, cut: list[Windows], slot_M: Tensor, bias_HNN: Tensor
    ) -> Tensor:
        """x + attention in each window."""
        x_MC = x_BTHWC.flatten(0, 3)
        parts = [y_PC for windows in cut for _, y_PC in self._attend(windows, x_MC, bias_HNN)]
        y_MC = torch.cat(parts).index_select(0, slot_M)
        branch_BTHWC = self.drop_path(y_MC.view(x_BTHWC.shape))
        if branch_BTHWC.dtype != x_BTHWC.dtype:  # autocast: the sum has the higher precision
            return x_BTHWC + branch_BTHWC
        # In place: allocating another tensor of this size costs more than the addition.
        return branch_BTHWC.add_(x_BTHWC)

    def _add_attention_(
        self, x_BTHWC: Tensor, cut: list[Windows], _: Tensor, bias_HNN: Tensor
    ) -> Tensor:
        """The same in place, some windows at a time; each token is in one window."""
        x_MC = x_BTHWC.view(-1, x_BTHWC.shape[-1])
        for windows in cut:
            for token_P, y_PC in self._attend(windows, x_MC, bias_HNN):
                if windows.padded:
                    is_token_P = token_P >= 0
                    token_P, y_PC = token_P[is_token_P], y_PC[is_token_P]
                x_MC.index_add_(0, token_P, y_PC.to(x_MC.dtype))
        return x_BTHWC

    def _attend(
        self, windows: Windows, x_MC: Tensor, bias_HNN: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attention in windows of one size, some at a time: their tokens [P] and results [P,C]."""
        bias_HNN = bias_HNN[:, windows.part, windows.part]
        elements = 3 * x_MC.shape[1] * windows.tokens.numel()
        for token_WN, kind_W in chunked(elements, windows.tokens, windows.kinds):
            token_P = token_WN.flatten()
            y_WNC = self.norm1(x_MC.index_select(0, token_P.clamp(min=0))).view(*token_WN.shape, -1)
            if windows.padded:
                # As upstream: padding is zero after the norm, and tokens attend to it unmasked.
                y_WNC = y_WNC.masked_fill((token_WN < 0)[..., None], 0.0)
            yield token_P, self.attn(y_WNC, bias_HNN, windows.masks, kind_W).flatten(0, 1)


class PatchMerging(nn.Module):
    """Merge 2x2 tokens of a frame into one of twice the width: [B,T,H,W,C] -> [B,T,H/2,W/2,2C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        *_, H, W, _ = x_BTHWC.shape
        if H % 2 or W % 2:
            x_BTHWC = F.pad(x_BTHWC, (0, 0, 0, W % 2, 0, H % 2))
        # The order of the four neighbors is column by column.
        x_BTHWC = rearrange(x_BTHWC, "b t (h i) (w j) c -> b t h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(x_BTHWC))


class Stage(nn.Module):
    """Blocks with alternately unshifted and shifted windows; all but the last stage then merge."""

    def __init__(self, config: VideoSwinConfig, stage: int, drop_path: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config, stage, shifted=number % 2 == 1, drop_path=rate)
            for number, rate in enumerate(drop_path)
        )
        last = stage == len(config.depths) - 1
        self.merge = nn.Identity() if last else PatchMerging(config.widths[stage])

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTHWC = block(x_BTHWC)
        return self.merge(x_BTHWC)


class PatchEmbed(nn.Module):
    """Strided convolution as one matrix product, and a norm: [B,3,T',H',W'] -> [B,T,H,W,C]."""

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, config.width, config.patch_size, config.patch_size)
        self.norm = LayerNorm(config.width) if config.patch_norm else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        kernel = self.proj.weight.shape[2:]
        t, h, w = (-size % step for size, step in zip(x_BCTHW.shape[2:], kernel, strict=True))
        x_BCTHW = F.pad(x_BCTHW, (0, w, 0, h, 0, t)) if t + h + w else x_BCTHW
        rows = patches(x_BCTHW, (kernel[0], kernel[1], kernel[2]))
        return self.norm(linear(rows, self.proj.weight.flatten(1), self.proj.bias))


class VideoSwin(VideoNetwork):
    """Clip [B,3,T,H,W] of any size, normalized -> logits [B,K]."""

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu")
        self.stages = nn.ModuleList(
            Stage(config, stage, part.tolist())
            for stage, part in enumerate(rates.split(list(config.depths)))
        )
        self.norm = LayerNorm(config.widths[-1])
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(clip_BCTHW), self.config.dropout, self.training))

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        """The clip representation [B,C] that the classifier reads: the mean of all tokens.

        Raises `ShapeError` for what is not a clip; frames, height and width may have any size.
        """
        check_clip(clip_BCTHW)
        x_BTHWC = self.patch_embed(clip_BCTHW)
        for stage in self.stages:
            x_BTHWC = stage(x_BTHWC)
        return self.norm(x_BTHWC).mean((1, 2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers as timm's models name them, for layer-wise rates; a merging is a layer of its own,
        after the blocks of its stage.
        """
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)\.", None), (r"^stages\.(\d+)\.merge\.", (9999,))]
        return {"stem": r"^patch_embed", "blocks": r"^stages\.(\d+)\." if coarse else blocks}

    def transformer_blocks(self) -> list[nn.Module]:
        """The modules that are recomputed, or sharded, one at a time."""
        stages: list[Any] = list(self.stages)
        return [block for stage in stages for block in stage.blocks]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize as upstream does; narrow networks with larger values."""
        std = INITIAL_STD if self.config.width >= NARROW_WIDTH else NARROW_STD
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.LayerNorm)):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.bias_table, std=INITIAL_STD)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
