"""Configurations of UniFormerV2 (arXiv 2211.09552, tables 7-13), and inferring them from shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vtcli.errors import LayoutError
from vtcli.models import count_layers

HEAD_DIM = 64  # of every CLIP image transformer


@dataclass(frozen=True)
class UniFormerV2Config:
    """One network. `width` is shared by the image transformer and the global blocks.

    local_blocks: local UniFormer blocks per transformer layer: 0, 1 (before attention) or 2 (also
        before the MLP).
    local_reduction: their bottleneck has int(width // local_reduction) channels.
    temporal_stride: 1, or 2 with a patch embedding over three frames.
    global_layers: layers (from 0) that are followed by a global block.
    fuse_class_tokens: blend the video query with the frames' class tokens; False in the frozen
        models.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    local_blocks: int = 0
    local_reduction: float = 1.5
    temporal_stride: int = 1
    global_layers: tuple[int, ...] = (8, 9, 10, 11)
    global_num_heads: int = 12
    global_mlp_ratio: float = 4.0
    fuse_class_tokens: bool = True
    num_classes: int = 400
    num_frames: int = 8
    dropout: float = 0.5
    global_dropout: float = 0.5
    drop_path: float = 0.0
    global_drop_path: float = 0.0

    @property
    def grid(self) -> int:
        """Patches per side of a frame."""
        return self.image_size // self.patch_size

    @property
    def temporal_kernel(self) -> int:
        """Frames of one patch: 3 with a temporal stride of 2, else 1."""
        return 3 if self.temporal_stride == 2 else 1

    @property
    def local_width(self) -> int:
        """Channels inside a local block."""
        return int(self.width // self.local_reduction)


def last_layers(depth: int, count: int) -> tuple[int, ...]:
    """The last `count` of `depth` layers, which have the global blocks in every published model."""
    return tuple(range(depth - count, depth))


_B = UniFormerV2Config()
_L = UniFormerV2Config(
    patch_size=14,
    width=1024,
    depth=24,
    num_heads=16,
    global_num_heads=16,
    global_layers=last_layers(24, 4),
)
_SOMETHING: dict[str, Any] = {
    "local_blocks": 2,
    "temporal_stride": 2,
    "num_classes": 174,
    "num_frames": 16,
    "drop_path": 0.2,
    "global_drop_path": 0.4,
}

PRESETS: dict[str, UniFormerV2Config] = {
    "uniformerv2-b": _B,
    "uniformerv2-l": _L,
    "uniformerv2-l336": replace(_L, image_size=336),
    "uniformerv2-l336-frozen": replace(_L, image_size=336, fuse_class_tokens=False),
    "uniformerv2-b-local": replace(_B, global_layers=last_layers(12, 8), **_SOMETHING),
    "uniformerv2-l-local": replace(_L, global_layers=last_layers(24, 16), **_SOMETHING),
    "uniformerv2-nano": UniFormerV2Config(
        image_size=32,
        patch_size=8,
        width=64,
        depth=4,
        num_heads=4,
        local_blocks=1,
        global_layers=last_layers(4, 2),
        global_num_heads=4,
        dropout=0.0,
        global_dropout=0.0,
    ),
}


def published_macs(config: UniFormerV2Config) -> int:
    """Multiply-accumulates of one view as papers count them, from the configuration alone.

    Keys and values of the global blocks are counted for every token, although this implementation
    does not compute them.
    """
    C, HW = config.width, config.grid**2
    T = config.num_frames // config.temporal_stride
    N, M = 1 + HW, T * (1 + HW)
    patch_embed = T * HW * C * 3 * config.temporal_kernel * config.patch_size**2
    block = T * (12 * N * C * C + 2 * N * N * C)
    bottleneck = config.local_width
    local = config.local_blocks * T * HW * (2 * C * bottleneck + 3 * bottleneck)
    cross_attention = 2 * M * C * C + 2 * C * C + 2 * M * C
    mlp = 2 * round(config.global_mlp_ratio * C) * C
    global_block = 27 * T * HW * C + cross_attention + mlp
    blocks = config.depth * (block + local) + len(config.global_layers) * global_block
    return patch_embed + blocks + C * config.num_classes


def infer_config(
    shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]
) -> UniFormerV2Config:
    """The configuration of tensors with these shapes, by our names.

    `hints` are fields that override it because shapes do not show them: num_frames, num_heads, and
    global_layers if they are not the last ones. Raises `LayoutError` if the shapes are not those of
    this architecture.
    """
    try:
        width, _, kt, patch, _ = shapes["patch_embed.weight"]
        tokens = shapes["pos_embed"][0] - 1
        num_classes = shapes["head.weight"][0]
        global_hidden = shapes["global_blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise LayoutError(
            f"this is not a complete UniFormerV2 checkpoint: {error} is missing or mis-shaped"
        ) from error
    depth = count_layers(shapes, "blocks.{}.norm1.weight")
    local_down = shapes.get("blocks.0.local1.down.weight")
    config = UniFormerV2Config(
        image_size=patch * math.isqrt(tokens),
        patch_size=patch,
        width=width,
        depth=depth,
        num_heads=max(1, width // HEAD_DIM),
        local_blocks=sum(f"blocks.0.local{n}.down.weight" in shapes for n in (1, 2)),
        local_reduction=_reduction(width, local_down[0]) if local_down else 1.5,
        temporal_stride=2 if kt == 3 else 1,
        global_layers=last_layers(depth, count_layers(shapes, "global_blocks.{}.pos_conv.weight")),
        global_num_heads=max(1, width // HEAD_DIM),
        global_mlp_ratio=global_hidden / width,
        fuse_class_tokens="balance" in shapes,
        num_classes=num_classes,
        num_frames=16 if local_down else 8,
        drop_path=0.2 if local_down else 0.0,
        global_drop_path=0.4 if local_down else 0.0,
    )
    return replace(config, **hints)


def _reduction(width: int, bottleneck: int) -> float:
    """1.5 if it gives this bottleneck, as in all published models; else the ratio of widths."""
    return 1.5 if int(width // 1.5) == bottleneck else width / bottleneck
