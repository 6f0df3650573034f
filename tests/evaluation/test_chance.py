"""A result that is not better than guessing is called that, with the formula of guessing."""

from __future__ import annotations

import numpy as np

from vtcli.evaluation.chance import chance_level, chance_warnings, not_above_chance
from vtcli.evaluation.metrics import head_metrics


def test_chance_is_the_fraction_of_the_most_frequent_class() -> None:
    assert chance_level([6, 3, 1]) == 0.6
    assert chance_level([5, 0]) == 0.0  # one class cannot be mistaken for another
    assert not_above_chance(0.61, 0.6) == ""
    assert "60.0 % is not above chance" in not_above_chance(0.6, 0.6)


def test_an_evaluation_at_chance_says_so_and_one_above_does_not() -> None:
    target = [(0,), (0,), (1,), (1,)]
    always_first = np.tile([0.9, 0.1], (4, 1))
    right = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    at_chance, above = (
        head_metrics("action", ["a", "b"], scores, target, 4) for scores in (always_first, right)
    )
    (warning,) = chance_warnings([at_chance])
    assert "top-1 of 50.0 % is not above chance" in warning
    assert "vt finetune" in warning
    assert chance_warnings([above]) == []
