"""Metrics are compared with their formulas, evaluated by hand or by a slower implementation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from vtcli.errors import DataError
from vtcli.evaluation.class_order import detect_class_permutation, warning_message
from vtcli.evaluation.metrics import (
    action_metrics,
    head_metrics,
    is_correct,
    mean_over_splits,
    wilson_interval,
    worst_misclassifications,
)
from vtcli.evaluation.results import Estimate

NAMES = tuple("abcdefgh")


def one_hot(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]


def counts(target: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, -1)


# --- accuracies ---------------------------------------------------------------------------------


def test_wilsons_interval_solves_its_equation() -> None:
    # Its bounds are the fractions for which the observed one is exactly 1.96 standard errors away.
    for correct, n in ((0, 7), (7, 7), (3, 10), (19_000, 24_777)):
        estimate = wilson_interval(correct, n)
        assert estimate is not None
        assert estimate.value == correct / n
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        for bound in (estimate.low, estimate.high):
            if 0 < bound < 1:
                errors = abs(estimate.value - bound) / math.sqrt(bound * (1 - bound) / n)
                assert errors == pytest.approx(1.959964, abs=1e-5)
    assert wilson_interval(0, 0) is None


def test_top_1_and_top_5_over_all_samples_count_failed_ones_as_wrong() -> None:
    scores = np.array([[8, 7, 6, 5, 4, 3, 2, 1.0]] * 4)
    result = head_metrics("action", NAMES, scores, [0, 4, 5, 0], expected=10)
    assert (result.n_read, result.n_expected) == (4, 10)
    assert result.top1_read == wilson_interval(2, 4)
    assert result.top1_all == wilson_interval(2, 10)
    assert result.top5_read == wilson_interval(3, 4)
    assert result.top5_all == wilson_interval(3, 10)


def test_ties_rank_by_class_index() -> None:
    flat = np.zeros((8, 8))
    result = head_metrics("action", NAMES, flat, list(range(8)), expected=8)
    assert result.top1_read == wilson_interval(1, 8)
    assert result.top5_read == wilson_interval(5, 8)
    assert result.confusion[:, 0].tolist() == [1] * 8
    tied = np.array([[0.1, 0.4, 0.4, 0.1]])
    assert is_correct(tied, [1]).tolist() == [True]
    assert is_correct(tied, [2]).tolist() == [False]


def test_with_fewer_than_five_classes_top_5_is_always_correct() -> None:
    result = head_metrics("action", "abc", one_hot([0, 0], 3), [1, 2], expected=2)
    assert result.top1_read == wilson_interval(0, 2)
    assert result.top5_read == wilson_interval(2, 2)


def test_any_of_several_labels_is_correct() -> None:
    scores = one_hot([2, 3, 1], 4)
    target = [(0, 2), (0, 2), 1]
    assert is_correct(scores, target).tolist() == [True, False, True]
    result = head_metrics("action", "abcd", scores, target, expected=3)
    # In the row of the prediction if it is correct, else in that of the first label.
    assert sorted(zip(*map(list, result.confusion.nonzero()), strict=True)) == [
        (0, 3),
        (1, 1),
        (2, 2),
    ]
    assert result.top1_read == wilson_interval(int(result.confusion.trace()), 3)


def test_per_class_results_name_the_most_confused_class() -> None:
    target = [0, 0, 0, 0, 1, 1, 3]
    predicted = [0, 2, 1, 2, 1, 1, 0]
    result = head_metrics("action", "abcd", one_hot(predicted, 4), target, expected=7)
    rows = [(r.n, r.correct, r.accuracy, r.confused_with, r.confused) for r in result.per_class]
    assert rows == [
        (4, 1, 0.25, 2, 2),
        (2, 2, 1.0, None, 0),
        (0, 0, None, None, 0),
        (1, 0, 0, 0, 1),
    ]
    assert [r.name for r in result.per_class] == list("abcd")
    assert result.confusion.tolist() == [[1, 1, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert result.mean_class is not None
    assert result.mean_class.value == pytest.approx((0.25 + 1 + 0) / 3)


def test_the_interval_of_the_mean_class_accuracy_is_that_of_independent_classes() -> None:
    # The variance of a mean of independent fractions is known; with many samples it is normal.
    rng = np.random.default_rng(3)
    n, accuracy = np.array([400, 900, 2500]), np.array([0.5, 0.8, 0.9])
    target = np.repeat(np.arange(3), n)
    predicted = np.where(np.arange(n.sum()) % 10 < 10 * accuracy[target], target, (target + 1) % 3)
    order = rng.permutation(len(target))
    result = head_metrics(
        "action", "abc", one_hot(predicted[order], 3), target[order].tolist(), len(target)
    )
    mean = result.mean_class
    assert mean is not None
    deviation = math.sqrt((accuracy * (1 - accuracy) / n).sum()) / 3
    assert mean.value == pytest.approx(accuracy.mean())
    assert mean.low == pytest.approx(mean.value - 1.96 * deviation, abs=0.1 * deviation)
    assert mean.high == pytest.approx(mean.value + 1.96 * deviation, abs=0.1 * deviation)


def test_a_mean_class_accuracy_that_cannot_vary_still_has_an_interval() -> None:
    result = head_metrics("action", "abc", one_hot([0, 0, 1], 3), [0, 0, 1], expected=3)
    assert result.mean_class == wilson_interval(3, 3)


def test_without_any_sample_read_there_is_no_accuracy_over_samples_read() -> None:
    result = head_metrics("action", NAMES, np.zeros((0, 8)), [], expected=3)
    assert result.top1_read is None
    assert result.mean_class is None
    assert result.top1_all == Estimate(0, 0, pytest.approx(3.8415 / (3 + 3.8415), abs=1e-4))


def test_a_missing_label_a_label_outside_the_classes_and_nan_are_errors() -> None:
    with pytest.raises(DataError, match="no label"):
        head_metrics("action", NAMES, np.zeros((2, 8)), [0, ()], expected=2)
    for label in (8, -1, (0, 8)):
        with pytest.raises(DataError, match="outside the model's 8 classes"):
            head_metrics("action", NAMES, np.zeros((1, 8)), [label], expected=1)
    with pytest.raises(DataError, match="NaN"):
        head_metrics("action", "ab", np.array([[0.0, np.nan]]), [0], expected=1)


def test_the_worst_misclassifications_are_the_most_confident_wrong_predictions() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.8, 0.2]])
    assert worst_misclassifications(probabilities, [0, 0, 1, 1], 5) == [(1, 1), (3, 0), (2, 0)]
    assert worst_misclassifications(probabilities, [0, 0, 1, 1], 1) == [(1, 1)]


# --- verbs and nouns ----------------------------------------------------------------------------


def test_an_action_is_correct_if_verb_and_noun_are() -> None:
    rng = np.random.default_rng(5)
    verb, noun = rng.dirichlet(np.ones(7), 150), rng.dirichlet(np.ones(9), 150)
    pairs = rng.integers([7, 9], size=(150, 2))
    pairs[:40] = np.stack([verb[:40].argmax(1), noun[:40].argmax(1)], 1)
    target = [(int(v), int(n)) for v, n in pairs]
    result = action_metrics(verb, noun, target, expected=200)
    both = is_correct(verb, [v for v, _ in target]) & is_correct(noun, [n for _, n in target])
    assert result.top1_read == wilson_interval(int(both.sum()), 150)
    assert result.top1_all == wilson_interval(int(both.sum()), 200)
    top5 = 0
    for v, n, pair in zip(verb, noun, target, strict=True):
        every = itertools.product(enumerate(v), enumerate(n))
        best = sorted(((-p * q, (i, j)) for (i, p), (j, q) in every))[:5]
        top5 += pair in [index for _, index in best]
    assert result.top5_read == wilson_interval(top5, 150)


def test_an_action_with_several_nouns_is_correct_with_any_of_them() -> None:
    verb, noun = one_hot([1, 1], 3), one_hot([2, 2], 4)
    result = action_metrics(verb, noun, [(1, (0, 2)), (1, (0, 3))], expected=2)
    assert result.top1_read == wilson_interval(1, 2)


def test_actions_without_any_sample_read() -> None:
    result = action_metrics(np.zeros((0, 3)), np.zeros((0, 4)), [], expected=2)
    assert (result.n_read, result.top1_read, result.top5_read) == (0, None, None)


# --- splits -------------------------------------------------------------------------------------


def test_splits_have_a_mean_and_a_standard_deviation() -> None:
    def split(correct: int) -> object:
        predicted = [0] * correct + [1] * (10 - correct)
        return head_metrics("action", "ab", one_hot(predicted, 2), [0] * 10, expected=20)

    found = mean_over_splits([(str(i), split(r)) for i, r in enumerate((7, 8, 9), 1)])
    assert found.names == ("1", "2", "3")
    assert found.read.mean == pytest.approx(0.8)
    assert found.read.std == pytest.approx(0.1)
    assert found.over_all.mean == pytest.approx(0.4)
    assert found.over_all.std == pytest.approx(0.05)
    assert mean_over_splits([("1", split(7))]).read.std is None


def test_a_split_without_any_sample_read_is_an_error() -> None:
    nothing = head_metrics("action", "ab", np.zeros((0, 2)), [], expected=4)
    with pytest.raises(DataError, match="split 2"):
        mean_over_splits([("2", nothing)])


# --- class order ------------------------------------------------------------------------------


def predictions(
    classes: int, each: int, accuracy: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions of a model with this accuracy and random errors."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(classes), each)
    other = (target + rng.integers(1, classes, len(target))) % classes
    return target, np.where(rng.random(len(target)) < accuracy, target, other)


@pytest.mark.parametrize(("classes", "each"), [(8, 20), (174, 10), (400, 5), (710, 5)])
def test_shuffled_classes_are_detected(classes: int, each: int) -> None:
    target, predicted = predictions(classes, each, accuracy=0.75, seed=classes)
    shuffle = np.roll(np.random.default_rng(0).permutation(classes), 1)
    found = detect_class_permutation(counts(target, shuffle[predicted], classes))
    assert found is not None
    assert found.classes == classes
    assert found.accuracy < 2 / classes
    assert found.permuted_accuracy == pytest.approx(0.75, abs=0.1)
    correct = sum(int(shuffle[t]) == p for t, p in found.mapping.items())
    assert correct > 0.95 * classes
    assert found.unchanged == pytest.approx((shuffle == np.arange(classes)).sum(), abs=2)
    assert len(set(found.mapping.values())) == len(found.mapping)


def test_the_warning_names_a_class_that_moved() -> None:
    target, predicted = predictions(8, 40, accuracy=1.0, seed=0)
    swapped = np.array([0, 2, 1, 4, 3, 6, 7, 5])
    found = detect_class_permutation(counts(target, swapped[predicted], 8))
    assert found is not None
    message = warning_message(found, NAMES)
    assert "'b' is predicted as 'c'" in message
    assert "1 of 8 stay in place" in message
    assert "12.5 %, but 100.0 %" in message


def test_classes_shifted_from_the_middle_on_are_detected() -> None:
    target, predicted = predictions(100, 20, accuracy=0.8, seed=1)
    shifted = np.where(predicted >= 30, (predicted - 30 + 1) % 70 + 30, predicted)
    found = detect_class_permutation(counts(target, shifted, 100))
    assert found is not None
    assert found.unchanged == 30


def test_a_subset_of_the_classes_is_enough() -> None:
    target, predicted = predictions(400, 20, accuracy=0.8, seed=2)
    shuffle = np.random.default_rng(1).permutation(400)
    some = target % 20 == 0
    found = detect_class_permutation(counts(target[some], shuffle[predicted[some]], 400))
    assert found is not None
    assert found.classes == 20


@pytest.mark.parametrize("classes", [2, 8, 174, 400])
@pytest.mark.parametrize("each", [1, 3, 5, 20])
def test_a_model_with_the_right_class_order_has_no_warning(classes: int, each: int) -> None:
    for seed, accuracy in enumerate((1 / classes, 0.1, 0.4, 0.8, 1.0)):
        target, predicted = predictions(classes, each, accuracy, seed)
        assert detect_class_permutation(counts(target, predicted, classes)) is None


@pytest.mark.parametrize("classes", [2, 3, 8, 174])
@pytest.mark.parametrize("concentration", [0.02, 0.3, 5.0])
def test_an_untrained_model_has_no_warning(classes: int, concentration: float) -> None:
    # Its predictions do not depend on the target, whether they are spread over the classes or
    # concentrated on a few, and whether or not the classes have the same size.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        target = np.repeat(np.arange(classes), rng.geometric(0.1, classes) + 3)
        frequency = rng.dirichlet(np.full(classes, concentration))
        predicted = rng.choice(classes, len(target), p=frequency)
        assert detect_class_permutation(counts(target, predicted, classes)) is None


def test_few_samples_are_not_enough_for_a_warning() -> None:
    shuffle = np.roll(np.arange(8), 1)
    for each in (1, 2, 3):
        target = np.repeat(np.arange(8), each)
        assert detect_class_permutation(counts(target, shuffle[target], 8)) is None
    assert detect_class_permutation(np.zeros((8, 8), int)) is None
    target = np.repeat(np.arange(2), 4)
    assert detect_class_permutation(counts(target, 1 - target, 2)) is None


def test_classes_that_share_a_prediction_are_not_a_permutation() -> None:
    target = np.repeat(np.arange(12), 40)
    assert detect_class_permutation(counts(target, (target // 2 + 6) % 12, 12)) is None
