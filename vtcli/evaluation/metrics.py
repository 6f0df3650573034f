"""From scores and target to figures: accuracies with intervals, per-class tables, confusion.

Scores are float64 [N, K] for the N samples that were read, higher is better; two equal scores rank
by index, the lower first, everywhere. The target of a sample is one class index, or several of
which any is right; it counts in the row of the one that was answered, else of the first.
N samples, K classes, V verbs, M nouns, L labels of a sample, C classes that are looked at.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

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
BOOTSTRAP_DRAWS = 2000
SEED = 0
# Pairs of verb and noun are formed for this many samples at a time: 64 x 29,100 x 8 bytes = 15 MB.
PAIR_CHUNK = 64


def head_metrics(
    name: str,
    classes: Sequence[str],
    scores_NK: np.ndarray,
    target: Sequence[Target],
    expected: int,
) -> HeadResult:
    """All figures of one classifier over N read samples of `expected`.

    Raises `DataError` for a sample without a label, a label outside the classes, and NaN.
    """
    target_NL = _validate_targets(scores_NK, target)
    ranks_N = _ranks(scores_NK, target_NL)
    confusion_KK = _confusion(scores_NK, target_NL)
    return HeadResult(
        **vars(_accuracy(name, ranks_N, expected)),
        classes=tuple(classes),
        mean_class=_mean_class(confusion_KK),
        per_class=tuple(_class_rows(classes, confusion_KK)),
        confusion=confusion_KK,
    )


def action_metrics(
    verb_NV: np.ndarray,
    noun_NM: np.ndarray,
    target: Sequence[tuple[Target, Target]],
    expected: int,
) -> Accuracy:
    """EPIC-Kitchens' actions from probabilities of verbs and nouns; target is (verb, noun).

    Every verb with every noun, ranked by the product of both (ViViT, section 4.1): the best pair is
    the best verb with the best noun, so top-1 is the share with both right. Pairs are numbered
    noun · V + verb. Raises `DataError` as `head_metrics` does.
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
    """Whether the best class of each sample is right: bool [N].

    Raises `DataError` as `head_metrics` does.
    """
    return _ranks(scores_NK, _validate_targets(scores_NK, target)) == 0


def worst_mistakes(
    probabilities_NK: np.ndarray, target: Sequence[Target], count: int
) -> list[tuple[int, int]]:
    """The (row, predicted class) of the wrong answers with the highest probability, worst first.

    Raises `DataError` as `head_metrics` does.
    """
    wrong_N = np.flatnonzero(~is_correct(probabilities_NK, target))
    predicted_N = probabilities_NK[wrong_N].argmax(1)
    order = np.argsort(-probabilities_NK[wrong_N, predicted_N], kind="stable")[:count]
    return [(int(wrong_N[i]), int(predicted_N[i])) for i in order]


def mean_over_splits(results: Sequence[tuple[str, Accuracy]]) -> SplitMean:
    """Mean and standard deviation of top-1 over the splits of a dataset, each (name, result).

    Raises `DataError` where nothing of a split was read.
    """
    read, over_all = [], []
    for name, result in results:
        if result.top1_read is None or result.top1_all is None:
            raise DataError(
                f"no sample of split {name} was read, so that there is no mean over the splits; "
                "see its failures"
            )
        read.append(result.top1_read.value)
        over_all.append(result.top1_all.value)
    return SplitMean(tuple(name for name, _ in results), _spread(read), _spread(over_all))


def _spread(values: Sequence[float]) -> MeanStd:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(tuple(values), statistics.fmean(values), deviation)


def wilson_interval(right: float, n: int) -> Estimate | None:
    """A share with Wilson's 95 % score interval (E. B. Wilson, 1927); None for n = 0."""
    if n == 0:
        return None
    share, z2 = right / n, Z95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push a bound past the share it holds, or out of 0..1.
    return Estimate(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def _validate_targets(scores_NK: np.ndarray, target: Sequence[Target]) -> np.ndarray:
    """The labels as int [N, L], a sample with fewer than L labels repeating its first."""
    if np.isnan(scores_NK).any():
        raise DataError("a score is NaN; the weights are damaged, or try --precision fp32")
    rows = [(t,) if isinstance(t, int | np.integer) else tuple(t) for t in target]
    if not all(rows):
        raise DataError("a sample has no label to be scored against; evaluate a labeled split")
    width = max((len(row) for row in rows), default=1)
    target_NL = np.array([row + row[:1] * (width - len(row)) for row in rows], np.int64)
    target_NL = target_NL.reshape(len(rows), width)
    outside = target_NL[(target_NL < 0) | (target_NL >= scores_NK.shape[1])]
    if len(outside):
        raise DataError(
            f"label {outside[0]} is outside the model's {scores_NK.shape[1]} classes (0 to "
            f"{scores_NK.shape[1] - 1}); check that the annotation and the model belong together"
        )
    return target_NL


def _ranks(scores_NK: np.ndarray, target_NL: np.ndarray) -> np.ndarray:
    """How many classes stand before the best of the right ones: int [N], 0 is top-1."""
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
    """Counts, int [K, K]; its trace is the number of right answers."""
    classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(1)
    right_N = (target_NL == predicted_N[:, None]).any(1)
    row_N = np.where(right_N, predicted_N, target_NL[:, 0])
    counts = np.bincount(row_N * classes + predicted_N, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _class_rows(classes: Sequence[str], confusion_KK: np.ndarray) -> Iterator[PerClassResult]:
    for index, (name, counts_K) in enumerate(zip(classes, confusion_KK, strict=True)):
        wrong_K = counts_K.copy()
        wrong_K[index] = 0
        most = int(wrong_K.argmax())
        times = int(wrong_K[most])
        confused = most if times else None
        yield PerClassResult(
            index, name, int(counts_K.sum()), int(counts_K[index]), confused, times
        )


def _mean_class(confusion_KK: np.ndarray) -> Estimate | None:
    """The mean of the accuracies of all classes that have samples, each class weighing the same.

    Interval: bootstrap within classes. Every class draws as many samples as it has from its own,
    with replacement, 2,000 times with a fixed seed; the 2.5th and 97.5th percentile of the mean.
    Where each class is entirely right or entirely wrong every draw is the same, and Wilson's
    interval over all samples is given instead.
    """
    n_C = confusion_KK.sum(1)
    right_C = confusion_KK.diagonal()[n_C > 0]
    n_C = n_C[n_C > 0]
    if not len(n_C):
        return None
    share_C = right_C / n_C
    mean = float(share_C.mean())
    if np.isin(share_C, (0, 1)).all():
        return wilson_interval(mean * int(n_C.sum()), int(n_C.sum()))
    draws = np.random.default_rng(SEED).binomial(n_C, share_C, (BOOTSTRAP_DRAWS, len(n_C)))
    low, high = np.percentile((draws / n_C).mean(1), (2.5, 97.5))
    return Estimate(mean, float(low), float(high))
