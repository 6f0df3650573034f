"""Training recipes of ViViT: upstream's for Kinetics and Something-Something V2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtcli.models.recipe import Recipe

_KINETICS = Recipe(
    opt="momentum",
    lr=0.1,
    weight_decay=0.0,
    clip_grad=1.0,
    # Short side 256, height and width stretched by 0.9 to 1.33 each, a crop of 224.
    train_crop_mode="sides",
    scale=(0.66, 0.97),
    ratio=(0.8, 1.25),
)
RECIPES: Mapping[str, Recipe] = {
    "default": _KINETICS,
    "something": replace(
        _KINETICS,
        epochs=35,
        lr=0.4,
        hflip=0.0,
        smoothing=0.3,
        mixup=0.3,
        aa="rand-m20-n2-mmax20",
        drop_path=0.3,
    ),
}
