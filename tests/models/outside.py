"""An architecture of another package: its blocks are not called `blocks`, and it states its layers.

Legend: B clips, T frames, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.models import Architecture
from vtcli.models.recipe import Recipe

BLOCKS = 2


@dataclass(frozen=True)
class OutsideConfig:
    image_size: int = 32
    num_frames: int = 4
    num_classes: int = 2
    width: int = 16


class OutsideBlock(nn.Module):
    """A residual layer that counts how often it runs in training: [B,T,C] -> [B,T,C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.forwards = 0

    def forward(self, x_BTC: Tensor) -> Tensor:
        self.forwards += self.training
        return x_BTC + F.gelu(self.fc(x_BTC))


class Bare(nn.Module):
    """The mean color of each frame through a few layers; states nothing about them."""

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(3, config.width)
        self.layers = nn.ModuleList(OutsideBlock(config.width) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_classes)

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        x_BTC = self.embed(clip_B3THW.mean((3, 4)).transpose(1, 2))
        for layer in self.layers:
            x_BTC = layer(x_BTC)
        logits_BK: Tensor = self.head(self.norm(x_BTC).mean(1))
        return logits_BK

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()


class Outside(Bare):
    """The same network, which states its layers."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^embed", "blocks": r"^layers\.(\d+)\."}

    def transformer_blocks(self) -> list[nn.Module]:
        return list(self.layers)


class Mismatched(Outside):
    """Its regular expression matches none of its blocks."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^embed", "blocks": r"^blocks\.(\d+)\."}


def infer_config(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> OutsideConfig:
    return replace(OutsideConfig(num_classes=shapes["head.weight"][0]), **hints)


OUTSIDE = Architecture(
    name="outside",
    title="Outside",
    presets={"outside-xs": OutsideConfig()},
    build=Outside,
    infer_config=infer_config,
    layouts={},
    recipes={"default": Recipe(lr=5e-3, warmup_epochs=0.0)},
)
BARE = replace(OUTSIDE, name="bare", title="Bare", build=Bare, recipes={})
MISMATCHED = replace(OUTSIDE, name="mismatched", title="Mismatched", build=Mismatched)


def install(
    folder: Path, name: str = "outside", value: str = "tests.models.outside:OUTSIDE"
) -> Path:
    """Metadata of an installed package `vt-NAME` with this entry point; returns `folder`."""
    package = folder / f"vt_{name}-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vt-{name}\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[vtcli.architectures]\n{name} = {value}\n")
    return folder
