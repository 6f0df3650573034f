"""Whether an accuracy is better than what always predicting the most frequent class gives."""

from __future__ import annotations

from collections.abc import Sequence

from vtcli.evaluation.results import HeadResult
from vtcli.runtime.words import percent


def chance_level(counts: Sequence[int]) -> float:
    """The accuracy of always predicting the most frequent class, from the samples per class.

    0 where fewer than two classes have samples: there is nothing to tell apart.
    """
    return max(counts) / sum(counts) if sum(count > 0 for count in counts) > 1 else 0.0


def not_above_chance(top1: float, chance: float) -> str:
    """The sentence for an accuracy at or below chance, both fractions; "" for a better one."""
    if not chance or top1 > chance:
        return ""
    return (
        f"top-1 of {percent(top1)} % is not above chance: always predicting the most frequent "
        f"class gives {percent(chance)} %"
    )


def chance_warnings(heads: Sequence[HeadResult]) -> list[str]:
    """A warning for each head at or below chance, with the likely cause."""
    warnings = []
    for head in heads:
        chance = chance_level([row.n for row in head.per_class])
        top1 = head.top1_read.value if head.top1_read else 1.0
        if sentence := not_above_chance(top1, chance):
            of_head = f"{head.name}: " if len(heads) > 1 else ""
            warnings.append(
                f"{of_head}{sentence}; the model was likely trained on other kinds of videos "
                "(train it on yours with vt finetune), or its classes are in another order"
            )
    return warnings
