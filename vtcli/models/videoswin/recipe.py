"""Training recipes of Video Swin: upstream's for Kinetics and Something-Something V2.

The backbone is trained at a tenth of the head's learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtcli.models.recipe import Recipe

_KINETICS = Recipe(
    lr=1e-3,
    # timm scales the rate of adaptive optimizers with the root of the batch; upstream never does.
    lr_base_scale="sqrt",
    warmup_epochs=2.5,
    warmup_lr=1e-4,
    weight_decay=0.05,
    filter_bias_and_bn=False,
    no_weight_decay=("bias_table", "norm"),
    backbone_lr=0.1,
)
RECIPES: Mapping[str, Recipe] = {
    "default": _KINETICS,
    "something": replace(
        _KINETICS,
        epochs=60,
        lr=3e-4,
        warmup_lr=3e-5,
        hflip=0.0,
        aa="rand-m7-n4",
        reprob=0.25,
        smoothing=0.1,
        drop_path=0.4,
    ),
}
