"""Configurations of Video Swin (arXiv 2106.13230, section 4.1), and inferring them from shapes."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vtcli.errors import LayoutError
from vtcli.models import Shapes, count_layers, with_overrides


@dataclass(frozen=True)
class VideoSwinConfig:
    """One network. Sizes with three numbers are along time, height and width.

    image_size, num_frames: the clip it is tested with; it accepts any other.
    width: channels of the first stage; each later stage has twice as many as the one before.
    depths, num_heads: blocks and attention heads of each stage.
    qkv_bias, patch_norm: True in every published network; upstream has options for them.
    """

    image_size: int = 224
    num_frames: int = 32
    patch_size: tuple[int, int, int] = (2, 4, 4)
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: tuple[int, int, int] = (8, 7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    num_classes: int = 400
    dropout: float = 0.5
    drop_path: float = 0.1

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def bias_rows(self) -> int:
        """Rows of a relative position bias table: the offsets between two slots of a window."""
        return math.prod(2 * size - 1 for size in self.window_size)


_T = VideoSwinConfig()
_S = replace(_T, depths=(2, 2, 18, 2))
_B = replace(_S, width=128, num_heads=(4, 8, 16, 32), drop_path=0.2)
_L = replace(_S, width=192, num_heads=(6, 12, 24, 48), drop_path=0.4)

PRESETS: dict[str, VideoSwinConfig] = {
    "videoswin-t": _T,
    "videoswin-s": _S,
    "videoswin-b": _B,
    "videoswin-l": _L,
    "videoswin-b-w16": replace(_B, window_size=(16, 7, 7), num_classes=174, drop_path=0.4),
    "videoswin-l384": replace(_L, window_size=(8, 12, 12), image_size=384),
    "videoswin-nano": VideoSwinConfig(
        image_size=32,
        num_frames=16,
        patch_size=(4, 4, 4),
        width=48,
        depths=(2, 2),
        num_heads=(3, 6),
        window_size=(4, 4, 4),
        dropout=0.0,
        drop_path=0.0,
    ),
}


def published_macs(config: VideoSwinConfig) -> int:
    """Multiply-accumulates of one view as papers count them, from the configuration alone.

    Padded windows are counted in full, as upstream computes them.
    """
    clip = (config.num_frames, config.image_size, config.image_size)
    grid = [-(-size // patch) for size, patch in zip(clip, config.patch_size, strict=True)]
    total = math.prod(grid) * config.width * 3 * math.prod(config.patch_size)
    for stage, (C, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        if stage > 0:
            grid = [grid[0], -(-grid[1] // 2), -(-grid[2] // 2)]
            total += math.prod(grid) * 2 * C * C  # 4·C/2 channels become C
        window = [min(size, step) for size, step in zip(grid, config.window_size, strict=True)]
        slots = math.prod(-(-n // w) * w for n, w in zip(grid, window, strict=True))
        attention = slots * (4 * C * C + 2 * C * math.prod(window))
        mlp = math.prod(grid) * 2 * C * round(config.mlp_ratio * C)
        total += depth * (attention + mlp)
    return total + config.widths[-1] * config.num_classes


def stage_depths(names: Container[str]) -> tuple[int, ...]:
    """The number of blocks of each stage, from our tensor names."""
    stages = range(count_layers(names, "stages.{}.blocks.0.norm1.weight"))
    return tuple(count_layers(names, f"stages.{s}.blocks.{{}}.norm1.weight") for s in stages)


def infer_config(shapes: Shapes, hints: Mapping[str, Any]) -> VideoSwinConfig:
    """The configuration of tensors with these shapes, by our names.

    `hints` are fields that override it because shapes do not show them: the window size if it is
    not a published one, and the clip if it is not 32 frames of the published size. Raises
    `LayoutError` if the shapes are not those of this architecture.
    """
    try:
        width, _, *patch_size = shapes["patch_embed.proj.weight"]
        rows, _ = shapes["stages.0.blocks.0.attn.bias_table"]
        hidden, _ = shapes["stages.0.blocks.0.mlp.fc1.weight"]
        num_classes, _ = shapes["head.weight"]
    except (KeyError, ValueError) as error:
        raise LayoutError(
            f"this is not a complete Video Swin checkpoint: {error} is missing or mis-shaped"
        ) from error
    depths = stage_depths(shapes)
    stages = range(len(depths))
    inferred = {
        "patch_size": tuple(patch_size),
        "width": width,
        "depths": depths,
        "num_heads": tuple(shapes[f"stages.{s}.blocks.0.attn.bias_table"][1] for s in stages),
        "mlp_ratio": hidden / width,
        "qkv_bias": "stages.0.blocks.0.attn.qkv.bias" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "num_classes": num_classes,
    }
    return with_overrides(_nearest_preset(rows, width, depths, hints), {**inferred, **hints})


def _nearest_preset(
    rows: int, width: int, depths: tuple[int, ...], hints: Mapping[str, Any]
) -> VideoSwinConfig:
    """A published network with bias tables of this many rows, preferably of the same size.

    It gives the window size, the image size that belongs to it and the drop path rate.
    """
    if "window_size" in hints:
        return _T
    with_table = [config for config in PRESETS.values() if config.bias_rows == rows]
    if not with_table:
        raise LayoutError(
            f"no published network has relative position bias tables of {rows} rows; give its "
            "window_size"
        )
    same_size = [
        config for config in with_table if (config.width, config.depths) == (width, depths)
    ]
    return (same_size or with_table)[0]
