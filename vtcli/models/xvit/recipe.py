"""Training recipes of X-ViT: upstream's for Kinetics and Something-Something V2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtcli.models.recipe import Recipe

_KINETICS = Recipe(
    opt="sgd",
    lr=0.03,
    warmup_epochs=5,
    warmup_lr=0.01,
    weight_decay=1e-5,
    filter_bias_and_bn=False,
    no_weight_decay=("head.bias",),
    smoothing=0.3,
    mixup=0.4,
    aa="v0",
    # Sides of 1, 0.875, 0.75 or 0.66 of the short side; upstream combines neighbors in this list.
    train_crop_mode="sides",
    scale=(0.66, 1.0),
    ratio=(0.86, 1.16),
)
RECIPES: Mapping[str, Recipe] = {
    "default": _KINETICS,
    "something": replace(
        _KINETICS,
        epochs=35,
        warmup_lr=0.003,
        weight_decay=1e-4,
        smoothing=0.0,
        mixup=0.0,
        hflip=0.0,
        reprob=0.5,
        # Short side 256 to 320, a crop of 224.
        scale=(0.7, 0.875),
        ratio=(1.0, 1.0),
    ),
}
