"""Which parameters are trained: all, the head, or the head and the last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtcli.errors import UsageError
from vtcli.models.recipe import Recipe, trainable_blocks
from vtcli.training.layers import layer_ids

if TYPE_CHECKING:
    from torch import nn


def freeze(model: nn.Module, recipe: Recipe, head_tensors: Sequence[str]) -> None:
    """Freeze every parameter that `recipe.trainable` does not name.

    Raises `UsageError` where the network has fewer blocks, or does not state its layers.
    """
    blocks = trainable_blocks(recipe.trainable)
    if blocks is None:
        return
    if blocks == 0:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in head_tensors
        return
    layers = layer_ids(model, f"--trainable {recipe.trainable}")
    last = max(layers.values())
    if blocks >= last:
        raise UsageError(
            f"--trainable {recipe.trainable} names more blocks than the {last - 1} of this model; "
            "use --trainable full"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = layers[name] >= last - blocks
