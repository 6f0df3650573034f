"""How far the probabilities of a classifier can be trusted, and how to make them trustworthy.

Metrics: NLL, Brier score, expected calibration error (Guo et al., 2017), AUROC of the confidence,
risk-coverage curve (Geifman & El-Yaniv, 2017). Fits: temperature (Guo et al.), abstention threshold
(Clopper-Pearson), split-conformal sets (Vovk et al., 2005; Sadinle et al., 2019).

The temperature acts on the log of the probabilities after the views are fused, for every fusion:
softmax(log p / T). For averaged logits that equals dividing the logits by T. Classes keep their
order, so that T changes no top-k accuracy.

The confidence of a sample is the probability of its top-1 class. If several labels of a sample are
correct, its label is the most probable of them.

Shape legend: N samples, K classes, B bins, P points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError
from vtcli.evaluation.metrics import refuse_nan
from vtcli.evaluation.results import Confidence, ReliabilityBin
from vtcli.inference.decision import Floats, apply_temperature, log_of

ECE_BINS = 15
CURVE_POINTS = 101
TEMPERATURES = (0.05, 20.0)
"""The temperature that is fitted stays within these bounds."""
ABSTENTION_COVERAGES = tuple(tenth / 10 for tenth in range(10, 0, -1))
"""The fractions of answered samples that a threshold is chosen from, the largest first."""
ABSTENTION_DELTA = 0.05
"""Probability, over calibration sets, that the promise of a threshold is broken."""


def confidence_metrics(probabilities_NK: Floats, target: Sequence[Sequence[int]]) -> Confidence:
    """All confidence metrics of N samples.

    target: the correct classes of each sample. Without samples every metric is None. Raises
    `DataError` for NaN probabilities.
    """
    label_N = most_probable_label(probabilities_NK, target)
    if not len(label_N):
        return Confidence(None, None, None, None, None, (), ())
    correct_N = probabilities_NK.argmax(1) == label_N
    confidence_N = probabilities_NK.max(1)
    bins = reliability_bins(confidence_N, correct_N)
    risk_N = selective_risk(confidence_N, correct_N)
    return Confidence(
        nll=negative_log_likelihood(probabilities_NK, label_N),
        brier=brier_score(probabilities_NK, label_N),
        ece=expected_calibration_error(bins),
        auroc=confidence_auroc(confidence_N, correct_N),
        aurc=float(risk_N.mean()),
        reliability=tuple(bins),
        risk_coverage=tuple(_curve(risk_N)),
    )


def most_probable_label(
    probabilities_NK: Floats, target: Sequence[Sequence[int]]
) -> NDArray[np.int64]:
    """The correct class of each sample, int [N]; of several the most probable, then the lowest.

    Raises `DataError` for NaN probabilities.
    """
    refuse_nan(probabilities_NK)
    pairs = zip(probabilities_NK, target, strict=True)
    return np.array([min(labels, key=lambda k: (-p_K[k], k)) for p_K, labels in pairs], np.int64)


def negative_log_likelihood(probabilities_NK: Floats, label_N: NDArray[np.int64]) -> float:
    """Mean of -ln p(label), in nats; a probability of 0 counts as the smallest float64."""
    return float(-log_of(np.take_along_axis(probabilities_NK, label_N[:, None], 1)).mean())


def brier_score(probabilities_NK: Floats, label_N: NDArray[np.int64]) -> float:
    """Mean over samples of the squared error summed over classes: 0..2 (Brier, 1950)."""
    one_hot_NK = np.arange(probabilities_NK.shape[1]) == label_N[:, None]
    return float(((probabilities_NK - one_hot_NK) ** 2).sum(1).mean())


def reliability_bins(
    confidence_N: Floats, correct_N: NDArray[np.bool_], bins: int = ECE_BINS
) -> list[ReliabilityBin]:
    """Equal-width bins of the confidence, each closed on the right; empty ones are included."""
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.clip(np.searchsorted(edges, confidence_N, side="left") - 1, 0, bins - 1)
    rows = []
    for index in range(bins):
        inside = bin_N == index
        n = int(inside.sum())
        confidence = float(confidence_N[inside].mean()) if n else None
        accuracy = float(correct_N[inside].mean()) if n else None
        low, high = float(edges[index]), float(edges[index + 1])
        rows.append(ReliabilityBin(low, high, n, confidence, accuracy))
    return rows


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean over samples of |accuracy - confidence| of the sample's bin, in 0..1."""
    filled = [b for b in bins if b.confidence is not None and b.accuracy is not None]
    total = sum(b.n for b in filled)
    return sum(b.n * abs((b.accuracy or 0.0) - (b.confidence or 0.0)) for b in filled) / total


def confidence_auroc(confidence_N: Floats, correct_N: NDArray[np.bool_]) -> float | None:
    """Probability that a correct prediction is more confident than a wrong one; ties count half.

    None if all predictions are correct or all are wrong.
    """
    right_R, wrong_W = np.sort(confidence_N[correct_N]), confidence_N[~correct_N]
    if not len(right_R) or not len(wrong_W):
        return None
    not_above_W = np.searchsorted(right_R, wrong_W, side="right")
    below_W = np.searchsorted(right_R, wrong_W, side="left")
    wins = len(right_R) - (not_above_W + below_W) / 2
    return float(wins.mean() / len(right_R))


def selective_risk(confidence_N: Floats, correct_N: NDArray[np.bool_]) -> Floats:
    """Error rate among the n most confident samples for n = 1..N: [N]; its mean is the AURC.

    Within equal confidences, errors are spread evenly, so that the order of samples is irrelevant.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[order]
    errors_N = np.cumsum(~correct_N[order])
    n_N = np.arange(1, len(sorted_N) + 1)
    is_last = np.append(sorted_N[1:] != sorted_N[:-1], True)
    answered, errors = np.append(0, n_N[is_last]), np.append(0, errors_N[is_last])
    return np.asarray(np.interp(n_N, answered, errors) / n_N)


def _curve(risk_N: Floats) -> list[tuple[float, float]]:
    """(coverage, risk) at no more than CURVE_POINTS coverages."""
    n = len(risk_N)
    count = min(n, CURVE_POINTS)
    index_P = np.unique(np.linspace(0, n - 1, count).round().astype(int))
    return [(float((index + 1) / n), float(risk_N[index])) for index in index_P]


def fit_temperature(probabilities_NK: Floats, label_N: NDArray[np.int64]) -> float:
    """The temperature with the lowest NLL, within TEMPERATURES.

    The NLL is convex in 1 / T; its derivative is bisected. Raises `DataError` without samples.
    """
    if not len(label_N):
        raise DataError("a temperature needs at least one labeled sample that could be read")
    log_NK = log_of(probabilities_NK)
    mean_label = np.take_along_axis(log_NK, label_N[:, None], 1).mean()
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(60):
        middle = (low + high) / 2
        p_NK = apply_temperature(probabilities_NK, math.exp(-middle))
        slope = (p_NK * log_NK).sum(1).mean() - mean_label
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def abstention_threshold(
    confidence_N: Floats,
    correct_N: NDArray[np.bool_],
    alpha: float,
    delta: float = ABSTENTION_DELTA,
) -> float | None:
    """The confidence that an answer must exceed so that at most `alpha` of the answers are wrong.

    With probability 1 - delta over calibration sets, the error rate among the answers to new
    samples of the same distribution is at most alpha. Of the thresholds at ABSTENTION_COVERAGES the
    one with most answers is returned whose one-sided Clopper-Pearson bound at level delta / 10 (for
    ten thresholds) is at most alpha. The threshold is the confidence of the first sample that is
    not answered: given it, errors above are binomial. Negative if every sample is answered; None
    if no threshold keeps the promise.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N, wrong_N = confidence_N[order], ~correct_N[order]
    n = len(sorted_N)
    for coverage in ABSTENTION_COVERAGES:
        wanted = math.floor(coverage * n + 1e-9)
        threshold = float(sorted_N[wanted]) if wanted < n else -1.0
        answered = int((sorted_N > threshold).sum())
        level = delta / len(ABSTENTION_COVERAGES)
        if answered and binomial_cdf(int(wrong_N[:answered].sum()), answered, alpha) <= level:
            return threshold
    return None


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """P(X <= successes) of a binomial variable; 0 < p < 1.

    It is at most `level` exactly if the one-sided Clopper-Pearson upper bound is at most p.
    """
    if successes >= n:
        return 1.0
    k = range(successes + 1)
    constant = math.lgamma(n + 1)
    logs = [
        constant
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in k
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def conformal_quantile(
    probabilities_NK: Floats, label_N: NDArray[np.int64], coverage: float
) -> float:
    """The largest 1 - p(class) that a class of a conformal set may have, in 0..1.

    The ceil((N + 1) coverage)-th smallest 1 - p(label) of the calibration set. 1, which admits
    every class, if N is too small for the coverage.
    """
    score_N = np.sort(1 - np.take_along_axis(probabilities_NK, label_N[:, None], 1)[:, 0])
    rank = math.ceil((len(score_N) + 1) * coverage - 1e-9)
    return float(score_N[rank - 1]) if rank <= len(score_N) else 1.0
