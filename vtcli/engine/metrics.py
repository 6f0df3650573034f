"""From scores and truth to figures: accuracies with intervals, per-class tables, confusion.

Scores are float64 [N, K] for the N samples that were read, higher is better; two equal scores rank
by index, the lower first, everywhere. The truth of a sample is one class index, or several of
which any is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtcli.report.evaluation import (
    Accuracy,
    Figure,
    HeadResult,
    PermutationSuspicion,
    SplitMean,
)

Truth = int | Sequence[int]


def head_metrics(
    name: str, classes: Sequence[str], scores_NK: np.ndarray, truth: Sequence[Truth], expected: int
) -> HeadResult:
    """All figures of one classifier over N read samples of `expected`."""
    raise NotImplementedError


def action_metrics(
    verb_NV: np.ndarray,
    noun_NM: np.ndarray,
    truth: Sequence[tuple[Truth, Truth]],
    expected: int,
) -> Accuracy:
    """EPIC-Kitchens' actions from probabilities of verbs and nouns; truth is (verb, noun)."""
    raise NotImplementedError


def right_answers(scores_NK: np.ndarray, truth: Sequence[Truth]) -> np.ndarray:
    """Whether the best class of each sample is right: bool [N]."""
    raise NotImplementedError


def worst_mistakes(
    probabilities_NK: np.ndarray, truth: Sequence[Truth], count: int
) -> list[tuple[int, int]]:
    """The (row, predicted class) of the wrong answers with the highest probability, worst first."""
    raise NotImplementedError


def mean_over_splits(results: Sequence[tuple[str, Accuracy]]) -> SplitMean:
    """Mean and standard deviation of top-1 over the splits of a dataset, each (name, result)."""
    raise NotImplementedError


def wilson(right: int, n: int) -> Figure | None:
    """A share with Wilson's 95 % score interval; None for n = 0."""
    raise NotImplementedError


def suspect_permutation(confusion_KK: np.ndarray) -> PermutationSuspicion | None:
    """Whether the predictions only fit once classes are renamed one to one."""
    raise NotImplementedError
