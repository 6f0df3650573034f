"""UniFormerV2 (Li et al., arXiv 2211.09552): a CLIP image transformer with local and global
UniFormer blocks.

The image transformer runs on every frame. Local blocks (section 3.2) mix neighboring frames before
attention, and before the MLP; after each of the last layers a learned video query attends to all
tokens of the clip in a global block (section 3.3). The query is blended with the mean of the
frames' class tokens and classified (section 3.4).

Shapes: B clips, T frames (after temporal stride), N = 1 + H·W tokens of a frame, C channels, K
classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.errors import ShapeError
from vtcli.models.attention_pooling import attend_with_one_query
from vtcli.models.input_check import check_clip
from vtcli.models.layers import (
    Attention,
    DropPath,
    LayerNorm,
    Mlp,
    add_mlp,
    depthwise_conv3d,
    linear,
    patches,
)
from vtcli.models.network import VideoNetwork
from vtcli.models.uniformerv2.configs import UniFormerV2Config


class PatchEmbed(nn.Module):
    """Strided convolution as one matrix product: [B,3,T',H',W'] -> [B,T,H,W,C]."""

    def __init__(self, config: UniFormerV2Config) -> None:
        super().__init__()
        kt, p = config.temporal_kernel, config.patch_size
        self.weight = nn.Parameter(torch.empty(config.width, 3, kt, p, p))
        self.temporal_stride = config.temporal_stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        _, _, kt, p, _ = self.weight.shape
        if kt > 1:
            # Windows of three frames that overlap by one, concatenated: then they are patches.
            padded = F.pad(x_BCTHW, (0, 0, 0, 0, kt // 2, kt // 2))
            windows = padded.unfold(2, kt, self.temporal_stride)
            x_BCTHW = windows.permute(0, 1, 2, 5, 3, 4).flatten(2, 3)
        return linear(patches(x_BCTHW, (kt, p, p)), self.weight.flatten(1))


class BatchNorm(nn.Module):
    """Batch normalization of tokens [M,C]; unlike PyTorch's it has no step counter."""

    keeps_fp32 = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.empty(width))
        self.register_buffer("running_var", torch.empty(width))

    def reset_parameters(self) -> None:
        for tensor, value in zip((*self.parameters(), *self.buffers()), (1, 0, 0, 1), strict=True):
            nn.init.constant_(tensor, value)

    def forward(self, x_MC: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x_MC, mean, var, self.weight, self.bias, self.training)


class LocalBlock(nn.Module):
    """Local UniFormer block (section 3.2): BatchNorm, then a temporal depth-wise convolution in a
    bottleneck without activation: [B,T,H,W,C] -> [B,T,H,W,C], to be added to its input.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width)
        self.down = nn.Conv3d(width, bottleneck, 1)
        self.temporal = nn.Conv3d(bottleneck, bottleneck, (3, 1, 1), groups=bottleneck)
        self.up = nn.Conv3d(bottleneck, width, 1)

    def start_as_identity(self) -> None:
        """Initialize the last convolution with zeros (section 3.4)."""
        _zero(self.up)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        z = self.norm(x_BTHWC.flatten(0, 3)).view(x_BTHWC.shape)
        z = linear(z, self.down.weight.flatten(1), self.down.bias)
        z = depthwise_conv3d(z, self.temporal.weight, self.temporal.bias)
        return linear(z, self.up.weight.flatten(1), self.up.bias)


class Block(nn.Module):
    """One layer of the image transformer with its local blocks: [B,T,N,C] -> [B,T,N,C]."""

    def __init__(self, config: UniFormerV2Config, drop_path: float) -> None:
        super().__init__()
        C = config.width
        if config.local_blocks >= 1:
            self.local1 = LocalBlock(C, config.local_width)
        if config.local_blocks >= 2:
            self.local2 = LocalBlock(C, config.local_width)
        self.norm1 = LayerNorm(C)
        self.attn = Attention(C, config.num_heads)
        self.norm2 = LayerNorm(C)
        self.mlp = Mlp(C, 4 * C, "quick_gelu")
        self.drop_path = DropPath(drop_path)
        self.local_blocks = config.local_blocks

    def forward(self, x_BTNC: Tensor) -> Tensor:
        if self.local_blocks >= 1:
            x_BTNC = self._mix_frames(x_BTNC, self.local1)
        frames = self.attn(self.norm1(x_BTNC).flatten(0, 1)).view(x_BTNC.shape)
        x_BTNC = x_BTNC + self.drop_path(frames)
        if self.local_blocks >= 2:
            x_BTNC = self._mix_frames(x_BTNC, self.local2)
        return add_mlp(x_BTNC, self.norm2, self.mlp, self.drop_path)

    def _mix_frames(self, x_BTNC: Tensor, local: LocalBlock) -> Tensor:
        cls_BT1C, grid_BTHWC = split_grid(x_BTNC)
        grid_BTHWC = grid_BTHWC + self.drop_path(local(grid_BTHWC))
        return torch.cat([cls_BT1C, grid_BTHWC.flatten(2, 3)], dim=2)


class QueryAttention(nn.Module):
    """Cross-attention of one query to all tokens of a clip: q [B,C], y [B,M,C] -> [B,C]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, q_BC: Tensor, y_BMC: Tensor) -> Tensor:
        return self.proj(attend_with_one_query(q_BC, y_BMC, self.qkv, self.num_heads))


class GlobalBlock(nn.Module):
    """Global UniFormer block (section 3.3): the video query attends to all tokens.

    q [B,C], x [B,T,N,C] -> q [B,C].
    """

    def __init__(self, config: UniFormerV2Config, drop_path: float) -> None:
        super().__init__()
        C = config.width
        self.pos_conv = nn.Conv3d(C, C, 3, padding=1, groups=C)
        self.norm_q = LayerNorm(C)
        self.norm_kv = LayerNorm(C)
        self.attn = QueryAttention(C, config.global_num_heads)
        self.norm_mlp = LayerNorm(C)
        hidden = round(config.global_mlp_ratio * C)
        self.mlp = Mlp(C, hidden, "quick_gelu", config.global_dropout)
        self.drop_path = DropPath(drop_path)

    def start_as_identity(self) -> None:
        """Initialize both branches to end in zeros: the query passes unchanged (section 3.4)."""
        nn.init.xavier_uniform_(self.attn.qkv.weight)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        nn.init.zeros_(self.attn.qkv.bias)
        if self.pos_conv.bias is not None:
            nn.init.zeros_(self.pos_conv.bias)
        _zero(self.attn.proj, self.mlp.fc2)

    def forward(self, q_BC: Tensor, x_BTNC: Tensor) -> Tensor:
        cls_BT1C, grid_BTHWC = split_grid(x_BTNC)
        conv = self.pos_conv
        grid_BTHWC = grid_BTHWC + depthwise_conv3d(grid_BTHWC, conv.weight, conv.bias)
        y_BTNC = torch.cat([cls_BT1C, grid_BTHWC.flatten(2, 3)], dim=2)
        y_BMC = self.norm_kv(y_BTNC).flatten(1, 2)
        q_BC = q_BC + self.drop_path(self.attn(self.norm_q(q_BC), y_BMC))
        return q_BC + self.drop_path(self.mlp(self.norm_mlp(q_BC)))


def split_grid(x_BTNC: Tensor) -> tuple[Tensor, Tensor]:
    """The class tokens [B,T,1,C] and the patch tokens on their grid [B,T,H,W,C]."""
    B, T, N, C = x_BTNC.shape
    side = int((N - 1) ** 0.5)
    cls_BT1C, grid = x_BTNC.split([1, N - 1], dim=2)
    return cls_BT1C, grid.unflatten(2, (side, side))


class UniFormerV2(VideoNetwork):
    """Clip [B,3,T,H,W], normalized -> logits [B,K]."""

    def __init__(self, config: UniFormerV2Config) -> None:
        super().__init__()
        self.config = config
        C = config.width
        self.patch_embed = PatchEmbed(config)
        self.class_token = nn.Parameter(torch.empty(C))
        self.pos_embed = nn.Parameter(torch.empty(1 + config.grid**2, C))
        self.norm_pre = LayerNorm(C)
        local_rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in local_rates)
        self.query = nn.Parameter(torch.empty(1, 1, C))
        count = len(config.global_layers)
        global_rates = torch.linspace(0, config.global_drop_path, count, device="cpu").tolist()
        self.global_blocks = nn.ModuleList(GlobalBlock(config, rate) for rate in global_rates)
        if config.fuse_class_tokens:
            self.balance = nn.Parameter(torch.empty(C))
        self.norm = LayerNorm(C)
        self.head = nn.Linear(C, config.num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(clip_BCTHW), self.config.dropout, self.training))

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        """The normalized clip representation [B,C] that the classifier reads.

        Raises `ShapeError` for a clip that does not fit the configuration.
        """
        self._check(clip_BCTHW)
        x_BTNC = self._embed(clip_BCTHW)
        q_BC = self.query.view(1, -1).expand(x_BTNC.shape[0], -1)
        global_block_of = self._global_block_of()
        for layer, block in enumerate(self.blocks):
            x_BTNC = block(x_BTNC)
            if layer in global_block_of:
                q_BC = global_block_of[layer](q_BC, x_BTNC)
        return self._fuse(q_BC, x_BTNC)

    @property
    def frame_step(self) -> int | None:
        """1 where the tokens of a frame do not depend on other frames: without local blocks."""
        config = self.config
        ends_with_global = max(config.global_layers, default=-1) == config.depth - 1
        alone = not config.local_blocks and config.temporal_kernel == 1 and ends_with_global
        return 1 if alone and not self.training else None

    def step_features(self, step_B3THW: Tensor) -> Tensor:
        """Tokens [B,G,N,C] of one frame (T = 1) after each of the G layers with a global block."""
        x_B1NC = self._embed(step_B3THW)
        kept = []
        for layer, block in enumerate(self.blocks):
            x_B1NC = block(x_B1NC)
            if layer in self.config.global_layers:
                kept.append(x_B1NC[:, 0])
        return torch.stack(kept, dim=1)

    def forward_from_steps(self, x_BTGNC: Tensor) -> Tensor:
        """Logits [B,K] of clips whose frames have these `step_features`."""
        q_BC = self.query.view(1, -1).expand(x_BTGNC.shape[0], -1)
        for number, block in enumerate(self._global_block_of().values()):
            q_BC = block(q_BC, x_BTGNC[:, :, number])
        return self.head(self._fuse(q_BC, x_BTGNC[:, :, -1]))

    def _global_block_of(self) -> dict[int, nn.Module]:
        """The global blocks by the layers that they follow."""
        return dict(zip(sorted(self.config.global_layers), self.global_blocks, strict=True))

    def _fuse(self, q_BC: Tensor, x_BTNC: Tensor) -> Tensor:
        if self.config.fuse_class_tokens:
            cls_BC = x_BTNC[:, :, 0].mean(dim=1)
            q_BC = torch.lerp(q_BC, cls_BC, self.balance.sigmoid())
        return self.norm(q_BC)

    def _embed(self, clip_BCTHW: Tensor) -> Tensor:
        grid_BTHWC = self.patch_embed(clip_BCTHW)
        B, T = grid_BTHWC.shape[:2]
        cls_BT1C = self.class_token.expand(B, T, 1, -1)
        x_BTNC = torch.cat([cls_BT1C, grid_BTHWC.flatten(2, 3)], dim=2)
        return self.norm_pre(x_BTNC + self.pos_embed)

    def _check(self, clip_BCTHW: Tensor) -> None:
        frames, height, width = check_clip(clip_BCTHW)
        size, stride = self.config.image_size, self.config.temporal_stride
        if (height, width) != (size, size):
            raise ShapeError(
                f"this model accepts frames of {size}x{size}, not {height}x{width}; resize or "
                "crop them"
            )
        if frames % stride:
            raise ShapeError(
                f"this model has a temporal stride of {stride}, so the number of frames must be "
                f"even, not {frames}; add or drop a frame"
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers of the image transformer as timm's models name them, for layer-wise rates."""
        return {
            "stem": r"^(?:patch_embed|class_token|pos_embed|norm_pre)",
            "blocks": r"^blocks\.(\d+)\.",
        }

    def transformer_blocks(self) -> list[nn.Module]:
        """The modules that are recomputed, or sharded, one at a time."""
        return [*self.blocks, *self.global_blocks]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize for training from scratch or from CLIP: new branches start as identities."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d, nn.LayerNorm, BatchNorm)):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, (LocalBlock, GlobalBlock)):
                module.start_as_identity()
        for parameter in (self.patch_embed.weight, self.class_token, self.pos_embed):
            nn.init.normal_(parameter, std=self.config.width**-0.5)
        nn.init.zeros_(self.query)
        if self.config.fuse_class_tokens:
            nn.init.zeros_(self.balance)


def _zero(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
