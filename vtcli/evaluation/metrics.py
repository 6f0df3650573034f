"""Metrics from scores and targets: accuracies with intervals, per-class results, confusion.

Scores are float64 [N, K] for the N samples that were read, higher is better. Ties rank by class
index, lower first, everywhere. The target of a sample is one class index, or several of which any
is correct; in the confusion matrix such a sample counts in the row of the predicted class if that
is one of them, else in the row of the first.

Shape legend: N samples, K classes, V verbs, M nouns, L labels of a sample, C classes with samples,
R bootstrap resamples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vtcli.errors import DataError
from vtcli.evaluation.results import (
    Accuracy,
    Estimate,
    HeadResult,
    MeanStd,
    PerClassResult,
    SplitMean,
)

Target = int | Sequence[int]

Z95 = statistics.NormalDist().inv_cdf(0.975)
BOOTSTRAP_RESAMPLES = 2000
BOOTSTRAP_SEED = 0
# Verb-noun pairs are formed for this many samples at a time: 64 x 29,100 x 8 bytes = 15 MB.
PAIR_CHUNK = 64


class WrongPrediction(NamedTuple):
    """A row of the scores and the class that was wrongly predicted for it."""

    row: int
    predicted: int


def head_metrics(
    name: str,
    classes: Sequence[str],
    scores_NK: np.ndarray,
    target: Sequence[Target],
    expected: int,
) -> HeadResult:
    """All metrics of one classifier over the N samples that were read, of `expected` in total.

    Raises `DataError` for a sample without a label, a label outside the classes, and NaN scores.
    """
    target_NL = _validate_targets(scores_NK, target)
    ranks_N = _ranks(scores_NK, target_NL)
    confusion_KK = _confusion(scores_NK, target_NL)
    return HeadResult(
        **vars(_accuracy(name, ranks_N, expected)),
        classes=tuple(classes),
        mean_class=_mean_class(confusion_KK),
        per_class=tuple(_per_class(classes, confusion_KK)),
        confusion=confusion_KK,
        macro_f1=_macro_f1(confusion_KK),
    )


def action_metrics(
    verb_NV: np.ndarray,
    noun_NM: np.ndarray,
    target: Sequence[tuple[Target, Target]],
    expected: int,
) -> Accuracy:
    """EPIC-Kitchens actions from the probabilities of verbs and nouns; a target is (verb, noun).

    Every verb-noun pair is ranked by the product of the two probabilities (ViViT, section 4.1). The
    best pair is the best verb with the best noun, so top-1 is the fraction of samples with both
    correct. The index of a pair is noun · V + verb. Raises `DataError` as `head_metrics` does.
    """
    verbs = verb_NV.shape[1]
    verb_NL = _validate_targets(verb_NV, [verb for verb, _ in target])
    noun_NL = _validate_targets(noun_NM, [noun for _, noun in target])
    pair_NLL = noun_NL[:, :, None] * verbs + verb_NL[:, None, :]
    pair_NL = pair_NLL.reshape(len(target), noun_NL.shape[1] * verb_NL.shape[1])
    ranks = [np.zeros(0, np.int64)]
    for start in range(0, len(target), PAIR_CHUNK):
        part = slice(start, start + PAIR_CHUNK)
        product_NMV = noun_NM[part, :, None] * verb_NV[part, None, :]
        ranks.append(_ranks(product_NMV.reshape(len(product_NMV), -1), pair_NL[part]))
    return _accuracy("action", np.concatenate(ranks), expected)


def is_correct(scores_NK: np.ndarray, target: Sequence[Target]) -> np.ndarray:
    """Whether the top-1 class of each sample is correct: bool [N].

    Raises `DataError` as `head_metrics` does.
    """
    return _ranks(scores_NK, _validate_targets(scores_NK, target)) == 0


def worst_misclassifications(
    probabilities_NK: np.ndarray, target: Sequence[Target], count: int
) -> list[WrongPrediction]:
    """The `count` wrong predictions with the highest probability, highest first.

    Raises `DataError` as `head_metrics` does.
    """
    wrong_N = np.flatnonzero(~is_correct(probabilities_NK, target))
    predicted_N = probabilities_NK[wrong_N].argmax(1)
    order = np.argsort(-probabilities_NK[wrong_N, predicted_N], kind="stable")[:count]
    return [WrongPrediction(int(wrong_N[i]), int(predicted_N[i])) for i in order]


def mean_over_splits(results: Sequence[tuple[str, Accuracy]]) -> SplitMean:
    """Mean and standard deviation of top-1 over the splits of a dataset, each (name, result).

    Raises `DataError` if no sample of a split could be read.
    """
    read, over_all = [], []
    for name, result in results:
        if result.top1_read is None or result.top1_all is None:
            raise DataError(
                f"no sample of split {name} could be read, so there is no mean over the splits; "
                "see its failures.csv"
            )
        read.append(result.top1_read.value)
        over_all.append(result.top1_all.value)
    return SplitMean(tuple(name for name, _ in results), _mean_std(read), _mean_std(over_all))


def _mean_std(values: Sequence[float]) -> MeanStd:
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(tuple(values), statistics.fmean(values), std)


def wilson_interval(correct: float, n: int) -> Estimate | None:
    """The fraction correct / n with Wilson's 95 % score interval (E. B. Wilson, 1927).

    None for n = 0.
    """
    if n == 0:
        return None
    p, z2 = correct / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push a bound past the fraction itself, or out of 0..1.
    return Estimate(p, max(0.0, min(p, center - half)), min(1.0, max(p, center + half)))


def refuse_nan(scores_NK: np.ndarray) -> None:
    """Raise `DataError` where a score is NaN."""
    if np.isnan(scores_NK).any():
        raise DataError("a score is NaN; check the weights, or run again with --precision fp32")


def _validate_targets(scores_NK: np.ndarray, target: Sequence[Target]) -> np.ndarray:
    """The labels as int [N, L]; a sample with fewer than L labels repeats its first."""
    refuse_nan(scores_NK)
    rows = [(t,) if isinstance(t, int | np.integer) else tuple(t) for t in target]
    if not all(rows):
        raise DataError("a sample has no label; evaluate a labeled split")
    width = max((len(row) for row in rows), default=1)
    target_NL = np.array([row + row[:1] * (width - len(row)) for row in rows], np.int64)
    target_NL = target_NL.reshape(len(rows), width)
    outside = target_NL[(target_NL < 0) | (target_NL >= scores_NK.shape[1])]
    if len(outside):
        raise DataError(
            f"label {outside[0]} is outside the model's {scores_NK.shape[1]} classes (0 to "
            f"{scores_NK.shape[1] - 1}); check that the annotation belongs to the model's dataset"
        )
    return target_NL


def _ranks(scores_NK: np.ndarray, target_NL: np.ndarray) -> np.ndarray:
    """Rank of the best target of each sample: int [N], 0 is top-1."""
    index_K = np.arange(scores_NK.shape[1])
    ranks_LN = []
    for label_N in target_NL.T:
        score_N1 = np.take_along_axis(scores_NK, label_N[:, None], 1)
        before_NK = scores_NK == score_N1
        before_NK &= index_K < label_N[:, None]
        before_NK |= scores_NK > score_N1
        ranks_LN.append(before_NK.sum(1))
    return np.minimum.reduce(ranks_LN)


def _accuracy(name: str, ranks_N: np.ndarray, expected: int) -> Accuracy:
    top1, top5, n = int((ranks_N < 1).sum()), int((ranks_N < 5).sum()), len(ranks_N)
    return Accuracy(
        name=name,
        n_read=n,
        n_expected=expected,
        top1_read=wilson_interval(top1, n),
        top1_all=wilson_interval(top1, expected),
        top5_read=wilson_interval(top5, n),
        top5_all=wilson_interval(top5, expected),
    )


def _confusion(scores_NK: np.ndarray, target_NL: np.ndarray) -> np.ndarray:
    """Counts, int [K, K]; the trace is the number of correct predictions."""
    classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(1)
    correct_N = (target_NL == predicted_N[:, None]).any(1)
    row_N = np.where(correct_N, predicted_N, target_NL[:, 0])
    counts = np.bincount(row_N * classes + predicted_N, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _per_class(classes: Sequence[str], confusion_KK: np.ndarray) -> Iterator[PerClassResult]:
    for index, (name, counts_K) in enumerate(zip(classes, confusion_KK, strict=True)):
        wrong_K = counts_K.copy()
        wrong_K[index] = 0
        other = int(wrong_K.argmax())
        confused = int(wrong_K[other])
        yield PerClassResult(
            index=index,
            name=name,
            n=int(counts_K.sum()),
            correct=int(counts_K[index]),
            confused_with=other if confused else None,
            confused=confused,
        )


def _macro_f1(confusion_KK: np.ndarray) -> float | None:
    """The unweighted mean F1 of the classes that have samples or predictions, in 0..1."""
    samples_plus_predicted_K = confusion_KK.sum(1) + confusion_KK.sum(0)
    used_K = samples_plus_predicted_K > 0
    if not used_K.any():
        return None
    f1_K = 2 * confusion_KK.diagonal()[used_K] / samples_plus_predicted_K[used_K]
    return float(f1_K.mean())


def _mean_class(confusion_KK: np.ndarray) -> Estimate | None:
    """The unweighted mean of the accuracies of all classes that have samples.

    The interval is a bootstrap within classes: each class is resampled with replacement 2,000
    times, with a fixed seed; the bounds are the 2.5th and 97.5th percentiles of the mean. If every
    class is entirely correct or entirely wrong, all resamples are equal, and Wilson's interval over
    all samples is used instead.
    """
    n_C = confusion_KK.sum(1)
    correct_C = confusion_KK.diagonal()[n_C > 0]
    n_C = n_C[n_C > 0]
    if not len(n_C):
        return None
    accuracy_C = correct_C / n_C
    mean = float(accuracy_C.mean())
    if np.isin(accuracy_C, (0, 1)).all():
        return wilson_interval(mean * int(n_C.sum()), int(n_C.sum()))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    resampled_RC = rng.binomial(n_C, accuracy_C, (BOOTSTRAP_RESAMPLES, len(n_C)))
    low, high = np.percentile((resampled_RC / n_C).mean(1), (2.5, 97.5))
    return Estimate(mean, float(low), float(high))
