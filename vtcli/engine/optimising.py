"""What of a network is trained and how fast: layers, parameter groups, optimiser and schedule.

Optimisers and schedules are timm's; the groups are made here, since recipes exempt more than
timm's rules do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from vtcli.engine.recipes import Recipe, trained_blocks
from vtcli.errors import UsageError

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler
    from torch import Tensor, nn
    from torch.optim import Optimizer

_STEM = re.compile(r"^(encoder\.|spatial\.)?(patch_embed|class_token|pos_embed|norm_pre)")
_BLOCK = re.compile(r"^(?:encoder\.|spatial\.)?(?:stages\.(\d+)\.)?blocks\.(\d+)\.")
_MERGE = re.compile(r"^stages\.(\d+)\.merge\.")
_UNFIT = ("adahessian", "kron")
_ROOM = 1000  # more blocks than a stage has


def layer_numbers(names: Sequence[str]) -> Mapping[str, int]:
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
    layers = layer_numbers([name for name, _ in model.named_parameters()])
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


def parameter_groups(
    model: nn.Module, recipe: Recipe, head_tensors: Sequence[str]
) -> list[dict[str, Any]]:
    """Parameters with the same weight decay and the same factor of the learning rate together."""
    layers = layer_numbers([name for name, _ in model.named_parameters()])
    last = max(layers.values())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if _spared(name, parameter, recipe) else recipe.weight_decay
        factor = recipe.layer_decay ** (last - layers[name])
        whole = name in head_tensors or any(part in name for part in recipe.backbone_lr_except)
        factor *= 1.0 if whole else recipe.backbone_lr
        fresh = {"params": [], "weight_decay": decay, "lr_scale": factor, "names": []}
        group = groups.setdefault((decay, factor), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _spared(name: str, parameter: Tensor, recipe: Recipe) -> bool:
    one_dimension = recipe.filter_bias_and_bn and parameter.ndim <= 1
    return one_dimension or any(part in name for part in recipe.no_weight_decay)


def make_optimizer(groups: Sequence[Mapping[str, Any]], recipe: Recipe, lr: float) -> Optimizer:
    """timm's optimiser of the recipe's name; raises `UsageError` for a name it does not know, and
    for one that does not fit this loop.
    """
    from timm.optim import create_optimizer_v2

    if recipe.opt.startswith(_UNFIT):
        raise UsageError(
            f"--opt {recipe.opt} takes second derivatives or keeps lists of tensors, which this "
            "training does not; try adamw, sgd or lamb"
        )
    bare = [{k: v for k, v in group.items() if k != "names"} for group in groups]
    try:
        return create_optimizer_v2(bare, opt=recipe.opt, lr=lr, momentum=recipe.momentum)
    except (ValueError, AssertionError) as error:
        raise UsageError(
            f"--opt {recipe.opt} is no optimiser of timm's ({error}); try adamw, sgd or lamb"
        ) from error


def make_schedule(
    optimizer: Optimizer, recipe: Recipe, updates: int, per_epoch: int, factor: float
) -> Scheduler:
    """A cosine over the updates after a linear rise: a pure function of the update's number."""
    from timm.scheduler import CosineLRScheduler

    rise = min(round(recipe.warmup_epochs * per_epoch), max(0, updates - 2))
    return CosineLRScheduler(
        optimizer,
        t_initial=updates - rise,
        lr_min=recipe.min_lr * factor,
        warmup_t=rise,
        warmup_lr_init=recipe.warmup_lr * factor,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks of a network: the members of all its lists of blocks."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.split(".")[-1].endswith("blocks"):
            yield from module


def recompute_blocks(model: nn.Module) -> None:
    """Keep only what goes into each block for the backward pass (gradient checkpointing)."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks_of(model):
        # Running statistics have seen a batch when its blocks are computed again.
        contexts = partial(_first_and_again, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _first_and_again(
    block: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), statistics_spared(block)


@contextmanager
def statistics_spared(model: nn.Module) -> Iterator[None]:
    """What changes running statistics changes copies of them."""
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.startswith("running_")
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


def keep_statistics(model: nn.Module, everywhere: bool) -> None:
    """Normalise by the stored statistics and leave them alone: in all BatchNorms, or in those whose
    parameters are not trained.
    """
    for module in model.modules():
        if "running_mean" in dict(module.named_buffers(recurse=False)) and (
            everywhere or not any(p.requires_grad for p in module.parameters())
        ):
            module.eval()
