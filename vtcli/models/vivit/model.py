"""ViViT (Arnab et al., arXiv 2103.15691): pure transformers over the tubelets of a clip.

A clip is split into tubelets (section 3.2), or into patches of a few sampled frames; each is a
token. The four models of section 3.3 differ in which tokens attend to each other: (1) all; (2)
those of a frame, then the frames; (3) in every block those of a frame, then those of a position;
(4) the same with half of the heads each.

Shapes: B clips, T steps of tokens in time, N tokens of a step (class token first), C channels,
H heads, D channels per head, L any leading dimensions, K classes. If all tokens attend to all, T is
1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vtcli.errors import ShapeError
from vtcli.models import layers
from vtcli.models.attention_pooling import attend_with_one_query
from vtcli.models.input_check import check_clip
from vtcli.models.layers import (
    LayerNorm,
    Mlp,
    add_mlp,
    attention,
    linear,
    patches,
)
from vtcli.models.network import VideoNetwork
from vtcli.models.vivit.configs import ViViTConfig

POSITION_STD = 0.02
# Standard deviation of a standard normal truncated at two deviations; initial values are divided by
# it.
TRUNCATED_STD = 0.87962566103423978

Axis = Literal["space", "time", "both"]


class PatchEmbed(nn.Module):
    """Tubelet embedding (section 3.2) as one matrix product: [B,3,T',H',W'] -> [B,T,N,C].

    With uniform frame sampling the kernel has no time axis and only the sampled frames are used.
    As in upstream, frames and pixels of the configured clip that do not fill a tubelet are unused.
    A network of one channel takes clips of three equal ones and uses the first.
    """

    def __init__(self, config: ViViTConfig) -> None:
        super().__init__()
        kt, kh, kw = config.tubelet_size
        kernel = (kh, kw) if config.sampled_frames else (kt, kh, kw)
        self.weight = nn.Parameter(torch.empty(config.width, config.num_channels, *kernel))
        self.bias = nn.Parameter(torch.empty(config.width))
        self.config = config

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        config = self.config
        if config.sampled_frames:
            x_BCTHW = x_BCTHW[:, :, sampled_indices(x_BCTHW.shape[2], config.sampled_frames)]
        frames, height, width = config.used_size
        x_BCTHW = x_BCTHW[:, : config.num_channels, :frames, :height, :width]
        rows = patches(x_BCTHW, config.tubelet_size)
        return linear(rows.flatten(2, 3), self.weight.flatten(1), self.bias)


def sampled_indices(frames: int, count: int) -> list[int]:
    """Uniform frame sampling (section 3.2): `count` frames at equal distances inside the clip.

    Halves are rounded to even numbers. Upstream's float32 steps overshoot for two frames of 8, 16,
    32 or 64 and append a third one, which is omitted here.
    """
    if count >= frames:
        return list(range(frames))
    return [round(i * frames / (count + 1)) for i in range(1, count + 1)]


class Attention(layers.Attention):
    """Self-attention among tokens of a step ("space"), of a position ("time"), or both.

    [B,T,N,C] -> [B,T,N,C].
    With "both" (model 4) the first half of the heads attends over time, the second over space.
    """

    def __init__(self, config: ViViTConfig, axis: Axis) -> None:
        super().__init__(config.width, config.num_heads, config.qkv_bias)
        self.axis = axis

    def forward(self, x_BTNC: Tensor) -> Tensor:
        qkv_BTN3HD = self.qkv(x_BTNC).unflatten(-1, (3, self.num_heads, -1))
        if self.axis == "space":
            y_BTNHD = attend_in_space(qkv_BTN3HD)
        elif self.axis == "time":
            y_BTNHD = attend_in_time(qkv_BTN3HD)
        else:
            in_time, in_space = qkv_BTN3HD.chunk(2, dim=4)
            y_BTNHD = torch.cat([attend_in_time(in_time), attend_in_space(in_space)], dim=3)
        return self.proj(y_BTNHD.flatten(3))

    def attend_first(self, x_BTNC: Tensor) -> Tensor:
        """Attention for the first token of every step only: [B,T,N,C] -> [B,T,1,C]."""
        x_LNC = x_BTNC.flatten(0, 1)
        y_LC = self.proj(attend_with_one_query(x_LNC[:, 0], x_LNC, self.qkv, self.num_heads))
        return y_LC.view(*x_BTNC.shape[:2], 1, -1)


def attend_in_space(qkv_BTN3HD: Tensor) -> Tensor:
    """Each token attends to those of its step -> [B,T,N,H,D]."""
    q, k, v = qkv_BTN3HD.permute(3, 0, 1, 4, 2, 5).flatten(1, 2)
    y_BTHND = attention(q, k, v).unflatten(0, qkv_BTN3HD.shape[:2])
    return y_BTHND.transpose(2, 3)


def attend_in_time(qkv_BTN3HD: Tensor) -> Tensor:
    """Each token attends to those of its position -> [B,T,N,H,D]."""
    return attend_in_space(qkv_BTN3HD.transpose(1, 2)).transpose(1, 2)


class DropPath(layers.DropPath):
    """Stochastic depth per clip; as in upstream, remaining branches are not scaled up."""

    def forward(self, x_BLC: Tensor) -> Tensor:
        y_BLC = super().forward(x_BLC)
        return y_BLC * (1.0 - self.rate) if self.training and self.rate else y_BLC


class Block(nn.Module):
    """One layer of models 1, 2 and 4: [B,T,N,C] -> [B,T,N,C]."""

    def __init__(self, config: ViViTConfig, axis: Axis, drop_path: float) -> None:
        super().__init__()
        C = config.width
        self.norm1 = LayerNorm(C, config.layer_norm_eps)
        self.attn = Attention(config, axis)
        self.norm2 = LayerNorm(C, config.layer_norm_eps)
        self.mlp = Mlp(C, round(config.mlp_ratio * C), config.activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTNC: Tensor, first_only: bool = False) -> Tensor:
        """With `first_only`, -> [B,T,1,C], for a last block whose other tokens are not used."""
        attend = self.attn.attend_first if first_only else self.attn
        y_BTNC = attend(self.norm1(x_BTNC))
        x_BTNC = x_BTNC[:, :, : y_BTNC.shape[2]] + self.drop_path(y_BTNC)
        return add_mlp(x_BTNC, self.norm2, self.mlp, self.drop_path)


class Residual(nn.Module):
    """A pre-norm residual layer: x + layer(norm(x))."""

    def __init__(self, config: ViViTConfig, layer: nn.Module) -> None:
        super().__init__()
        self.norm = LayerNorm(config.width, config.layer_norm_eps)
        self.layer = layer

    def forward(self, x_BTNC: Tensor) -> Tensor:
        return x_BTNC + self.layer(self.norm(x_BTNC))


class FactorizedBlock(nn.Module):
    """One layer of model 3, with one attention in space and one in time: [B,T,N,C] -> [B,T,N,C]."""

    def __init__(self, config: ViViTConfig) -> None:
        super().__init__()
        C = config.width
        self.space = Residual(config, Attention(config, "space"))
        self.time = Residual(config, Attention(config, "time"))
        self.mlp = Residual(config, Mlp(C, round(config.mlp_ratio * C), config.activation))
        self.space_first = config.attention_order == "space_time"

    def forward(self, x_BTNC: Tensor) -> Tensor:
        x_BTNC = (
            self.time(self.space(x_BTNC)) if self.space_first else self.space(self.time(x_BTNC))
        )
        return self.mlp(x_BTNC)


class Encoder(nn.Module):
    """Positions, blocks, norm and pooling: [B,T,N,C] -> [B,T,C], one vector per step.

    The vector is the class token, which is prepended to the tokens of every step; without a class
    token it is the mean of the tokens.
    """

    def __init__(self, config: ViViTConfig, positions: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        C = config.width
        if config.class_token:
            self.class_token = nn.Parameter(torch.empty(1, 1, C))
        self.pos_embed = nn.Parameter(torch.empty(1, config.class_token + positions, C))
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(C, config.layer_norm_eps)
        self.has_class_token = config.class_token

    def forward(self, x_BTNC: Tensor) -> Tensor:
        if not self.has_class_token:
            # One table has the positions of all steps, in models 3 and 4 too.
            x_BTNC = x_BTNC + self.pos_embed.view(1, -1, *x_BTNC.shape[2:])
            for block in self.blocks:
                x_BTNC = block(x_BTNC)
            return self.norm(x_BTNC).mean(dim=2)
        class_BT1C = self.class_token.expand(*x_BTNC.shape[:2], 1, -1)
        x_BTNC = torch.cat([class_BT1C, x_BTNC], dim=2) + self.pos_embed
        for number, block in enumerate(self.blocks, start=1):
            x_BTNC = block(x_BTNC, first_only=number == len(self.blocks))
        return self.norm(x_BTNC[:, :, 0])


class ViViT(VideoNetwork):
    """Clip [B,3,T',H',W'], normalized -> logits [B,K]; with several heads, name -> logits."""

    def __init__(self, config: ViViTConfig) -> None:
        super().__init__()
        self.config = config
        steps, rows, columns = config.grid
        self.patch_embed = PatchEmbed(config)
        if config.attention == "factorized_encoder":
            self.spatial = Encoder(config, rows * columns, _blocks(config, config.depth))
            if config.temporal_depth:
                self.temporal = Encoder(config, steps, _blocks(config, config.temporal_depth))
        else:
            self.encoder = Encoder(config, steps * rows * columns, _blocks(config, config.depth))
        feature_width = config.representation_size or config.width
        if config.representation_size:
            self.pre_logits = nn.Linear(config.width, feature_width)
        self.head = nn.Linear(feature_width, config.num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor | dict[str, Tensor]:
        return self._classify(self.features(clip_BCTHW))

    def _classify(self, x_BC: Tensor) -> Tensor | dict[str, Tensor]:
        logits_BK = self.head(x_BC)
        if not self.config.heads:
            return logits_BK
        names, sizes = zip(*self.config.heads, strict=True)
        return dict(zip(names, logits_BK.split(sizes, dim=-1), strict=True))

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        """The clip representation [B,C] that the classifier reads.

        Raises `ShapeError` for a clip that does not fit the configuration.
        """
        self._check(clip_BCTHW)
        x_BTNC = self.patch_embed(clip_BCTHW)
        if self.config.attention == "factorized_encoder":
            x_BC = self._over_time(self.spatial(x_BTNC))
        elif self.config.attention == "joint":
            x_BC = self.encoder(x_BTNC.flatten(1, 2)[:, None])[:, 0]
        else:
            x_BC = self.encoder(x_BTNC).mean(dim=1)
        return self._represent(x_BC)

    @property
    def frame_step(self) -> int | None:
        """Frames of a tubelet in the factorized encoder, whose first transformer sees one only."""
        config = self.config
        alone = config.attention == "factorized_encoder" and not config.sampled_frames
        return config.tubelet_size[0] if alone and not self.training else None

    def step_features(self, step_B3THW: Tensor) -> Tensor:
        """The vector [B,C] of one step, whose T frames fill a tubelet."""
        return self.spatial(self.patch_embed(step_B3THW))[:, 0]

    def forward_from_steps(self, x_BTC: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits of clips whose steps have these `step_features`, as `forward` returns them."""
        return self._classify(self._represent(self._over_time(x_BTC[:, : self.config.grid[0]])))

    def _over_time(self, x_BTC: Tensor) -> Tensor:
        if not self.config.temporal_depth:
            return x_BTC.mean(1)
        return self.temporal(x_BTC[:, None])[:, 0]

    def _represent(self, x_BC: Tensor) -> Tensor:
        return torch.tanh(self.pre_logits(x_BC)) if self.config.representation_size else x_BC

    def _check(self, clip_BCTHW: Tensor) -> None:
        """Raise `ShapeError` unless the clip has the configured size or fills the tubelets."""
        frames, height, width = check_clip(clip_BCTHW)
        config = self.config
        used_frames, *used_size = config.used_size
        sampled = config.sampled_frames
        fits = frames >= sampled if sampled else frames in (config.num_frames, used_frames)
        if not fits or (height, width) not in (config.frame_size, tuple(used_size)):
            length = f"{sampled} or more frames" if sampled else f"{config.num_frames} frames"
            rows, columns = config.frame_size
            raise ShapeError(
                f"this model accepts clips of {length} of {rows}x{columns}, not {frames} of "
                f"{height}x{width}, because it has positions for these only"
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers of the first encoder as timm's models name them, for layer-wise rates."""
        return {
            "stem": r"^(?:encoder\.|spatial\.)?(?:patch_embed|class_token|pos_embed)",
            "blocks": r"^(?:encoder|spatial)\.blocks\.(\d+)\.",
        }

    def transformer_blocks(self) -> list[nn.Module]:
        """The modules that are recomputed, or sharded, one at a time."""
        encoders = [module for module in self.children() if isinstance(module, Encoder)]
        return [block for encoder in encoders for block in encoder.blocks]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize for training from scratch, as upstream does; the classifier with zeros."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Attention):
                for weight in (*module.qkv.weight.chunk(3), module.proj.weight):
                    nn.init.xavier_uniform_(weight)
                if module.qkv.bias is not None:
                    nn.init.zeros_(module.qkv.bias)
                nn.init.zeros_(module.proj.bias)
            elif isinstance(module, Mlp):
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
            elif isinstance(module, Encoder):
                nn.init.normal_(module.pos_embed, std=POSITION_STD)
                if module.has_class_token:
                    nn.init.zeros_(module.class_token)
        lecun_normal_(self.patch_embed)
        if self.config.representation_size:
            lecun_normal_(self.pre_logits)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def _blocks(config: ViViTConfig, depth: int) -> list[nn.Module]:
    if config.attention == "factorized_self_attention":
        return [FactorizedBlock(config) for _ in range(depth)]
    axis: Axis = "both" if config.attention == "factorized_dot_product" else "space"
    rates = [config.drop_path * i / max(1, depth - 1) for i in range(depth)]
    return [Block(config, axis, rate) for rate in rates]


def lecun_normal_(layer: PatchEmbed | nn.Linear) -> None:
    """Truncated normal (at two deviations) with variance 1 / inputs; bias zero."""
    std = layer.weight[0].numel() ** -0.5 / TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
