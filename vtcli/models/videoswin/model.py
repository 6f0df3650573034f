"""Video Swin Transformer (Liu et al., arXiv 2106.13230): attention in shifted space-time windows.

Tokens attend only within windows of 8x7x7; every second block shifts the windows by half their size
so that neighbors meet (section 3.2). Between stages 2x2 tokens of a frame merge into one. On the
CPU a block takes a few windows at a time, so that what it computes stays in the cache.

Shapes: B clips, T,H,W tokens along time, height, width, M rows of any tokens, W windows of N
places, P places in all, K kinds of windows, A = 3 axes, C channels, H heads of D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import product
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vtcli.errors import ShapeError
from vtcli.models.layers import DropPath, LayerNorm, Linear, Mlp, linear, patches
from vtcli.models.videoswin.configs import VideoSwinConfig

Size = tuple[int, ...]  # along time, height, width
R = TypeVar("R")

INITIAL_STD = 0.02
# Below the narrowest published network: at 48 channels 0.02 leaves the branches mute for epochs.
NARROW_WIDTH, NARROW_STD = 96, 0.08
HEAD_STD = 0.01
# Upstream adds -100, not -inf, to the score of tokens that only the cyclic shift brought together.
MASKED = -100.0
# Elements of a temporary: few enough for a CPU's cache, or for a GPU's memory.
CPU_ELEMENTS = 2**22
CPU_SCORES = 2**20
GPU_SCORES = 2**29


def piecewise(f: Callable[..., Tensor], elements: int, *rows: Tensor) -> Tensor:
    """`f(*rows)`, computed in pieces of the first dimension and put together.

    elements: of the largest temporary that `f` makes for all rows. Only a CPU gains by pieces, and
    only where no gradient is wanted; elsewhere `f` is called once.
    """
    first = rows[0]
    if first.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return f(*rows)
    count = min(len(first), math.ceil(elements / CPU_ELEMENTS))
    pieces = zip(*(r.tensor_split(count) for r in rows), strict=True)
    return torch.cat([f(*piece) for piece in pieces])


def remembered(make: Callable[..., R]) -> Callable[..., R]:
    """`make` with its latest results kept, except of tracing, whose tensors hold no numbers."""
    recall = lru_cache(maxsize=64)(make)

    @wraps(make)
    def call(*args: Any) -> R:
        tracing = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
        return make(*args) if tracing else recall(*args)

    return call


@dataclass(frozen=True)
class Windows:
    """Windows of one size, and which of their places may not see each other.

    tokens [W,N]: row of the token in each place, -1 where there is none, which `padded` says;
    part: which places of a whole window these are; kinds [W]: of the windows;
    masks [K,N,N]: what is added to the scores in windows of each kind, None where nothing is.
    """

    tokens: Tensor
    padded: bool
    part: slice
    kinds: Tensor
    masks: Tensor | None


@remembered
def cut_windows(
    batch: int, grid: Size, window: Size, shift: Size, device: torch.device, dtype: torch.dtype
) -> tuple[list[Windows], Tensor]:
    """The windows of a block for `batch` grids of tokens (section 3.2, figure 2), and the place of
    each token, counted through all of them: [M].

    The grid is padded at its ends to whole windows and shifted cyclically.
    """
    # Ordinary tensors even in inference mode, for training may use them later.
    with torch.inference_mode(False):
        length, (_, h, w) = math.prod(grid), window
        pad_t, pad_h, pad_w = (-size % step for size, step in zip(grid, window, strict=True))
        token_THW = torch.arange(length).view(grid)
        token_THW = F.pad(token_THW, (0, pad_w, 0, pad_h, 0, pad_t), value=-1)
        token_THW = token_THW.roll([-by for by in shift], (0, 1, 2))
        clip_B11 = torch.arange(batch).view(-1, 1, 1)
        cut = []
        for frames, part in _cut_in_time(len(token_THW), window[0], shift[0]):
            size, by = (part.stop - part.start, h, w), (0, *shift[1:])
            axes = dict(zip("thw", size, strict=True))
            tokens = token_THW[frames]
            token_WN = rearrange(tokens, "(a t) (b h) (c w) -> (a b c) (t h w)", **axes)
            token_BWN = torch.where(token_WN < 0, -1, token_WN + clip_B11 * length)
            windows = Windows(
                tokens=token_BWN.flatten(0, 1).to(device),
                padded=pad_t + pad_h + pad_w > 0,
                part=slice(part.start * h * w, part.stop * h * w),
                kinds=_kinds(tuple(tokens.shape), size, by).repeat(batch).to(device),
                masks=shift_masks(size, by, device, dtype) if any(by) else None,
            )
            cut.append(windows)
        token_P = torch.cat([windows.tokens.flatten() for windows in cut])
        # Places without a token come first when places are sorted by their tokens.
        return cut, token_P.argsort()[-batch * length :]


def _cut_in_time(frames: int, step: int, by: int) -> list[tuple[slice, slice]]:
    """Frames of a shifted grid, and which of their windows' frames they are.

    The last window joins the grid's end to its first `by` frames. As these may not see each other,
    it is two windows, which costs less than a mask.
    """
    if not by:
        return [(slice(0, frames), slice(0, step))]
    return [
        (slice(0, frames - step), slice(0, step)),
        (slice(frames - step, frames - by), slice(0, step - by)),
        (slice(frames - by, frames), slice(step - by, step)),
    ]


def _kinds(grid: Size, window: Size, shift: Size) -> Tensor:
    """The kind of each window of a cyclically shifted grid: [W], below 2³.

    The last window along a shifted axis joins both ends of the grid. The axes for which a window
    does so are the binary digits of its kind.
    """
    kind_W = torch.zeros(1, dtype=torch.long)
    for size, step, by in zip(grid, window, shift, strict=True):
        number = torch.arange(math.ceil(size / step))
        joins = (number == len(number) - 1) & (by > 0)
        kind_W = (2 * kind_W[:, None] + joins).flatten()
    return kind_W


@remembered
def shift_masks(window: Size, shift: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What is added to the scores in each kind of window: [8,N,N].

    Along an axis where a window joins both ends of the grid its last `shift` places come from the
    beginning, and must not see the others.
    """
    with torch.inference_mode(False):
        beyond = [torch.arange(step) >= step - by for step, by in zip(window, shift, strict=True)]
        beyond_AN = torch.stack(torch.meshgrid(*beyond, indexing="ij")).flatten(1)
        apart_ANN = beyond_AN[:, :, None] != beyond_AN[:, None, :]
        joins_KA = torch.tensor(list(product((False, True), repeat=len(window))))
        apart_KNN = (joins_KA[:, :, None, None] & apart_ANN).any(1)
        mask_KNN = torch.zeros(apart_KNN.shape, dtype=dtype).masked_fill(apart_KNN, MASKED)
        return mask_KNN.to(device)


@remembered
def relative_position(window: Size, device: torch.device) -> Tensor:
    """Row of the bias table for each pair of places of a window, time the slowest: [N,N]."""
    with torch.inference_mode(False):
        axes = torch.meshgrid(*(torch.arange(step) for step in window), indexing="ij")
        row_NN = torch.zeros((), dtype=torch.long)
        for axis, step in zip(axes, window, strict=True):
            offset_NN = axis.reshape(-1, 1) - axis.reshape(1, -1)
            row_NN = row_NN * (2 * step - 1) + offset_NN + step - 1
        return row_NN.to(device)


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
        # In one piece: a loop over windows would fix their number, and with it the batch.
        return attend(q_WHND, k_WHND, v_WHND, _masked(bias_HNN, mask_KNN, kind_W))
    W, H, N, _ = q_WHND.shape
    window_step, head_step = max(1, scores // (H * N * N)), max(1, scores // (N * N))
    pieces = []
    # A piece has all heads or is of one window: put together, pieces are in order.
    for w, h in product(range(0, W, window_step), range(0, H, head_step)):
        ws, hs = slice(w, w + window_step), slice(h, h + head_step)
        bias_WHNN = _masked(bias_HNN[hs], mask_KNN, kind_W[ws])
        y_WHND = attend(q_WHND[ws, hs], k_WHND[ws, hs], v_WHND[ws, hs], bias_WHNN)
        pieces.append(y_WHND.flatten(0, 1))
    return torch.cat(pieces).view(q_WHND.shape)


def _masked(bias_HNN: Tensor, mask_KNN: Tensor | None, kind_W: Tensor) -> Tensor:
    """What is added to the scores of each window: [W,H,N,N], or [1,H,N,N] where all are alike."""
    bias_1HNN = bias_HNN[None]
    return bias_1HNN if mask_KNN is None else bias_1HNN + mask_KNN[kind_W, None]


def _explicit(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_WHNN: Tensor) -> Tensor:
    """On the CPU faster than the fused kernel, which adds a bias slowly and is slow in bf16."""
    q, k, v = (x.flatten(0, 1) for x in (q_WHND, k_WHND, v_WHND))
    bias = bias_WHNN.expand(q_WHND.shape[0], -1, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return (scores.softmax(-1) @ v).view(v_WHND.shape)


def _fused(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_WHNN: Tensor) -> Tensor:
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

    def position_bias(self, places: int) -> Tensor:
        """What is added to each head's scores in windows of so many places: [H,N,N].

        Pairs in a window smaller than the configured one are looked up as if they were the first
        places of that: no sub-window in space, but so do the networks that were trained.
        """
        row_NN = relative_position(self.window_size, self.bias_table.device)[:places, :places]
        bias_HM = self.bias_table.t().gather(1, row_NN.reshape(1, -1).expand(self.num_heads, -1))
        return bias_HM.view(self.num_heads, places, places)

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

    `shifted` moves the windows by half their size. An axis no longer than a window is one window,
    unshifted.
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
        x_BTHWC = self._add(x_BTHWC, self._attend(x_BTHWC))
        x_MC = x_BTHWC.flatten(0, 3)
        y_MC = piecewise(lambda x: self.mlp(self.norm2(x)), x_MC.shape[0] * self.hidden, x_MC)
        return self._add(x_BTHWC, y_MC)

    def _add(self, x_BTHWC: Tensor, branch_MC: Tensor) -> Tensor:
        branch_BTHWC = self.drop_path(branch_MC.view(x_BTHWC.shape))
        if branch_BTHWC.dtype != x_BTHWC.dtype:  # autocast: the sum keeps the higher precision
            return x_BTHWC + branch_BTHWC
        # In the branch's memory, as a further tensor of this size costs more than the addition.
        return branch_BTHWC.add_(x_BTHWC)

    def _attend(self, x_BTHWC: Tensor) -> Tensor:
        """Normalize, cut into windows, attend in each, and put back in order: -> [M,C]."""
        B, *grid, _ = x_BTHWC.shape
        sizes = list(zip(grid, self.window_size, strict=True))
        window = tuple(min(size, step) for size, step in sizes)
        shift = tuple(step // 2 if self.shifted and size > step else 0 for size, step in sizes)
        cut, place_M = cut_windows(B, tuple(grid), window, shift, x_BTHWC.device, x_BTHWC.dtype)
        bias_HNN = self.attn.position_bias(math.prod(window))
        x_MC = x_BTHWC.flatten(0, 3)
        y_PC = torch.cat([self._attend_in(windows, x_MC, bias_HNN) for windows in cut])
        return y_PC.index_select(0, place_M)

    def _attend_in(self, windows: Windows, x_MC: Tensor, bias_HNN: Tensor) -> Tensor:
        """The part of `_attend` in windows of one size: -> [P,C], a row for each place."""
        bias_HNN = bias_HNN[:, windows.part, windows.part]

        def attend(token_WN: Tensor, kind_W: Tensor) -> Tensor:
            x_PC = x_MC.index_select(0, token_WN.flatten().clamp(min=0))
            y_WNC = self.norm1(x_PC).view(*token_WN.shape, -1)
            if windows.padded:
                # Padding is zero after the norm; no mask keeps the others from seeing it.
                y_WNC = y_WNC.masked_fill((token_WN < 0)[..., None], 0.0)
            return self.attn(y_WNC, bias_HNN, windows.masks, kind_W).flatten(0, 1)

        elements = 3 * x_MC.shape[1] * windows.tokens.numel()
        return piecewise(attend, elements, windows.tokens, windows.kinds)


class PatchMerging(nn.Module):
    """2x2 tokens of a frame become one of twice the width: [B,T,H,W,C] -> [B,T,H/2,W/2,2C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        *_, H, W, _ = x_BTHWC.shape
        if H % 2 or W % 2:
            x_BTHWC = F.pad(x_BTHWC, (0, 0, 0, W % 2, 0, H % 2))
        # Of four neighbors the one below comes before the one to the right.
        x_BTHWC = rearrange(x_BTHWC, "b t (h i) (w j) c -> b t h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(x_BTHWC))


class Stage(nn.Module):
    """Blocks with windows unshifted and shifted in turn, then a merging but for the last stage."""

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


class VideoSwin(nn.Module):
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
        """The clip representation [B,C] that the classifier reads: the mean of all tokens."""
        if clip_BCTHW.ndim != 5 or clip_BCTHW.shape[1] != 3 or 0 in clip_BCTHW.shape:
            raise ShapeError(
                f"a clip is [batch, 3, frames, height, width], not {list(clip_BCTHW.shape)}; "
                "frames, height and width may be any from 1 up"
            )
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
        """Values for training from scratch, upstream's; larger ones in narrow networks."""
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
