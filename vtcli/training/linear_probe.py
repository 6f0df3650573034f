"""A linear classifier on fixed features: multinomial logistic regression with an L2 penalty.

Minimizes the mean cross-entropy plus l2/2 times the sum of squared weights, on standardized
features, with L-BFGS in double precision. The penalty is the one of `PENALTIES` with the lowest
cross-entropy in cross-validation over videos.
Legend: N rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)
FOLDS = 5
MAX_ITERATIONS = 500
EXACT, ROUGH = 1e-6, 1e-4


@dataclass(frozen=True)
class LinearFit:
    """`weight` [K,D] and `bias` [K] for features as they are, and the penalty that was used."""

    weight: Tensor
    bias: Tensor
    l2: float

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits [N,K], in double precision."""
        return features_ND.double() @ self.weight.T + self.bias


def fit_classifier(
    features_ND: Tensor, target_NK: Tensor, videos: Sequence[int], l2: float | None = None
) -> LinearFit:
    """The classifier of these rows, whose targets are probabilities.

    `videos` numbers the video of each row: all rows of one are in the same fold. Without `l2` the
    penalty is chosen by cross-validation.
    """
    if l2 is None:
        l2 = choose_penalty(features_ND, target_NK, videos)
    return fit_logistic(features_ND, target_NK, l2)


def choose_penalty(features_ND: Tensor, target_NK: Tensor, videos: Sequence[int]) -> float:
    """The penalty with the lowest cross-entropy on videos that were not fitted."""
    import torch

    fold_N = torch.tensor(_folds(target_NK.argmax(1).tolist(), videos))
    folds = [fold_N == fold for fold in fold_N.unique().tolist()]
    if len(folds) == 1:
        return PENALTIES[0]  # every class has one video, and none can be held out
    fits: list[LinearFit | None] = [None] * len(folds)
    losses: dict[float, float] = {}
    for l2 in PENALTIES:
        losses[l2] = 0.0
        for number, held_N in enumerate(folds):
            rest = features_ND[~held_N], target_NK[~held_N]
            fit = fits[number] = fit_logistic(*rest, l2, fits[number], ROUGH)
            log_NK = fit.logits(features_ND[held_N]).log_softmax(1)
            losses[l2] -= float((target_NK[held_N].double() * log_NK).sum())
        best = min(losses, key=lambda penalty: losses[penalty])
        if PENALTIES.index(l2) >= PENALTIES.index(best) + 2:
            break  # weaker penalties overfit more
    return best


def _folds(labels: Sequence[int], videos: Sequence[int]) -> list[int]:
    """The fold of each row: the videos of a class take turns."""
    fold_of: dict[int, int] = {}
    turns: dict[int, int] = {}
    for label, video in zip(labels, videos, strict=True):
        if video not in fold_of:
            fold_of[video] = turns.get(label, 0) % FOLDS
            turns[label] = turns.get(label, 0) + 1
    return [fold_of[video] for video in videos]


def fit_logistic(
    features_ND: Tensor,
    target_NK: Tensor,
    l2: float,
    start: LinearFit | None = None,
    tolerance: float = EXACT,
) -> LinearFit:
    """The minimum for this penalty, where no partial derivative exceeds `tolerance`; `start` is the
    fit of a similar penalty.
    """
    import torch

    x_ND, y_NK = features_ND.double(), target_NK.double()
    mean_D = x_ND.mean(0)
    scale_D = x_ND.std(0, correction=0).clamp_min(1e-6)
    x_ND = (x_ND - mean_D) / scale_D
    weight_KD = torch.zeros(y_NK.shape[1], x_ND.shape[1], dtype=torch.float64)
    bias_K = torch.zeros(y_NK.shape[1], dtype=torch.float64)
    if start is not None:
        weight_KD.copy_(start.weight * scale_D)
        bias_K.copy_(start.bias + start.weight @ mean_D)
    parameters = [weight_KD.requires_grad_(), bias_K.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=tolerance**2,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_NK = (x_ND @ weight_KD.T + bias_K).log_softmax(1)
        value = -(y_NK * log_NK).sum(1).mean() + l2 / 2 * weight_KD.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found_KD = weight_KD.detach() / scale_D
    return LinearFit(found_KD, bias_K.detach() - found_KD @ mean_D, l2)
