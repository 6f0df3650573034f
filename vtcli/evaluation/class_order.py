"""Detects from a confusion matrix that the classes of model and annotation are permuted.

A wrong class order makes every label wrong without any other symptom than a low accuracy.

Shape legend: K classes, C classes with at least `MIN_SAMPLES` samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtcli.evaluation.results import ClassOrderWarning
from vtcli.runtime.words import percent

# Thresholds of `detect_class_permutation`, explained there.
MIN_SAMPLES = 4
MIN_ABOVE_CHANCE = 0.25
MIN_GAIN = 2.0
MIN_DISTINCT = 0.9
MIN_DEVIATIONS = 5.0
SPLIT_SEED = 0


class _Accuracies(NamedTuple):
    """Mean class accuracies on held-out samples, under mappings found on the other samples.

    one_to_one: each class has a distinct prediction; free: several classes may share one; chance:
    one-to-one if predictions were independent of the targets, and deviation the standard deviation
    of that.
    """

    one_to_one: float
    free: float
    chance: float
    deviation: float


def detect_class_permutation(confusion_KK: np.ndarray) -> ClassOrderWarning | None:
    """Whether predictions match the targets only after the classes are permuted.

    That is the symptom of weights or annotations with another class order; mirrored or reversed
    videos of directional classes have it too. Only classes with at least four samples are used.
    Their samples are split in halves; a permutation is found on one half and evaluated on the
    other, and vice versa, so that it cannot fit noise. All accuracies are means over these classes,
    so that a model with constant predictions gains nothing from frequent classes. A permutation is
    reported if the permuted accuracy is

    - at least 25 points above chance and twice the measured accuracy: with the classes in order
      the two would be equal, and an untrained network does not reach this;
    - five standard deviations above what the same predictions would give if they were independent
      of the targets: few samples are not enough evidence;
    - at least nine tenths of the accuracy when several classes may share a prediction: if
      predictions depend on the input in a fixed but arbitrary way, as those of a new classifier do,
      about a third of the classes share theirs.

    This also detects that only some classes moved, for example when one extra name shifts all that
    follow. Returns None if there is no such permutation.
    """
    classes_C = np.flatnonzero(confusion_KK.sum(1) >= MIN_SAMPLES)
    if len(classes_C) < 2:
        return None
    counts_CK = confusion_KK[classes_C]
    halves = _halves(counts_CK)
    folds = [_cross_validate(fit, held_out) for fit, held_out in (halves, halves[::-1])]
    permuted = _Accuracies(*np.mean(folds, 0))
    n_C = counts_CK.sum(1)
    accuracy = (counts_CK[np.arange(len(classes_C)), classes_C] / n_C).mean()
    if (
        permuted.one_to_one < MIN_ABOVE_CHANCE + 1 / len(classes_C)
        or permuted.one_to_one < MIN_GAIN * accuracy
        or permuted.one_to_one < permuted.chance + MIN_DEVIATIONS * permuted.deviation
        or permuted.one_to_one < MIN_DISTINCT * permuted.free
    ):
        return None
    partners_C = _one_to_one(counts_CK)
    mapping = {int(t): int(p) for t, p in zip(classes_C, partners_C, strict=True) if p >= 0}
    return ClassOrderWarning(float(accuracy), float(permuted.one_to_one), len(classes_C), mapping)


def warning_message(found: ClassOrderWarning, classes: Sequence[str]) -> str:
    """The warning as a sentence, with the first class that moved as an example."""
    target, predicted = next(pair for pair in found.mapping.items() if pair[0] != pair[1])
    return (
        "this looks like a permuted class order, or like mirrored or reversed videos: mean class "
        f"accuracy is {percent(found.accuracy)} %, but {percent(found.permuted_accuracy)} % after "
        f"a one-to-one permutation of the classes ({found.unchanged} of {found.classes} stay in "
        f"place; '{classes[target]}' is predicted as '{classes[predicted]}'); check the class "
        "order of the weights against that of the annotation"
    )


def _halves(counts_CK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split the samples of each class randomly into two halves, each an array like `counts_CK`."""
    cells = np.repeat(np.arange(counts_CK.size), counts_CK.ravel())
    noise = np.random.default_rng(SPLIT_SEED).random(len(cells))
    cells = cells[np.lexsort((noise, cells // counts_CK.shape[1]))]
    first, second = (
        np.bincount(half, minlength=counts_CK.size).reshape(counts_CK.shape)
        for half in (cells[::2], cells[1::2])
    )
    return first, second


def _cross_validate(fit_CK: np.ndarray, held_out_CK: np.ndarray) -> _Accuracies:
    rows_C, n_C = np.arange(len(fit_CK)), held_out_CK.sum(1)
    partners_C = _one_to_one(fit_CK)
    found_C = partners_C >= 0
    one_to_one_C = np.where(found_C, held_out_CK[rows_C, partners_C], 0) / n_C
    free_C = held_out_CK[rows_C, fit_CK.argmax(1)] / n_C
    frequency_K = held_out_CK.sum(0) / held_out_CK.sum()
    chance_C = np.where(found_C, frequency_K[partners_C], 0)
    deviation = math.sqrt((chance_C * (1 - chance_C) / n_C).sum()) / len(n_C)
    return _Accuracies(
        float(one_to_one_C.mean()), float(free_C.mean()), float(chance_C.mean()), deviation
    )


def _one_to_one(counts_CK: np.ndarray) -> np.ndarray:
    """A distinct prediction for each class, int [C]; -1 if none is left.

    Greedy: the largest fraction of a class first. On a matrix that is nearly a permutation this is
    the best assignment; elsewhere it can only underestimate.
    """
    fraction_CK = counts_CK / counts_CK.sum(1, keepdims=True)
    cells = np.flatnonzero(counts_CK)
    cells = cells[np.argsort(-fraction_CK.ravel()[cells], kind="stable")]
    partners_C = np.full(len(counts_CK), -1)
    taken_K = np.zeros(counts_CK.shape[1], bool)
    for row, column in zip(*np.unravel_index(cells, counts_CK.shape), strict=True):
        if partners_C[row] < 0 and not taken_K[column]:
            partners_C[row] = column
            taken_K[column] = True
    return partners_C
