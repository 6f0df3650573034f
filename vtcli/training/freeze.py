"""TODO-HEAD"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.training.recipes import Recipe, trained_blocks

if TYPE_CHECKING:
    from torch import nn
from vtcli.training.batchnorm import preserve_bn_stats

_STEM = re.compile(r"^(encoder\.|spatial\.)?(patch_embed|class_token|pos_embed|norm_pre)")


_BLOCK = re.compile(r"^(?:encoder\.|spatial\.)?(?:stages\.(\d+)\.)?blocks\.(\d+)\.")


_MERGE = re.compile(r"^stages\.(\d+)\.merge\.")


_ROOM = 1000  # more blocks than a stage has


def layer_ids(names: Sequence[str]) -> Mapping[str, int]:
    """The layer of each tensor: 0 for the embedding, 1 to L for the blocks of the main transformer,
    L + 1 for all that reads its answer.
    """
    places = {name: _place(name) for name in names}
    order = sorted({place for place in places.values() if place is not None and place > 0})
    numbers = {place: number for number, place in enumerate(order, 1)} | {0: 0}
    last = len(order) + 1
    return {name: last if place is None else numbers[place] for name, place in places.items()}


def _place(name: str) -> int | None:
    """Where a tensor stands among the blocks, 0 before all, None after all."""
    if _STEM.match(name):
        return 0
    if block := _BLOCK.match(name):
        return int(block[1] or 0) * _ROOM + int(block[2]) + 1
    if merge := _MERGE.match(name):
        return (int(merge[1]) + 1) * _ROOM  # with the blocks that follow it
    return None


def freeze(model: nn.Module, recipe: Recipe, head_tensors: Sequence[str]) -> None:
    """Let only those parameters change that `recipe.train` names.

    Raises `UsageError` where there are not so many blocks.
    """
    blocks = trained_blocks(recipe.train)
    if blocks is None:
        return
    layers = layer_ids([name for name, _ in model.named_parameters()])
    last = max(layers.values())
    if blocks >= last:
        raise UsageError(
            f"--train {recipe.train} names more blocks than the {last - 1} there are; take "
            "--train full"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = (
            name in head_tensors if blocks == 0 else layers[name] >= last - blocks
        )


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks of a network: the members of all its lists of blocks."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.split(".")[-1].endswith("blocks"):
            yield from module


def apply_activation_checkpointing(model: nn.Module) -> None:
    """Keep only what goes into each block for the backward pass (gradient checkpointing)."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks_of(model):
        # Running statistics have seen a batch when its blocks are computed again.
        contexts = partial(_first_and_again, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _first_and_again(
    block: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), preserve_bn_stats(block)
