"""Multinomial logistic regression with an L2 penalty, or one binary logistic regression per class
where classes do not exclude each other (`alone`).

Minimizes the mean cross-entropy (`alone`: binary and summed over the classes) plus l2/2 times the
sum of squared weights, on standardized features, with Newton's method in double precision:
PyTorch's L-BFGS takes longer to import than this to fit.
Legend: N rows, D features, C = D + 1 with the bias, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_ITERATIONS = 500
SHORTEST_STEP = 1e-10
EXACT = 1e-6


@dataclass(frozen=True)
class Loss:
    """The loss of logits: cross-entropy, or binary cross-entropies where each class is decided
    `alone`; `weights` [K] are then their factors.
    """

    alone: bool = False
    weights: Tensor | None = None

    def __call__(self, logits_NK: Tensor, target_NK: Tensor) -> Tensor:
        """Of each row [N]."""
        if not self.alone:
            return -(target_NK * logits_NK.log_softmax(1)).sum(1)
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight_K = None if self.weights is None else self.weights.to(logits_NK)
        return binary_cross_entropy_with_logits(
            logits_NK, target_NK, weight_K, reduction="none"
        ).sum(1)

    def derivatives(
        self, logits_NK: Tensor, target_NK: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient [N,K] over the logits, and how it changes along a direction [N,K]."""
        if self.alone:
            p_NK = logits_NK.sigmoid()
            weight_K = 1.0 if self.weights is None else self.weights.to(logits_NK)
            curve_NK = weight_K * p_NK * (1 - p_NK)
            return weight_K * (p_NK - target_NK), lambda along_NK: curve_NK * along_NK
        p_NK, total_N1 = logits_NK.softmax(1), target_NK.sum(1, keepdim=True)

        def change(along_NK: Tensor) -> Tensor:
            return total_N1 * p_NK * (along_NK - (p_NK * along_NK).sum(1, keepdim=True))

        return total_N1 * p_NK - target_NK, change


CROSS_ENTROPY = Loss()


@dataclass(frozen=True)
class LinearFit:
    """`weight` [K,D] and `bias` [K] for features as they are, and the penalty that was used."""

    weight: Tensor
    bias: Tensor
    l2: float

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits [N,K], in double precision."""
        return features_ND.double() @ self.weight.T + self.bias


def fit_logistic(
    features_ND: Tensor,
    target_NK: Tensor,
    l2: float,
    start: LinearFit | None = None,
    tolerance: float = EXACT,
    loss: Loss = CROSS_ENTROPY,
) -> LinearFit:
    """The minimum for this penalty, where no partial derivative exceeds `tolerance`; `start` is the
    fit of a similar penalty.
    """
    import torch

    x_ND, y_NK = features_ND.double(), target_NK.double()
    mean_D = x_ND.mean(0)
    scale_D = x_ND.std(0, correction=0).clamp_min(1e-6)
    # The last column is the bias, which is not penalized.
    x_NC = torch.nn.functional.pad((x_ND - mean_D) / scale_D, (0, 1), value=1.0)
    weight_KC = torch.zeros(y_NK.shape[1], x_NC.shape[1], dtype=torch.float64)
    if start is not None:
        weight_KC[:, :-1] = start.weight * scale_D
        weight_KC[:, -1] = start.bias + start.weight @ mean_D
    penalty_C = torch.full((x_NC.shape[1],), l2, dtype=torch.float64)
    penalty_C[-1] = 0.0
    weight_KC = _minimize(_Objective(x_NC, y_NK, penalty_C, loss), weight_KC, tolerance)
    found_KD = weight_KC[:, :-1] / scale_D
    return LinearFit(found_KD, weight_KC[:, -1] - found_KD @ mean_D, l2)


@dataclass(frozen=True)
class _Objective:
    """The penalized loss, a function of the weights and biases [K,C].

    `inputs` [N,C], `targets` [N,K], and the `penalty` [C] of each column.
    """

    inputs: Tensor
    targets: Tensor
    penalty: Tensor
    loss: Loss

    def value(self, weight_KC: Tensor) -> float:
        fit = self.loss(self.inputs @ weight_KC.T, self.targets).mean()
        return float(fit + (self.penalty * weight_KC.square()).sum() / 2)

    def derivatives(self, weight_KC: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient [K,C], and the product of the Hessian with a direction [K,C]."""
        slope_NK, change = self.loss.derivatives(self.inputs @ weight_KC.T, self.targets)
        count = len(self.inputs)

        def hessian(direction_KC: Tensor) -> Tensor:
            changed_NK = change(self.inputs @ direction_KC.T)
            return changed_NK.T @ self.inputs / count + self.penalty * direction_KC

        return slope_NK.T @ self.inputs / count + self.penalty * weight_KC, hessian


def _minimize(objective: _Objective, weight_KC: Tensor, tolerance: float) -> Tensor:
    """Newton's method, its steps by conjugate gradients, with a backtracking line search (Nocedal
    and Wright, Numerical Optimization, algorithm 7.1).
    """
    value = objective.value(weight_KC)
    for _ in range(MAX_ITERATIONS):
        gradient_KC, hessian = objective.derivatives(weight_KC)
        if float(gradient_KC.abs().max()) <= tolerance:
            break
        step_KC = _newton_step(gradient_KC, hessian)
        slope, length = float((gradient_KC * step_KC).sum()), 1.0
        while (
            new := objective.value(weight_KC + length * step_KC)
        ) > value + 1e-4 * length * slope:
            length /= 2
            if length < SHORTEST_STEP:
                return weight_KC  # as exact as double precision allows
        weight_KC, value = weight_KC + length * step_KC, new
    return weight_KC


def _newton_step(gradient_KC: Tensor, hessian: Callable[[Tensor], Tensor]) -> Tensor:
    """A direction that solves `hessian(step) = -gradient` the more exactly, the smaller it is."""
    norm = float(gradient_KC.norm())
    enough = min(0.5, norm**0.5) * norm
    step_KC = gradient_KC.new_zeros(gradient_KC.shape)
    rest_KC = -gradient_KC
    direction_KC, squared = rest_KC, float(rest_KC.square().sum())
    for _ in range(MAX_ITERATIONS):
        bent_KC = hessian(direction_KC)
        curvature = float((direction_KC * bent_KC).sum())
        if curvature <= 0:  # rounding; the loss is convex
            break
        length = squared / curvature
        step_KC = step_KC + length * direction_KC
        rest_KC = rest_KC - length * bent_KC
        before, squared = squared, float(rest_KC.square().sum())
        if squared**0.5 <= enough:
            break
        direction_KC = rest_KC + squared / before * direction_KC
    return step_KC if bool(step_KC.any()) else -gradient_KC
