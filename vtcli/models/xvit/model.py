"""X-ViT (Bulat et al., arXiv 2106.05968): an image transformer with space-time mixing attention.

Every frame attends to its own tokens, but some channels of its keys and values come from the
neighboring frames (section 3.2), which costs no multiplications. A small transformer over the
frames' class tokens (section 3.3), or their mean, gives the clip representation. Two parts of the
paper that are in no released code are options, off by default and implemented from its text:
summary tokens, and the two classifiers of EPIC-Kitchens.

Shapes: B clips, T frames, N = 1 + P tokens of a frame, M keys, C channels, H heads of D channels,
L temporal positions, R repeats of them, G groups of S frames, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.errors import ShapeError
from vtcli.models.input_check import check_clip
from vtcli.models.layers import (
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    add_mlp,
    attention,
    linear,
    patches,
)
from vtcli.models.network import VideoNetwork
from vtcli.models.opaque import plain
from vtcli.models.xvit.configs import EMBED_SIZE, XViTConfig

BACKBONE_EPS = 1e-6  # the temporal transformer has PyTorch's default, 1e-5
INITIAL_POSITION_STD = 1.0  # that of the patch embeddings at initialization


class PatchEmbed(nn.Conv2d):
    """Strided convolution of every frame as one matrix product: [B,3,T,H,W] -> [B,T,P,C]."""

    def __init__(self, config: XViTConfig) -> None:
        super().__init__(3, config.width, config.patch_size, config.patch_size)
        self.extent = config.grid * config.patch_size

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        p = self.weight.shape[-1]
        whole_patches = x_BCTHW[..., : self.extent, : self.extent]
        rows = patches(whole_patches, (1, p, p)).flatten(2, 3)
        return linear(rows, self.weight.flatten(1), self.bias)


class Mixing:
    """Space-time mixing (section 3.2): some channels come from the frames before and after.

    The paper splits the channels of each head; the released networks split all channels at once, so
    that entire heads attend to another frame. Channels from beyond the ends of a group are zero.
    The class token is mixed too.
    """

    def __init__(self, segments: int, fold: int) -> None:
        self.segments = segments
        self.fold = fold

    def __call__(self, kv_BTN2C: Tensor) -> Tensor:
        """The mixed keys and values of a clip; in place, unless a graph is traced."""
        kv_GSN2C = kv_BTN2C.view(-1, self.segments, *kv_BTN2C.shape[2:])
        following = kv_GSN2C[..., : self.fold]
        preceding = kv_GSN2C[..., self.fold : 2 * self.fold]
        if torch.compiler.is_compiling():
            # Assignments to slices become scattered writes, in which engines take most of the time.
            zero = torch.zeros_like(following[:, :1])
            parts = [
                torch.cat([following[:, 1:], zero], dim=1),
                torch.cat([zero, preceding[:, :-1]], dim=1),
                kv_GSN2C[..., 2 * self.fold :],
            ]
            return torch.cat(parts, dim=-1).view(kv_BTN2C.shape)
        following[:, :-1] = following[:, 1:].clone()
        preceding[:, 1:] = preceding[:, :-1].clone()
        following[:, -1] = 0
        preceding[:, 0] = 0
        return kv_BTN2C


class SpaceTimeAttention(nn.Module):
    """Self-attention within every frame; keys and values may be mixed with neighboring frames.

    With summary tokens (section 3.3, one per frame) every frame's keys and values also include the
    means of all frames' patch tokens. As keys are linear, the mean of keys is the key of the mean.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        qkv_bias: bool,
        mixing: Mixing | None,
        summary_tokens: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.mixing = mixing
        self.summary_tokens = summary_tokens
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.proj = Linear(width, width)

    def forward(self, x_BTNC: Tensor, first_only: bool = False) -> Tensor:
        """-> [B,T,N,C], or [B,T,1,C] with `first_only`, for the first token of every frame."""
        q_BTNC, kv_BTM2C = self._project(x_BTNC, first_only)
        means_BT2C = kv_BTM2C[:, :, 1:].mean(2) if self.summary_tokens else None
        if self.mixing is not None:
            kv_BTM2C = self.mixing(kv_BTM2C)
        if means_BT2C is not None:
            T = x_BTNC.shape[1]
            means_BTT2C = means_BT2C.unsqueeze(1).expand(-1, T, -1, -1, -1)
            kv_BTM2C = torch.cat([kv_BTM2C, means_BTT2C], dim=2)
        y_XHND = attention(*(self._heads(z) for z in (q_BTNC, *kv_BTM2C.unbind(3))))
        return self.proj(y_XHND.transpose(1, 2).reshape(q_BTNC.shape))

    def _project(self, x_BTNC: Tensor, first_only: bool) -> tuple[Tensor, Tensor]:
        """Queries [B,T,N,C], or [B,T,1,C] with `first_only`; keys and values [B,T,N,2,C]."""
        C = x_BTNC.shape[-1]
        if first_only:
            w_q, w_kv = plain(self.qkv.weight).split([C, 2 * C])
            bias = self.qkv.bias
            b_q, b_kv = (None, None) if bias is None else bias.split([C, 2 * C])
            q_BTNC = linear(x_BTNC[:, :, :1], w_q, b_q)
            kv_BTNZ = linear(x_BTNC, w_kv, b_kv)
        else:
            qkv_BTNZ = self.qkv(x_BTNC)
            q_BTNC, kv_BTNZ = qkv_BTNZ[..., :C], qkv_BTNZ[..., C:]
        return q_BTNC, kv_BTNZ.unflatten(-1, (2, C))

    def _heads(self, z_BTNC: Tensor) -> Tensor:
        """-> [X,H,N,D], X frames of all clips."""
        frames = z_BTNC.flatten(0, 1)
        return frames.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer layer: [B,T,N,C] -> [B,T,N,C], or [B,T,1,C] with `first_only`."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        eps: float,
        qkv_bias: bool,
        mixing: Mixing | None = None,
        summary_tokens: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=eps)
        self.attn = SpaceTimeAttention(width, num_heads, qkv_bias, mixing, summary_tokens)
        self.norm2 = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width, "gelu")
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTNC: Tensor, first_only: bool = False) -> Tensor:
        residual = x_BTNC[:, :, :1] if first_only else x_BTNC
        x_BTNC = residual + self.drop_path(self.attn(self.norm1(x_BTNC), first_only))
        return add_mlp(x_BTNC, self.norm2, self.mlp, self.drop_path)


def run_for_first_token(blocks: nn.ModuleList, x_BTNC: Tensor) -> Tensor:
    """All layers, the last one for the first token only: [B,T,N,C] -> [B,T,C]."""
    last = len(blocks) - 1
    for layer, block in enumerate(blocks):
        x_BTNC = block(x_BTNC, first_only=layer == last)
    return x_BTNC[:, :, 0]


class TemporalAttention(nn.Module):
    """Transformer over the frames' class tokens, without positions: [B,T,C] -> [B,head_hidden]."""

    def __init__(self, config: XViTConfig) -> None:
        super().__init__()
        C = config.width
        self.dropout = config.dropout
        self.class_token = nn.Parameter(torch.empty(1, 1, C))
        self.blocks = nn.ModuleList(
            Block(C, config.temporal_heads, eps=1e-5, qkv_bias=False)
            for _ in range(config.temporal_layers)
        )
        self.norm = LayerNorm(C)
        self.fc = nn.Linear(C, config.head_hidden)

    def forward(self, f_BTC: Tensor) -> Tensor:
        cls_B1C = self.class_token.expand(f_BTC.shape[0], -1, -1)
        tokens_BNC = torch.cat([cls_B1C, f_BTC], dim=1)
        # The frames are the tokens of one sequence: for the blocks, a clip of one frame.
        cls_BC = run_for_first_token(self.blocks, tokens_BNC.unsqueeze(1))[:, 0]
        return F.dropout(F.gelu(self.fc(self.norm(cls_BC))), self.dropout, self.training)


class TemporalMean(nn.Module):
    """The mean of the frames: [B,T,C] -> [B,C]. With a linear classifier it averages the logits."""

    def forward(self, f_BTC: Tensor) -> Tensor:
        return f_BTC.mean(dim=1)


class XViT(VideoNetwork):
    """Clip [B,3,T,H,W], normalized -> logits [B,K]; by name where `config.heads` names several.

    Raises `ShapeError` for an image size that the position table cannot be resized to.
    """

    def __init__(self, config: XViTConfig) -> None:
        super().__init__()
        _check_size(config)
        self.config = config
        C = config.width
        self.patch_embed = PatchEmbed(config)
        self.class_token = nn.Parameter(torch.empty(1, 1, C))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.stored_grid**2, C))
        self.temporal_embed = nn.Parameter(torch.empty(1, config.temporal_positions, 1, C))
        mixing = Mixing(config.shift_segments, C // config.shift_div)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                C,
                config.num_heads,
                eps=BACKBONE_EPS,
                qkv_bias=True,
                mixing=mixing if shifts else None,
                summary_tokens=config.summary_tokens,
                drop_path=rate,
            )
            for shifts, rate in zip(config.shifts, rates, strict=True)
        )
        self.norm = LayerNorm(C, eps=BACKBONE_EPS)
        attends = config.consensus == "attention"
        self.temporal = TemporalAttention(config) if attends else TemporalMean()
        width = config.head_hidden if attends else C
        self.head = nn.Linear(width, config.num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor | dict[str, Tensor]:
        logits_BK = self.head(self.features(clip_BCTHW))
        if not self.config.heads:
            return logits_BK
        names, sizes = zip(*self.config.heads, strict=True)
        return dict(zip(names, logits_BK.split(sizes, dim=-1), strict=True))

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        """The clip representation that the classifier reads: [B,head_hidden], or [B,C] if averaged.

        Raises `ShapeError` for a clip that does not fit the configuration.
        """
        f_BTC = self.frame_features(clip_BCTHW)
        return self.temporal(F.dropout(f_BTC, self.config.dropout, self.training))

    def frame_features(self, clip_BCTHW: Tensor) -> Tensor:
        """The normalized class token of every frame: [B,T,C]."""
        self._check(clip_BCTHW)
        return self.norm(run_for_first_token(self.blocks, self._embed(clip_BCTHW)))

    def _embed(self, clip_BCTHW: Tensor) -> Tensor:
        """Tokens with positions -> [B,T,N,C]; the temporal table is repeated for a longer clip."""
        x_BTPC = self.patch_embed(clip_BCTHW)
        B, T, _, C = x_BTPC.shape
        x_BTNC = torch.cat([self.class_token.expand(B, T, 1, C), x_BTPC], dim=2)
        x_BRLNC = x_BTNC.unflatten(1, (-1, self.config.temporal_positions))
        return (x_BRLNC + (self._positions() + self.temporal_embed)).flatten(1, 2)

    def _positions(self) -> Tensor:
        """The position table for this image size: [1,N,C]."""
        config = self.config
        if config.image_size == EMBED_SIZE:
            return self.pos_embed
        cls_11C, grid_1PC = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid_1CHW = grid_1PC.transpose(1, 2).unflatten(2, (config.stored_grid, -1))
        # By ratio, as upstream: if patches do not fill the frame, resizing by size differs.
        ratio = config.image_size / EMBED_SIZE
        resized = F.interpolate(grid_1CHW, scale_factor=ratio, mode="bicubic", align_corners=False)
        return torch.cat([cls_11C, resized.flatten(2).transpose(1, 2)], dim=1)

    def _check(self, clip_BCTHW: Tensor) -> None:
        frames, height, width = check_clip(clip_BCTHW)
        size, step = self.config.image_size, self.config.frame_step
        if (height, width) != (size, size):
            raise ShapeError(
                f"this model accepts frames of {size}x{size}, not {height}x{width}; resize or crop "
                "them, or build the model with another image_size"
            )
        if frames % step:
            raise ShapeError(
                f"this model accepts clips of {step}, {2 * step}, {3 * step} or any other multiple "
                f"of {step} frames, not {frames}, because frames are mixed in groups of "
                f"{self.config.shift_segments} and the temporal embedding has "
                f"{self.config.temporal_positions} positions"
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers of the image transformer as timm's models name them, for layer-wise rates."""
        return {
            "stem": r"^(?:patch_embed|class_token|pos_embed)",
            "blocks": r"^blocks\.(\d+)\.",
        }

    def transformer_blocks(self) -> list[nn.Module]:
        """The modules that are recomputed, or sharded, one at a time."""
        temporal = self.temporal.blocks if isinstance(self.temporal, TemporalAttention) else ()
        return [*self.blocks, *temporal]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize for training from scratch, which upstream never does.

        Mixing frames is useless while attention ignores positions. So in the first half of the
        layers tokens initially attend to similar tokens, as trained networks nearly do (arXiv
        2305.09828); in the second half attention is random, as the class token needs. The temporal
        embedding and its class token start at zero, as upstream's; the temporal transformer and the
        classifier have PyTorch's default initialization.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
                module.reset_parameters()
        C = self.config.width
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=C**-0.5)
                nn.init.zeros_(module.bias)
        blocks: list[Any] = list(self.blocks)
        for block in blocks[: len(blocks) // 2]:
            _start_as_difference(block.attn)
        nn.init.normal_(self.patch_embed.weight, std=C**-0.5)
        for parameter in (self.class_token, self.pos_embed):
            nn.init.normal_(parameter, std=INITIAL_POSITION_STD)
        nn.init.zeros_(self.temporal_embed)
        if isinstance(self.temporal, TemporalAttention):
            nn.init.zeros_(self.temporal.class_token)


def _start_as_difference(attn: SpaceTimeAttention) -> None:
    """Near-identity projections: a token attends to similar tokens, most to the one at its own
    position, and what it reads from other frames is subtracted.
    """
    query_CC, key_CC, value_CC = attn.qkv.weight.chunk(3)
    noise = 0.3 * len(query_CC) ** -0.5
    for weight_CC, gain in ((query_CC, 1.2), (key_CC, 1.2), (value_CC, 1.0)):
        nn.init.eye_(weight_CC).mul_(gain).add_(torch.randn_like(weight_CC), alpha=noise)
    nn.init.eye_(attn.proj.weight).neg_().add_(torch.randn_like(value_CC), alpha=noise)


def _check_size(config: XViTConfig) -> None:
    """The position table resized by ratio must have the size of the grid; at 976 it does not."""
    resized = int(config.stored_grid * (config.image_size / EMBED_SIZE))
    if config.grid < 1 or resized != config.grid:
        raise ShapeError(
            f"X-ViT's positions cannot be resized from {EMBED_SIZE}x{EMBED_SIZE} to "
            f"{config.image_size}x{config.image_size} pixels; choose another multiple of "
            f"{config.patch_size}"
        )
