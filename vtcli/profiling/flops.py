"""What a network costs, told without running it: parameters and multiply-accumulates (MACs).

Counted on meta tensors, which hold no numbers. MACs come in two forms that are never mixed: in
published form, as papers count what a configuration implies, and as executed, where exact savings
leave work out. FLOPs = 2 x MACs.

Shapes: a product is [M,K] x [K,N].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vtcli.models import get_architecture
from vtcli.models.build import build_on_meta, clip_shape

Product = tuple[int, int, int]
BETWEEN = "between blocks"


@dataclass(frozen=True)
class Block:
    """A part of a network and its share of the whole: parameters, and MACs of one view as
    executed.
    """

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """A whole network; MACs are those of one view, the published form None where none is stated.

    product: M, K, N of the matrix product that multiplies most, the whole batch's rows at batch 1.
    """

    params: int
    published_macs: int | None
    executed_macs: int
    product: Product
    blocks: tuple[Block, ...]


@cache
def count(arch: str, config: Any) -> Cost:
    """The cost of a network with this configuration; nothing is allocated."""
    architecture = get_architecture(arch)
    model = build_on_meta(architecture, config).eval().requires_grad_(False)
    clip = torch.empty(1, *clip_shape(config), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, LargestMatmul() as largest:
        spent = by_block(model, partial(model, clip), lambda: counter.get_total_flops() // 2)
    parts = dict(blocks_of(model))
    blocks = tuple(Block(n, parameters(parts.get(n)), round(macs)) for n, macs in spent.items())
    total = parameters(model)
    held = sum(block.params for block in blocks)
    return Cost(
        params=total,
        published_macs=architecture.published_macs and architecture.published_macs(config),
        executed_macs=counter.get_total_flops() // 2,
        product=largest.product,
        blocks=(*blocks[:-1], Block(BETWEEN, total - held, blocks[-1].macs)),
    )


def parameters(model: nn.Module | None) -> int:
    """Numbers that training would learn; 0 where there is no module."""
    return sum(p.numel() for p in model.parameters()) if model is not None else 0


def blocks_of(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks a reader of the network sees: its parts, and the members of its lists of
    layers.
    """
    for name, part in model.named_children():
        holds_layers = any(isinstance(inner, nn.ModuleList) for inner in part.modules())
        if holds_layers:
            yield from blocks_of(part, f"{prefix}{name}.")
        elif not isinstance(part, nn.Identity):
            yield f"{prefix}{name}", part


def by_block(
    model: nn.Module, run: Callable[[], object], reading: Callable[[], float]
) -> Mapping[str, float]:
    """How far a meter (`reading`) advances inside each block while `run()` calls the model.

    The last entry, BETWEEN, is what it advances outside of all blocks.
    """
    spent = {name: 0.0 for name, _ in blocks_of(model)}

    def start(name: str, *_: object) -> None:
        spent[name] -= reading()

    def stop(name: str, *_: object) -> None:
        spent[name] += reading()

    hooks = []
    for name, block in blocks_of(model):
        hooks.append(block.register_forward_pre_hook(partial(start, name)))
        hooks.append(block.register_forward_hook(partial(stop, name)))
    try:
        before = reading()
        run()
        whole = reading() - before
    finally:
        for hook in hooks:
            hook.remove()
    return {**spent, BETWEEN: whole - sum(spent.values())}


class LargestMatmul(TorchDispatchMode):
    """Notes the largest matrix product with weights among all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.product: Product = (0, 0, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        if func in (aten.mm.default, aten.addmm.default):
            rows_MK, columns_KN = args[-2:]
            product = (*rows_MK.shape, columns_KN.shape[1])
            self.product = max(self.product, product, key=lambda s: s[0] * s[1] * s[2])
        return func(*args, **(kwargs or {}))
