"""TODO-HEAD"""

from __future__ import annotations

import math

import numpy as np

from vtcli.evaluation.metrics import SEED
from vtcli.evaluation.results import (
    ClassOrderWarning,
)

# When predictions look like renamed classes; see `detect_class_permutation`.
LEAST_SAMPLES = 4


LEAST_ABOVE_CHANCE = 0.25


LEAST_GAIN = 2.0


LEAST_DISTINCT = 0.9


LEAST_DEVIATIONS = 5.0


def detect_class_permutation(confusion_KK: np.ndarray) -> ClassOrderWarning | None:
    """Whether the predictions only fit once classes are renamed one to one.

    That is what weights or annotations with another class order look like; so do mirrored or
    reversed videos of classes that name a direction. Only classes with four samples or more are
    looked at. Their samples are halved, a renaming is found on one half and counted on the other,
    and the other way round, so that it cannot profit from noise. All accuracies below are means
    over these classes, so that a model that always gives the same answers gains nothing from
    frequent classes. It is suspected where the renamed accuracy is

    - 25 points above chance, and twice what it is without renaming: with classes in their places
      the two would be the same, and an untrained network does not get as far;
    - five standard deviations above what the same answers would give were they independent of the
      target: few samples prove nothing;
    - nine tenths of what is had when several classes may share an answer: where answers follow the
      input in some fixed but arbitrary way, as a new classifier's do, about a third of the classes
      share theirs.

    So it is also seen where only some classes moved, as when one more name shifts all that follow.
    """
    classes_C = np.flatnonzero(confusion_KK.sum(1) >= LEAST_SAMPLES)
    if len(classes_C) < 2:
        return None
    counts_CK = confusion_KK[classes_C]
    halves = _halves(counts_CK)
    trials = [_rename(fit, held) for fit, held in (halves, halves[::-1])]
    renamed, free, chance, deviation = np.mean(trials, 0)
    n_C = counts_CK.sum(1)
    plain = (counts_CK[np.arange(len(classes_C)), classes_C] / n_C).mean()
    if (
        renamed < LEAST_ABOVE_CHANCE + 1 / len(classes_C)
        or renamed < LEAST_GAIN * plain
        or renamed < chance + LEAST_DEVIATIONS * deviation
        or renamed < LEAST_DISTINCT * free
    ):
        return None
    partners_C = _one_to_one(counts_CK)
    mapping = {int(t): int(p) for t, p in zip(classes_C, partners_C, strict=True) if p >= 0}
    return ClassOrderWarning(float(plain), float(renamed), len(classes_C), mapping)


def _halves(counts_CK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples of each class dealt out at random in turn: two arrays like `counts_CK`."""
    cells = np.repeat(np.arange(counts_CK.size), counts_CK.ravel())
    noise = np.random.default_rng(SEED).random(len(cells))
    cells = cells[np.lexsort((noise, cells // counts_CK.shape[1]))]
    first, second = (
        np.bincount(half, minlength=counts_CK.size).reshape(counts_CK.shape)
        for half in (cells[::2], cells[1::2])
    )
    return first, second


def _rename(fit_CK: np.ndarray, held_CK: np.ndarray) -> tuple[float, float, float, float]:
    """Mean accuracies on the held-out half under what is found on the other.

    Renamed one to one; renamed freely; one to one if answers were independent of the target, and the
    standard deviation of that.
    """
    rows_C, n_C = np.arange(len(fit_CK)), held_CK.sum(1)
    partners_C = _one_to_one(fit_CK)
    found_C = partners_C >= 0
    renamed_C = np.where(found_C, held_CK[rows_C, partners_C], 0) / n_C
    free_C = held_CK[rows_C, fit_CK.argmax(1)] / n_C
    frequency_K = held_CK.sum(0) / held_CK.sum()
    chance_C = np.where(found_C, frequency_K[partners_C], 0)
    deviation = math.sqrt((chance_C * (1 - chance_C) / n_C).sum()) / len(n_C)
    return float(renamed_C.mean()), float(free_C.mean()), float(chance_C.mean()), deviation


def _one_to_one(counts_CK: np.ndarray) -> np.ndarray:
    """A distinct prediction for each class, int [C]; -1 where none is left.

    Greedy: the largest share of a class first. On a matrix that is nearly a permutation this is the
    best assignment, and elsewhere it can only find too little, never too much.
    """
    share_CK = counts_CK / counts_CK.sum(1, keepdims=True)
    cells = np.flatnonzero(counts_CK)
    cells = cells[np.argsort(-share_CK.ravel()[cells], kind="stable")]
    partners_C = np.full(len(counts_CK), -1)
    taken_K = np.zeros(counts_CK.shape[1], bool)
    for row, column in zip(*np.unravel_index(cells, counts_CK.shape), strict=True):
        if partners_C[row] < 0 and not taken_K[column]:
            partners_C[row] = column
            taken_K[column] = True
    return partners_C
