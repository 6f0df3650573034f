"""What of a network is trained and how fast: layers, parameter groups, optimizer and schedule.

Optimizers and schedules are timm's; the groups are made here, since recipes exempt more than
timm's rules do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.training.freeze import layer_ids
from vtcli.training.recipes import Recipe

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler
    from torch import Tensor, nn
    from torch.optim import Optimizer

_UNFIT = ("adahessian", "kron")


def param_groups(
    model: nn.Module, recipe: Recipe, head_tensors: Sequence[str]
) -> list[dict[str, Any]]:
    """Parameters with the same weight decay and the same factor of the learning rate together."""
    layers = layer_ids([name for name, _ in model.named_parameters()])
    last = max(layers.values())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if _no_decay(name, parameter, recipe) else recipe.weight_decay
        factor = recipe.layer_decay ** (last - layers[name])
        whole = name in head_tensors or any(part in name for part in recipe.backbone_lr_except)
        factor *= 1.0 if whole else recipe.backbone_lr
        fresh = {"params": [], "weight_decay": decay, "lr_scale": factor, "names": []}
        group = groups.setdefault((decay, factor), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _no_decay(name: str, parameter: Tensor, recipe: Recipe) -> bool:
    one_dimension = recipe.filter_bias_and_bn and parameter.ndim <= 1
    return one_dimension or any(part in name for part in recipe.no_weight_decay)


def make_optimizer(groups: Sequence[Mapping[str, Any]], recipe: Recipe, lr: float) -> Optimizer:
    """timm's optimizer of the recipe's name; raises `UsageError` for a name it does not know, and
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
            f"--opt {recipe.opt} is no optimizer of timm's ({error}); try adamw, sgd or lamb"
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
