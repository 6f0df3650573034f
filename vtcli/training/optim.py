"""Parameter groups, optimizer and learning rate schedule.

Optimizers and schedules are timm's, and so are the layers (`group_matcher`). The groups are made
here because recipes exclude more from weight decay than timm's rule and have a separate learning
rate for the backbone; where a recipe uses neither, they equal timm's `param_groups_layer_decay`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError
from vtcli.models.recipe import Recipe
from vtcli.training.layers import layer_ids

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler
    from torch import Tensor, nn
    from torch.optim import Optimizer

_GRADIENT_DESCENT = ("sgd", "momentum", "nesterov", "sgdw", "nesterovw", "sgdp")
_UNSUPPORTED = ("adahessian", "kron")


def param_groups(
    model: nn.Module, recipe: Recipe, head_tensors: Sequence[str]
) -> list[dict[str, Any]]:
    """Trained parameters grouped by weight decay and by the factor of the learning rate.

    Each group has timm's keys `params`, `weight_decay` and `lr_scale`, and `names`. The factor 1
    stands for `recipe.top_lr`. Raises `UsageError` for layer decay where the network does not state
    its layers.
    """
    layer_scale = _layer_scales(model, recipe.layer_decay)
    top_lr = recipe.top_lr or 1.0
    head_scale = 1.0 if recipe.head_lr is None else recipe.head_lr / top_lr
    backbone_scale = 1.0 if recipe.head_lr is None else recipe.lr / top_lr
    network: Any = model
    own_no_decay = network.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        excluded = name in own_no_decay or _no_decay(name, parameter, recipe)
        decay = 0.0 if excluded else recipe.weight_decay
        if name in head_tensors:
            scale = layer_scale[name] if recipe.head_lr is None else head_scale
        else:
            full_rate = any(part in name for part in recipe.backbone_lr_except)
            scale = layer_scale[name] * backbone_scale * (1.0 if full_rate else recipe.backbone_lr)
        new = {"params": [], "weight_decay": decay, "lr_scale": scale, "names": []}
        group = groups.setdefault((decay, scale), new)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _layer_scales(model: nn.Module, layer_decay: float) -> Mapping[str, float]:
    """Factor of each parameter's learning rate: `layer_decay` to the number of layers above it."""
    if layer_decay == 1.0:
        return {name: 1.0 for name, _ in model.named_parameters()}
    layers = layer_ids(model, f"--layer-decay {layer_decay}")
    last = max(layers.values())
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def _no_decay(name: str, parameter: Tensor, recipe: Recipe) -> bool:
    one_dimension = recipe.filter_bias_and_bn and parameter.ndim <= 1
    return one_dimension or any(part in name for part in recipe.no_weight_decay)


def make_optimizer(groups: Sequence[Mapping[str, Any]], recipe: Recipe, lr: float) -> Optimizer:
    """timm's optimizer of the recipe's name.

    Raises `UsageError` for a name that timm does not know, and for an optimizer that needs another
    training loop.
    """
    from timm.optim import create_optimizer_v2

    if recipe.opt.startswith(_UNSUPPORTED):
        raise UsageError(
            f"--opt {recipe.opt} needs second derivatives or keeps lists of tensors, which vt does "
            "not support; try adamw, sgd or lamb"
        )
    bare = [{k: v for k, v in group.items() if k != "names"} for group in groups]
    try:
        return create_optimizer_v2(bare, opt=recipe.opt, lr=lr, momentum=recipe.momentum)
    except (ValueError, AssertionError) as error:
        raise UsageError(
            f"--opt {recipe.opt} is not an optimizer of timm ({error}); try adamw, sgd or lamb"
        ) from error


def make_schedule(
    optimizer: Optimizer, recipe: Recipe, steps: int, steps_per_epoch: int, lr_scale: float
) -> Scheduler:
    """Linear warmup, then a cosine: a pure function of the number of the optimizer step."""
    from timm.scheduler import CosineLRScheduler

    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), max(0, steps - 2))
    return CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        lr_min=recipe.min_lr * lr_scale,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_lr * lr_scale,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def sum_of_head_rates(recipe: Recipe, steps: int, steps_per_epoch: int, lr_scale: float) -> float:
    """The sum of the learning rates that the classifier sees over all optimizer steps."""
    import torch

    head_lr = recipe.lr if recipe.head_lr is None else recipe.head_lr
    top_lr = recipe.top_lr or 1.0
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.top_lr * lr_scale)
    schedule: Any = make_schedule(optimizer, recipe, steps, steps_per_epoch, lr_scale)
    every = max(1, steps // 10_000)  # of a longer training every n-th step stands for n
    rates = [schedule._get_lr(step)[0] for step in range(0, steps, every)]
    return sum(rates) / len(rates) * steps * head_lr / top_lr


def least_sum_of_rates(recipe: Recipe, classes: int, width: int) -> float:
    """The smallest sum of learning rates that can make a new classifier confident.

    Confident is a probability of 0.9 for one of K classes: a logit ln(9(K-1)) above the others.
    The classifier reads D normalized features, of which half at most differ between classes. Adam
    moves a weight by its rate at most: rates that sum to S raise the logit by at most 2·S·D/2 above
    the others. SGD with momentum m moves a weight by rate / (1 - m) times the gradient, to which
    one example in K contributes.
    """
    logit = math.log(9 * max(1, classes - 1))
    least = logit / width
    if recipe.opt in _GRADIENT_DESCENT:
        return least * classes * (1 - min(recipe.momentum, 0.99))
    return least
