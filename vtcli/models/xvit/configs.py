"""Configurations of X-ViT (arXiv 2106.05968, tables 4-7), and inferring them from shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vtcli.errors import LayoutError, UsageError
from vtcli.models import count_layers

HEAD_DIM = 64  # of every ViT-B and ViT-L
EMBED_SIZE = 224  # the image size that every position table is stored for
SOMETHING_CLASSES = 174

Consensus = Literal["attention", "avg"]


@dataclass(frozen=True)
class XViTConfig:
    """One network.

    temporal_positions: length of the temporal embedding; it is repeated for a longer clip.
    shift_segments: group size of frame mixing; a longer clip is split into several groups.
    shift_div: width // shift_div channels of keys and values come from the next frame, and as many
        from the previous one.
    shift_layers: layers (from 0) that mix frames; None: all; (): none (t_w = 0 in the paper).
    consensus: how frames are aggregated: by a small transformer over their class tokens (its
        temporal_layers, temporal_heads, and head_hidden, the width before the classifier), or by
        their mean.
    summary_tokens: whether every frame also attends to the spatial means of all frames; in the
        paper (section 3.3) but in no released code.
    heads: names and sizes of several classifiers that share the rows of one, in order. The paper
        has two for EPIC-Kitchens (verb 97, noun 300, num_classes 397), but no released code does.
    """

    image_size: int = EMBED_SIZE
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    temporal_positions: int = 8
    shift_segments: int = 8
    shift_div: int = 8
    shift_layers: tuple[int, ...] | None = None
    consensus: Consensus = "attention"
    temporal_layers: int = 1
    temporal_heads: int = 12
    head_hidden: int = 768
    summary_tokens: bool = False
    num_classes: int = 400
    heads: tuple[tuple[str, int], ...] = ()
    num_frames: int = 16
    dropout: float = 0.5
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.heads and sum(size for _, size in self.heads) != self.num_classes:
            raise UsageError(
                f"the sizes of the heads {self.heads} do not add up to {self.num_classes} classes; "
                "correct them, or use one head (heads=())"
            )

    @property
    def stored_grid(self) -> int:
        """Patches per side in the stored position table."""
        return EMBED_SIZE // self.patch_size

    @property
    def grid(self) -> int:
        """Patches per side of a frame."""
        return self.image_size // self.patch_size

    @property
    def shifts(self) -> tuple[bool, ...]:
        """Whether each layer mixes frames; layers beyond the depth are ignored."""
        layers = range(self.depth) if self.shift_layers is None else self.shift_layers
        return tuple(layer in layers for layer in range(self.depth))

    @property
    def frame_step(self) -> int:
        """The number of frames of a clip is a multiple of this."""
        group = self.shift_segments if any(self.shifts) else 1
        return math.lcm(group, self.temporal_positions)


_B = XViTConfig()
_L = XViTConfig(width=1024, depth=24, num_heads=16, temporal_heads=16, head_hidden=1024)
_PAPER_SOMETHING: dict[str, Any] = {
    "patch_size": 32,
    "shift_div": 4,
    "num_classes": SOMETHING_CLASSES,
    "num_frames": 8,
}

PRESETS: dict[str, XViTConfig] = {
    "xvit-b": _B,
    "xvit-b-something": replace(_B, shift_segments=16, shift_div=4, num_classes=SOMETHING_CLASSES),
    "xvit-b32": replace(_B, **_PAPER_SOMETHING),
    "xvit-l": _L,
    "xvit-l32": replace(_L, **_PAPER_SOMETHING),
    "xvit-nano": XViTConfig(
        image_size=32,
        patch_size=8,
        width=64,
        depth=4,
        num_heads=2,
        shift_div=3,
        temporal_heads=4,
        head_hidden=64,
        num_frames=8,
        dropout=0.0,
    ),
}


def published_macs(config: XViTConfig) -> int:
    """Multiply-accumulates of one view as papers count them, from the configuration alone.

    All tokens are counted in the last layers too, although only the first one is used.
    """
    C, T, P = config.width, config.num_frames, config.grid**2
    N = 1 + P
    summaries = T if config.summary_tokens else 0
    patch_embed = T * P * C * 3 * config.patch_size**2
    block = T * (12 * N * C * C + 2 * N * (N + summaries) * C)
    backbone = patch_embed + config.depth * block
    if config.consensus == "avg":
        return backbone + T * C * config.num_classes
    temporal_block = 12 * (1 + T) * C * C + 2 * (1 + T) ** 2 * C
    head = config.head_hidden * (C + config.num_classes)
    return backbone + config.temporal_layers * temporal_block + head


def infer_config(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> XViTConfig:
    """The configuration of tensors with these shapes, by our names.

    `hints` are fields that override it because shapes do not show them: how frames are mixed, image
    size, clip length, and num_heads if a head does not have 64 channels. Without hints frames are
    mixed as in the released files, which depends on the classes: 174 (Something-Something) or not.
    Raises `LayoutError` if the shapes are not those of this architecture.
    """
    try:
        width, _, patch, _ = shapes["patch_embed.weight"]
        tokens = shapes["pos_embed"][1]
        positions = shapes["temporal_embed"][1]
        num_classes = shapes["head.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise LayoutError(
            f"this is not a complete X-ViT checkpoint: {error} is missing or mis-shaped"
        ) from error
    if tokens != 1 + (EMBED_SIZE // patch) ** 2:
        raise LayoutError(
            f"an X-ViT with patches of {patch} pixels stores 1 + {EMBED_SIZE // patch}² positions, "
            f"but this checkpoint has {tokens}"
        )
    config = XViTConfig(
        patch_size=patch,
        width=width,
        depth=count_layers(shapes, "blocks.{}.norm1.weight"),
        num_heads=max(1, width // HEAD_DIM),
        temporal_positions=positions,
        consensus="attention" if "temporal.class_token" in shapes else "avg",
        temporal_layers=count_layers(shapes, "temporal.blocks.{}.norm1.weight"),
        temporal_heads=max(1, width // HEAD_DIM),
        head_hidden=shapes.get("temporal.fc.weight", (width,))[0],
        num_classes=num_classes,
    )
    if config.num_classes == SOMETHING_CLASSES:
        config = replace(config, shift_segments=16, shift_div=4)
    return replace(config, **hints)
