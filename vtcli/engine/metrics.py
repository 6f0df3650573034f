"""From scores and truth to figures: accuracies with intervals, per-class tables, confusion.

Scores are float64 [N, K] for the N samples that were read, higher is better; two equal scores rank
by index, the lower first, everywhere. The truth of a sample is one class index, or several of
which any is right; it counts in the row of the one that was answered, else of the first.
N samples, K classes, V verbs, M nouns, L labels of a sample, C classes that are looked at.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from vtcli.errors import DataError
from vtcli.report.evaluation import (
    Accuracy,
    ClassRow,
    Figure,
    HeadResult,
    PermutationSuspicion,
    SplitMean,
    Spread,
)

Truth = int | Sequence[int]

Z95 = statistics.NormalDist().inv_cdf(0.975)
BOOTSTRAP_DRAWS = 2000
SEED = 0
# Pairs of verb and noun are formed for this many samples at a time: 64 x 29,100 x 8 bytes = 15 MB.
PAIR_CHUNK = 64
# When predictions look like renamed classes; see `suspect_permutation`.
LEAST_SAMPLES = 4
LEAST_ABOVE_CHANCE = 0.25
LEAST_GAIN = 2.0
LEAST_DISTINCT = 0.9
LEAST_DEVIATIONS = 5.0


def head_metrics(
    name: str, classes: Sequence[str], scores_NK: np.ndarray, truth: Sequence[Truth], expected: int
) -> HeadResult:
    """All figures of one classifier over N read samples of `expected`.

    Raises `DataError` for a sample without a label, a label outside the classes, and NaN.
    """
    truth_NL = _checked(scores_NK, truth)
    ranks_N = _ranks(scores_NK, truth_NL)
    confusion_KK = _confusion(scores_NK, truth_NL)
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
    truth: Sequence[tuple[Truth, Truth]],
    expected: int,
) -> Accuracy:
    """EPIC-Kitchens' actions from probabilities of verbs and nouns; truth is (verb, noun).

    Every verb with every noun, ranked by the product of both (ViViT, section 4.1): the best pair is
    the best verb with the best noun, so top-1 is the share with both right. Pairs are numbered
    noun · V + verb. Raises `DataError` as `head_metrics` does.
    """
    verbs = verb_NV.shape[1]
    verb_NL = _checked(verb_NV, [verb for verb, _ in truth])
    noun_NL = _checked(noun_NM, [noun for _, noun in truth])
    pair_NLL = noun_NL[:, :, None] * verbs + verb_NL[:, None, :]
    pair_NL = pair_NLL.reshape(len(truth), noun_NL.shape[1] * verb_NL.shape[1])
    ranks = [np.zeros(0, np.int64)]
    for start in range(0, len(truth), PAIR_CHUNK):
        part = slice(start, start + PAIR_CHUNK)
        product_NMV = noun_NM[part, :, None] * verb_NV[part, None, :]
        ranks.append(_ranks(product_NMV.reshape(len(product_NMV), -1), pair_NL[part]))
    return _accuracy("action", np.concatenate(ranks), expected)


def right_answers(scores_NK: np.ndarray, truth: Sequence[Truth]) -> np.ndarray:
    """Whether the best class of each sample is right: bool [N].

    Raises `DataError` as `head_metrics` does.
    """
    return _ranks(scores_NK, _checked(scores_NK, truth)) == 0


def worst_mistakes(
    probabilities_NK: np.ndarray, truth: Sequence[Truth], count: int
) -> list[tuple[int, int]]:
    """The (row, predicted class) of the wrong answers with the highest probability, worst first.

    Raises `DataError` as `head_metrics` does.
    """
    wrong_N = np.flatnonzero(~right_answers(probabilities_NK, truth))
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


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(tuple(values), statistics.fmean(values), deviation)


def wilson(right: float, n: int) -> Figure | None:
    """A share with Wilson's 95 % score interval (E. B. Wilson, 1927); None for n = 0."""
    if n == 0:
        return None
    share, z2 = right / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push a bound past the share it holds, or out of 0..1.
    return Figure(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _checked(scores_NK: np.ndarray, truth: Sequence[Truth]) -> np.ndarray:
    """The labels as int [N, L], a sample with fewer than L labels repeating its first."""
    if np.isnan(scores_NK).any():
        raise DataError("a score is NaN; the weights are damaged, or try --precision fp32")
    rows = [(t,) if isinstance(t, int | np.integer) else tuple(t) for t in truth]
    if not all(rows):
        raise DataError("a sample has no label to be scored against; evaluate a labelled split")
    width = max((len(row) for row in rows), default=1)
    truth_NL = np.array([row + row[:1] * (width - len(row)) for row in rows], np.int64)
    truth_NL = truth_NL.reshape(len(rows), width)
    outside = truth_NL[(truth_NL < 0) | (truth_NL >= scores_NK.shape[1])]
    if len(outside):
        raise DataError(
            f"label {outside[0]} is outside the model's {scores_NK.shape[1]} classes (0 to "
            f"{scores_NK.shape[1] - 1}); check that the annotation and the model belong together"
        )
    return truth_NL


def _ranks(scores_NK: np.ndarray, truth_NL: np.ndarray) -> np.ndarray:
    """How many classes stand before the best of the right ones: int [N], 0 is top-1."""
    index_K = np.arange(scores_NK.shape[1])
    ranks_LN = []
    for label_N in truth_NL.T:
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
        top1_read=wilson(top1, n),
        top1_all=wilson(top1, expected),
        top5_read=wilson(top5, n),
        top5_all=wilson(top5, expected),
    )


def _confusion(scores_NK: np.ndarray, truth_NL: np.ndarray) -> np.ndarray:
    """Counts, int [K, K]; its trace is the number of right answers."""
    classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(1)
    right_N = (truth_NL == predicted_N[:, None]).any(1)
    row_N = np.where(right_N, predicted_N, truth_NL[:, 0])
    counts = np.bincount(row_N * classes + predicted_N, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _class_rows(classes: Sequence[str], confusion_KK: np.ndarray) -> Iterator[ClassRow]:
    for index, (name, counts_K) in enumerate(zip(classes, confusion_KK, strict=True)):
        wrong_K = counts_K.copy()
        wrong_K[index] = 0
        most = int(wrong_K.argmax())
        times = int(wrong_K[most])
        confused = most if times else None
        yield ClassRow(index, name, int(counts_K.sum()), int(counts_K[index]), confused, times)


def _mean_class(confusion_KK: np.ndarray) -> Figure | None:
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
        return wilson(mean * int(n_C.sum()), int(n_C.sum()))
    draws = np.random.default_rng(SEED).binomial(n_C, share_C, (BOOTSTRAP_DRAWS, len(n_C)))
    low, high = np.percentile((draws / n_C).mean(1), (2.5, 97.5))
    return Figure(mean, float(low), float(high))


def suspect_permutation(confusion_KK: np.ndarray) -> PermutationSuspicion | None:
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
      truth: few samples prove nothing;
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
    return PermutationSuspicion(float(plain), float(renamed), len(classes_C), mapping)


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

    Renamed one to one; renamed freely; one to one if answers were independent of the truth, and the
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
