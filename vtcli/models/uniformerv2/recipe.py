"""Training recipes of UniFormerV2: upstream's for Kinetics and Something-Something V2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtcli.models.recipe import Recipe

_KINETICS = Recipe(
    epochs=55,
    lr=1e-5,
    lr_base_size=256,
    # timm scales the rate of adaptive optimizers with the root of the batch; upstream never does.
    lr_base_scale="sqrt",
    warmup_epochs=5,
    warmup_lr=1e-6,
    min_lr=1e-6,
    weight_decay=0.05,
    clip_grad=20.0,
    aa="rand-m7-n4-mstd0.5-inc1",
)
RECIPES: Mapping[str, Recipe] = {
    "default": _KINETICS,
    "something": replace(_KINETICS, epochs=22, lr=4e-5, lr_base_size=128, hflip=0.0, aug_repeats=2),
}
