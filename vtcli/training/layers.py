"""The layers of a network, as the network itself states them.

Training asks two methods of a network, whatever package it comes from:
    group_matcher(coarse=False) -> dict    timm's form: regular expressions `stem` and `blocks` over
                                           parameter names; what neither matches is the last layer
    transformer_blocks() -> list[Module]   the blocks that are recomputed or sharded one at a time
A third is optional, as in timm: no_weight_decay() -> set of parameter names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def layer_ids(model: nn.Module, option: str) -> Mapping[str, int]:
    """The layer of each parameter: 0 for the embedding, 1 to L for the blocks, L + 1 for the rest.

    Raises `UsageError` where the network has no `group_matcher`, or one that matches no block;
    `option` names what needs it.
    """
    from timm.models import group_parameters

    network: Any = model
    name = type(model).__name__
    if not hasattr(model, "group_matcher"):
        raise UsageError(
            f"{option} needs the layers of {name}, which does not state them; add a method "
            "group_matcher(coarse=False) to it, as timm's models have, or leave the option out"
        )
    matcher = network.group_matcher(coarse=False)
    try:
        ids: dict[str, int] = group_parameters(model, matcher, reverse=True)
    except ValueError as error:
        raise UsageError(
            f"{option} needs the layers of {name}, but its group_matcher captures text that is not "
            f"a number ({error}); write (?:...) for groups other than layer numbers"
        ) from error
    if len(set(ids.values())) < 3:
        raise UsageError(
            f"{option} needs the layers of {name}, but its group_matcher puts all parameters into "
            f"{len(set(ids.values()))} of the groups stem, blocks and rest; correct its regular "
            "expressions, or leave the option out"
        )
    return ids


def transformer_blocks(model: nn.Module, option: str) -> list[nn.Module]:
    """The blocks of the network.

    Raises `UsageError` where the network does not state any; `option` names what needs them.
    """
    network: Any = model
    name = type(model).__name__
    blocks = list(network.transformer_blocks()) if hasattr(model, "transformer_blocks") else []
    if not blocks:
        raise UsageError(
            f"{option} needs the blocks of {name}, which does not state them; add a method "
            "transformer_blocks() to it that returns a list of modules, or leave the option out"
        )
    return blocks
