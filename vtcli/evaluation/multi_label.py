"""Metrics of a classifier whose classes do not exclude each other: average precision and F1.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScore:
    """Average precision and F1 of one class with `n` samples, in 0..1; `ap` is None without any."""

    name: str
    n: int
    ap: float | None
    f1: float


@dataclass(frozen=True)
class MultiLabelResult:
    """`mean_ap` averages over the classes with samples, `macro_f1` over those with samples or
    predictions, `micro_f1` is over all decisions together. A class is predicted where its
    probability is at least `threshold`.
    """

    mean_ap: float | None
    macro_f1: float | None
    micro_f1: float
    threshold: float
    per_class: tuple[ClassScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def multi_hot(target: Sequence[Sequence[int]], classes: int) -> NDArray[np.bool_]:
    """Which classes each sample has: bool [N,K]."""
    present_NK = np.zeros((len(target), classes), bool)
    for row, labels in enumerate(target):
        present_NK[row, list(labels)] = True
    return present_NK


def multi_label_metrics(
    classes: Sequence[str],
    probabilities_NK: Floats,
    target: Sequence[Sequence[int]],
    threshold: float,
) -> MultiLabelResult:
    """All metrics of the samples that were read."""
    present_NK = multi_hot(target, len(classes))
    predicted_NK = probabilities_NK >= threshold
    rows = []
    for k, name in enumerate(classes):
        present_N, predicted_N = present_NK[:, k], predicted_NK[:, k]
        ap = average_precision(present_N, probabilities_NK[:, k])
        rows.append(ClassScore(name, int(present_N.sum()), ap, _f1(present_N, predicted_N)))
    used = [row.f1 for k, row in enumerate(rows) if row.n or predicted_NK[:, k].any()]
    found = [row.ap for row in rows if row.ap is not None]
    return MultiLabelResult(
        mean_ap=float(np.mean(found)) if found else None,
        macro_f1=float(np.mean(used)) if used else None,
        micro_f1=_f1(present_NK, predicted_NK),
        threshold=threshold,
        per_class=tuple(rows),
    )


def mean_ap_interval(
    probabilities_NK: Floats, target: Sequence[Sequence[int]], resamples: int = 500
) -> tuple[float, float]:
    """The 95 % interval of the mean average precision: bootstrap percentiles over the samples."""
    present_NK = multi_hot(target, probabilities_NK.shape[1])
    rng, n, found = np.random.default_rng(0), len(target), []
    for _ in range(resamples):
        drawn = rng.integers(n, size=n)
        by_class = zip(present_NK[drawn].T, probabilities_NK[drawn].T, strict=True)
        values = [ap for pair in by_class if (ap := average_precision(*pair)) is not None]
        found.append(np.mean(values))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def average_precision(present_N: NDArray[np.bool_], score_N: Floats) -> float | None:
    """The sum over the thresholds of precision times the gain of recall; None without a positive.

    Samples of equal scores are taken together, as in scikit-learn.
    """
    positives = int(present_N.sum())
    if not positives:
        return None
    order = np.argsort(-score_N, kind="stable")
    hits_N = np.cumsum(present_N[order])
    last_of_ties = np.flatnonzero(np.append(np.diff(score_N[order]) != 0, True))
    precision = hits_N[last_of_ties] / (last_of_ties + 1)
    gain = np.diff(hits_N[last_of_ties], prepend=0) / positives
    return float((precision * gain).sum())


def best_threshold(probabilities_NK: Floats, target: Sequence[Sequence[int]]) -> float:
    """The threshold, one for all classes, with the highest micro F1 on these samples."""
    present_NK = multi_hot(target, probabilities_NK.shape[1])
    score_M = probabilities_NK.ravel()
    order = np.argsort(-score_M, kind="stable")
    hits_M = np.cumsum(present_NK.ravel()[order])
    last_of_ties = np.flatnonzero(np.append(np.diff(score_M[order]) != 0, True))
    f1 = 2 * hits_M[last_of_ties] / (last_of_ties + 1 + max(1, int(present_NK.sum())))
    best = last_of_ties[int(f1.argmax())]
    if best + 1 == len(order):
        return float(score_M[order[best]])
    # In the middle between two scores, so that neither depends on rounding.
    return float((score_M[order[best]] + score_M[order[best + 1]]) / 2)


def _f1(present: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    total = int(present.sum()) + int(predicted.sum())
    return 2 * int((present & predicted).sum()) / total if total else 0.0
