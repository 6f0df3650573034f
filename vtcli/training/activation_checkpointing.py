"""Gradient checkpointing: the activations inside a block are recomputed in the backward pass, which
saves memory (Chen et al., arXiv 1604.06174).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from vtcli.training.batchnorm import preserve_bn_stats
from vtcli.training.layers import transformer_blocks

if TYPE_CHECKING:
    from torch import nn


def apply_activation_checkpointing(model: nn.Module) -> None:
    """Keep only the input of each block for the backward pass.

    Raises `UsageError` where the network does not state its blocks.
    """
    from torch.utils.checkpoint import checkpoint

    for block in transformer_blocks(model, "--grad-checkpointing"):
        # When a block is recomputed, its running statistics have seen the batch already.
        contexts = partial(_forward_and_recompute, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _forward_and_recompute(
    block: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), preserve_bn_stats(block)
