"""Parameters and multiply-accumulates (MACs) of a network, counted without running it.

The network is built on the meta device, so nothing is allocated. Two counts are kept apart: as
papers count them, from the configuration, and as executed, where exact optimizations skip work.
FLOPs = 2 x MACs.

Shapes: a matrix product is [M,K] x [K,N].
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

MatmulShape = tuple[int, int, int]
"""M, K, N of a matrix product [M,K] x [K,N]."""
BETWEEN = "between blocks"


@dataclass(frozen=True)
class BlockCost:
    """One block of a network: its parameters, and its executed MACs for one view."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """A whole network, for one view.

    macs_paper: None where the architecture does not state how papers count. largest_matmul: the
    matrix product with the most MACs, at batch size 1. blocks: the last one, BETWEEN, is everything
    outside the others.
    """

    params: int
    macs_paper: int | None
    macs_executed: int
    largest_matmul: MatmulShape
    blocks: tuple[BlockCost, ...]


@cache
def count(arch: str, config: Any) -> Cost:
    """The cost of a network with this configuration."""
    architecture = get_architecture(arch)
    model = build_on_meta(architecture, config).eval().requires_grad_(False)
    clip = torch.empty(1, *clip_shape(config), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, LargestMatmul() as largest:
        macs = by_block(model, partial(model, clip), lambda: counter.get_total_flops() // 2)
    modules = dict(blocks_of(model))
    blocks = [BlockCost(n, count_params(modules.get(n)), round(m)) for n, m in macs.items()]
    total = count_params(model)
    in_blocks = sum(block.params for block in blocks)
    return Cost(
        params=total,
        macs_paper=architecture.published_macs and architecture.published_macs(config),
        macs_executed=counter.get_total_flops() // 2,
        largest_matmul=largest.shape,
        blocks=(*blocks[:-1], BlockCost(BETWEEN, total - in_blocks, blocks[-1].macs)),
    )


def count_params(module: nn.Module | None) -> int:
    """The number of parameters; 0 for None."""
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def blocks_of(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks that a reader of the network sees: its top-level modules, and the layers of those
    that hold a list of layers.
    """
    for name, module in model.named_children():
        has_layers = any(isinstance(inner, nn.ModuleList) for inner in module.modules())
        if has_layers:
            yield from blocks_of(module, f"{prefix}{name}.")
        elif not isinstance(module, nn.Identity):
            yield f"{prefix}{name}", module


def by_block(
    model: nn.Module, run: Callable[[], object], meter: Callable[[], float]
) -> Mapping[str, float]:
    """How far a clock or counter (`meter`) advances in each block while `run()` calls the model.

    The last entry, BETWEEN, is what it advances outside of all blocks.
    """
    spent = {name: 0.0 for name, _ in blocks_of(model)}

    def start(name: str, *_: object) -> None:
        spent[name] -= meter()

    def stop(name: str, *_: object) -> None:
        spent[name] += meter()

    hooks = []
    for name, block in blocks_of(model):
        hooks.append(block.register_forward_pre_hook(partial(start, name)))
        hooks.append(block.register_forward_hook(partial(stop, name)))
    try:
        before = meter()
        run()
        total = meter() - before
    finally:
        for hook in hooks:
            hook.remove()
    return {**spent, BETWEEN: total - sum(spent.values())}


class LargestMatmul(TorchDispatchMode):
    """Records the shape of the matrix product with weights that has the most MACs."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: MatmulShape = (0, 0, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        if func in (aten.mm.default, aten.addmm.default):
            left_MK, right_KN = args[-2:]
            shape = (*left_MK.shape, right_KN.shape[1])
            self.shape = max(self.shape, shape, key=lambda s: s[0] * s[1] * s[2])
        return func(*args, **(kwargs or {}))
