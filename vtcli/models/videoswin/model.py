"""Video Swin Transformer (Liu et al., arXiv 2106.13230): attention in shifted space-time windows.

Tokens attend only within windows of 8x7x7; every second block shifts the windows by half their size
so that information crosses their borders (section 3.2; `windows.py`). Between stages 2x2 tokens of
a frame are merged into one. On the CPU a block computes a few windows at a time, so that the
intermediate results stay in the cache.

Shapes: B clips, T,H,W tokens along time, height, width, M tokens of all clips, W windows of N
slots in R rows, P slots of all windows, K kinds of windows, C channels, H heads of D channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vtcli.models import native_attention
from vtcli.models.input_check import check_clip
from vtcli.models.layers import (
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    add_mlp,
    adds_in_place,
    attends_by_onednn,
    attends_fused,
    attention_weights,
    linear,
    onednn_attention,
    onednn_computes,
    patches,
)
from vtcli.models.network import VideoNetwork
from vtcli.models.videoswin.configs import VideoSwinConfig
from vtcli.models.videoswin.windows import (
    Chunk,
    Cut,
    KeptBiases,
    Part,
    Windows,
    cut_windows,
    position_bias,
    relative_position,
    size_of,
)

INITIAL_STD = 0.02
# Narrower than any published network: at 48 channels, branches initialized with 0.02 contribute
# almost nothing for the first epochs.
NARROW_WIDTH, NARROW_STD = 96, 0.08
HEAD_STD = 0.01
# Largest number of elements of a temporary tensor: it fits in a CPU's cache (for each thread), or
# in a GPU's memory.
CPU_ELEMENTS = 2**22
CPU_SCORES = 2**20
GPU_SCORES = 2**29
VECTOR = 16  # values of fp32, in which the fused kernel computes scores
KEPT_BYTES = 16 << 20  # position biases of a block that are kept
# Scores of the windows of a clip from which a CPU splits those that join both ends of the grid.
MIN_SPLIT = 2**22
# Tokens of a window from which attention in fp32 is faster head by head (with AVX-512).
MIN_WINDOW = 128


def biased_attention(
    q_WHND: Tensor,
    k_WHND: Tensor,
    v_WHND: Tensor,
    bias_HNN: Tensor,
    mask_KNN: Tensor | None,
    kind_W: Tensor,
) -> Tensor:
    """softmax(q·kᵀ/√D + bias + mask)·v -> [W,H,N,D], a few windows or heads at a time."""
    if onednn_computes(q_WHND) and native_attention.computes(q_WHND, k_WHND, v_WHND):
        return native_attention.attend(q_WHND, k_WHND, v_WHND, bias_HNN, mask_KNN, kind_W)
    on_cpu = q_WHND.device.type == "cpu"
    fused = attends_fused(q_WHND)
    attend = _explicit if on_cpu and not fused else _fused
    scores = CPU_SCORES if on_cpu else GPU_SCORES
    if torch.compiler.is_compiling():
        # In one chunk: a loop over windows would fix their number, and with it the batch size.
        return attend(q_WHND, k_WHND, v_WHND, _masked(bias_HNN, mask_KNN, kind_W))
    by_onednn = attends_by_onednn(q_WHND)
    if mask_KNN is None and (by_onednn or fused):
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
    weights = attention_weights(q, k, q.shape[-1] ** -0.5, bias)
    return (weights @ v).view(v_WHND.shape)


def _fused(q_WHND: Tensor, k_WHND: Tensor, v_WHND: Tensor, bias_WHNN: Tensor) -> Tensor:
    bias_WHNN = bias_WHNN.expand(q_WHND.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q_WHND, k_WHND, v_WHND, attn_mask=bias_WHNN)


class WindowAttention(nn.Module):
    """Attention within windows with a relative position bias (3D W-MSA): [P,C] -> [P,C]."""

    def __init__(self, config: VideoSwinConfig, stage: int) -> None:
        super().__init__()
        C, self.num_heads = config.widths[stage], config.num_heads[stage]
        self.window_size = config.window_size
        self.bias_table = nn.Parameter(torch.empty(config.bias_rows, self.num_heads))
        self.kept: KeptBiases | None = None
        self.qkv = Linear(C, 3 * C, bias=config.qkv_bias)
        self.proj = Linear(C, C)

    def position_biases(self, chunks: list[Chunk], cut: Cut) -> dict[Part, Tensor]:
        """`position_bias` of the windows of each size.

        They take up to a tenth of the time of a block, so that they are kept for the next clip
        where a CPU splits windows, unless they are large.
        """
        keep, kept = cut.in_space and not torch.is_grad_enabled(), self.kept
        if keep and kept is not None and kept.fits(cut, self.bias_table):
            return kept.bias_of
        parts = {same.part: same for chunk in chunks for same in chunk.windows}
        bias_of = {part: self.position_bias(same, cut) for part, same in parts.items()}
        if keep and sum(bias.nbytes for bias in bias_of.values()) <= KEPT_BYTES:
            self.kept = KeptBiases(cut, self.bias_table.clone(), bias_of)
        return bias_of

    def position_bias(self, same: Windows, cut: Cut) -> Tensor:
        """The relative position bias of each head between the slots of windows: [H,N,rows].

        That of unused rows is -inf. A window smaller than the configured one has the biases of its
        first slots. These are not a sub-window in space, but the released networks were trained
        this way.
        """
        if cut.is_box and cut.in_space and not torch.is_grad_enabled():
            return position_bias(self.bias_table, cut.full, size_of(same.part), same.rows)
        row_NN = relative_position(cut.full, cut.window, same.part, self.bias_table.device)
        # In fp32, where picking values takes a third of the time.
        bias_HM = self.bias_table.t().float().index_select(1, row_NN.flatten())
        bias_HNN = bias_HM.view(-1, *row_NN.shape).to(self.bias_table.dtype)
        unused = same.rows - row_NN.shape[1]
        return F.pad(bias_HNN, (0, unused), value=-math.inf) if unused else bias_HNN

    def forward(self, x_RC: Tensor, windows: list[Windows], bias_of: dict[Part, Tensor]) -> Tensor:
        """x_RC: the tokens in the rows of all windows; bias_of: [H,N,rows] for each size."""
        C = x_RC.shape[1]
        qkv_R3HD = self.qkv(x_RC).view(-1, 3, self.num_heads, C // self.num_heads)
        parts, rows = [], [same.rows * same.kinds.shape[0] for same in windows]
        for same, qkv in zip(windows, qkv_R3HD.split(rows), strict=True):
            bias_HNN = bias_of[same.part]
            q, k, v = qkv.unflatten(0, (-1, same.rows)).permute(2, 0, 3, 1, 4)
            q = q[:, :, : bias_HNN.shape[1]]
            y_WHND = biased_attention(q, k, v, bias_HNN, same.masks, same.kinds)
            parts.append(y_WHND.transpose(1, 2).reshape(-1, C))
        return self.proj(torch.cat(parts) if len(parts) > 1 else parts[0])


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
        shape, device, dtype = x_BTHWC.shape, x_BTHWC.device, x_BTHWC.dtype
        x_MC = x_BTHWC.view(-1, shape[-1]) if in_place else x_BTHWC.flatten(0, 3)
        cut = self._cut(x_BTHWC, in_place)
        chunks, slot_M = cut_windows(shape[0], tuple(shape[1:4]), cut, device, dtype)
        attended = self._attend(x_MC, chunks, cut)
        if in_place:
            for chunk, y_PC in attended:
                _add_slots_(x_MC, chunk, y_PC)
        else:
            y_MC = torch.cat([y_PC for _, y_PC in attended]).index_select(0, slot_M)
            x_BTHWC = _add(x_BTHWC, self.drop_path(y_MC.view(shape)))
        tokens = CPU_ELEMENTS // self.hidden
        return add_mlp(x_BTHWC, self.norm2, self.mlp, self.drop_path, tokens)

    def _cut(self, x_BTHWC: Tensor, in_chunks: bool) -> Cut:
        *grid, C = x_BTHWC.shape[1:]
        sizes = list(zip(grid, self.window_size, strict=True))
        in_space = self._splits(x_BTHWC)
        return Cut(
            full=self.window_size,
            window=tuple(min(size, step) for size, step in sizes),
            shift=tuple(step // 2 if self.shifted and size > step else 0 for size, step in sizes),
            in_space=in_space,
            max_rows=CPU_ELEMENTS * torch.get_num_threads() // (3 * C) if in_chunks else None,
            align=_align(x_BTHWC) if in_chunks and in_space else 1,
        )

    def _splits(self, x_BTHWC: Tensor) -> bool:
        """Whether many small windows are faster than few large ones with masks.

        On a CPU, if there is so much to compute that more calls do not matter.
        """
        if x_BTHWC.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        tokens = math.prod(x_BTHWC.shape[1:4])
        return tokens * math.prod(self.window_size) * self.attn.num_heads >= MIN_SPLIT

    def _attend(
        self, x_MC: Tensor, chunks: list[Chunk], cut: Cut
    ) -> Iterator[tuple[Chunk, Tensor]]:
        """Each chunk, and the attention in its windows [P,C]."""
        bias_of = self.attn.position_biases(chunks, cut)
        for chunk in chunks:
            y_RC = self.norm1(x_MC.index_select(0, chunk.rows))
            if chunk.padding is not None:
                # As upstream: padding is zero after the norm, and tokens attend to it unmasked.
                y_RC = y_RC.masked_fill(chunk.padding, 0.0)
            yield chunk, self.attn(y_RC, chunk.windows, bias_of)


def _align(x_BTHWC: Tensor) -> int:
    """What rows of windows are padded to a multiple of: PyTorch's fused kernel takes up to a fifth
    longer for keys that do not fill its vectors.
    """
    native = x_BTHWC.dtype == torch.bfloat16 and native_attention.is_available()
    return VECTOR if attends_fused(x_BTHWC) and not native else 1


def _add(x_BTHWC: Tensor, branch_BTHWC: Tensor) -> Tensor:
    if branch_BTHWC.dtype != x_BTHWC.dtype:  # autocast: the sum has the higher precision
        return x_BTHWC + branch_BTHWC
    # In place: allocating another tensor of this size costs more than the addition.
    return branch_BTHWC.add_(x_BTHWC)


def _add_slots_(x_MC: Tensor, chunk: Chunk, y_PC: Tensor) -> None:
    """Add the result of each slot to its token, which is in no other slot."""
    slot_P = chunk.slots
    if chunk.padding is not None:
        is_token_P = slot_P >= 0
        slot_P, y_PC = slot_P[is_token_P], y_PC[is_token_P]
    x_MC.index_add_(0, slot_P, y_PC.to(x_MC.dtype))


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
