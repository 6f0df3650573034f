"""Whether a training has learned anything: said plainly, with the likely cause and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.data.samples import labels_by_head
from vtcli.evaluation.chance import chance_level, not_above_chance
from vtcli.training.choose import SMALL

if TYPE_CHECKING:
    from vtcli.training.plan import TrainPlan


def training_warnings(plan: TrainPlan, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the result of a training, a sentence each; empty where nothing is.

    `history` are the rows of history.csv. A classifier that gives every class the same probability
    has a loss of ln K, summed over the heads, whatever the targets are.
    """
    if not history:
        return []
    sizes = list(plan.heads.values())
    uniform = sum(math.log(size) for size in sizes)
    lowest = min(row["train_loss"] for row in history)
    if max(sizes) > 1 and lowest >= uniform:
        return [
            f"the training loss never fell below {uniform:.2f}, that of guessing among "
            f"{' x '.join(map(str, sizes))} classes (lowest {lowest:.2f}): {_remedy(plan)}"
        ]
    best = max(history, key=lambda row: row["val_top1"])
    sentence = not_above_chance(best["val_top1"], _chance(plan))
    if not sentence:
        return []
    if best["train_top1"] > best["val_top1"] + 0.2:
        cause = "it memorized the training videos; add videos, or start from a larger model with -m"
    else:
        cause = _remedy(plan)
    return [f"{sentence}; {cause}"]


def _remedy(plan: TrainPlan) -> str:
    if plan.fits_features:
        return "the backbone does not tell these classes apart; train it too, without --trainable"
    if plan.recipe_name != SMALL and not plan.warning():
        return f"too few steps or too low learning rates; try --recipe {SMALL}"
    return "too low a learning rate or wrong labels; try a higher --head-lr, check the labels"


def _chance(plan: TrainPlan) -> float:
    """Chance on the validation videos, the mean over the heads."""
    samples, sizes = plan.split.validation.samples, list(plan.heads.values())
    levels = []
    for head, size in enumerate(sizes):
        counts = [0] * size
        for sample in samples:
            for label in labels_by_head(sample, len(sizes))[head]:
                counts[label] += 1
        levels.append(chance_level(counts))
    return sum(levels) / len(levels)
