"""A linear classifier on fixed features: logistic regression whose L2 penalty is the one of
`PENALTIES` with the lowest cross-entropy in cross-validation over groups of videos.

Legend: N rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from vtcli.runtime.logistic import CROSS_ENTROPY, LinearFit, Loss, fit_logistic

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)
FOLDS = 5
ROUGH = 1e-4


def fit_classifier(
    features_ND: Tensor,
    target_NK: Tensor,
    groups: Sequence[Hashable],
    l2: float | None = None,
    loss: Loss = CROSS_ENTROPY,
) -> LinearFit:
    """The classifier of these rows, whose targets are probabilities.

    `groups` names the group of each row, such as its video: all rows of one are in the same fold.
    Without `l2` the penalty is chosen by cross-validation.
    """
    if l2 is None:
        l2 = choose_penalty(features_ND, target_NK, groups, loss)
    return fit_logistic(features_ND, target_NK, l2, loss=loss)


def choose_penalty(
    features_ND: Tensor, target_NK: Tensor, groups: Sequence[Hashable], loss: Loss = CROSS_ENTROPY
) -> float:
    """The penalty with the lowest cross-entropy on groups that were not fitted.

    A class that only the held-out groups have says nothing: its rows are not counted.
    """
    import torch

    label_N = target_NK.argmax(1)
    fold_N = torch.tensor(_folds(label_N.tolist(), groups))
    folds = []
    for fold in fold_N.unique().tolist():
        held_N = fold_N == fold
        counted_N = held_N & (target_NK[~held_N].sum(0) > 0)[label_N]
        if counted_N.any():
            folds.append((held_N, counted_N))
    if not folds:
        return PENALTIES[0]  # every class is one group, and none can be held out
    fits: list[LinearFit | None] = [None] * len(folds)
    losses: dict[float, float] = {}
    for l2 in PENALTIES:
        losses[l2] = 0.0
        for number, (held_N, counted_N) in enumerate(folds):
            rest = features_ND[~held_N], target_NK[~held_N]
            fit = fits[number] = fit_logistic(*rest, l2, fits[number], ROUGH, loss)
            logits_NK = fit.logits(features_ND[counted_N])
            losses[l2] += float(loss(logits_NK, target_NK[counted_N].double()).sum())
        best = min(losses, key=lambda penalty: losses[penalty])
        if PENALTIES.index(l2) >= PENALTIES.index(best) + 2:
            break  # weaker penalties overfit more
    return best


def _folds(labels: Sequence[int], groups: Sequence[Hashable]) -> list[int]:
    """The fold of each row: the groups of a class take turns."""
    fold_of: dict[Hashable, int] = {}
    turns: dict[int, int] = {}
    for label, group in zip(labels, groups, strict=True):
        if group not in fold_of:
            fold_of[group] = turns.get(label, 0) % FOLDS
            turns[label] = turns.get(label, 0) + 1
    return [fold_of[group] for group in groups]
