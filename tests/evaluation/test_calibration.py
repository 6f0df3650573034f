"""Confidence metrics against scikit-learn and definitions; the promises of the fits on new data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vtcli.errors import DataError
from vtcli.evaluation import calibration
from vtcli.evaluation.metrics import head_metrics
from vtcli.inference.decision import apply_temperature, conformal_sets

CLASSES = 8


def noisy(
    n: int, seed: int, sharpness: float = 1.0, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, K] and labels drawn from them; sharpness > 1 makes them overconfident.

    spread: standard deviation of the logits; with more, labels are easier to predict.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, CLASSES)) * spread
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (exact.cumsum(1) < rng.random((n, 1))).sum(1)
    stated = np.exp(sharpness * logits)
    return stated / stated.sum(1, keepdims=True), label


def confidence(probabilities: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(1), probabilities.argmax(1) == label


def test_metrics_equal_those_of_scikit_learn():
    probabilities, label = noisy(500, 0, 2.0)
    found = calibration.confidence_metrics(probabilities, label[:, None].tolist())
    conf, correct = confidence(probabilities, label)
    classes = range(CLASSES)
    assert found.nll == pytest.approx(
        sklearn_metrics.log_loss(label, probabilities, labels=classes), abs=1e-12
    )
    assert found.brier == pytest.approx(((probabilities - np.eye(8)[label]) ** 2).sum(1).mean())
    assert found.auroc == pytest.approx(sklearn_metrics.roc_auc_score(correct, conf), abs=1e-12)
    head = head_metrics("action", "abcdefgh", probabilities, label.tolist(), 500)
    expected = sklearn_metrics.f1_score(label, probabilities.argmax(1), average="macro")
    assert head.macro_f1 == pytest.approx(expected, abs=1e-12)


def test_auroc_counts_ties_half():
    conf, correct = np.array([0.5, 0.5, 0.7, 0.5, 0.9]), np.array([1, 0, 0, 1, 1], bool)
    expected = sklearn_metrics.roc_auc_score(correct, conf)
    assert calibration.confidence_auroc(conf, correct) == pytest.approx(expected)
    assert calibration.confidence_auroc(conf, np.ones(5, bool)) is None


def test_macro_f1_leaves_out_classes_that_never_occur():
    scores = np.eye(5)[[0, 0, 1, 3]]
    head = head_metrics("action", "abcde", scores, [0, 1, 1, 1], 4)
    expected = sklearn_metrics.f1_score([0, 1, 1, 1], [0, 0, 1, 3], average="macro")
    assert head.macro_f1 == pytest.approx(expected)


def test_ece_is_the_mean_gap_of_fifteen_bins_closed_on_the_right():
    # 0.2 = 3/15 is in (2/15, 3/15]; 0.95 and 1.0 share the last bin.
    conf, correct = np.array([0.2, 0.19, 0.95, 1.0]), np.array([1, 0, 1, 0], bool)
    bins = calibration.reliability_bins(conf, correct)
    assert [(b.n, b.high) for b in bins if b.n] == [(2, pytest.approx(0.2)), (2, 1.0)]
    expected = 0.5 * abs(0.5 - 0.195) + 0.5 * abs(0.5 - 0.975)
    assert calibration.expected_calibration_error(bins) == pytest.approx(expected)


def test_the_risk_coverage_curve_is_the_error_of_the_most_confident():
    conf, correct = np.array([0.6, 0.9, 0.8, 0.7]), np.array([0, 1, 0, 1], bool)
    risk = calibration.selective_risk(conf, correct)
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    tied = calibration.selective_risk(np.full(4, 0.5), np.array([0, 1, 0, 1], bool))
    assert tied == pytest.approx([0.5] * 4)


def test_several_correct_labels_count_as_the_most_probable():
    found = calibration.confidence_metrics(np.array([[0.2, 0.5, 0.3]]), [(0, 2)])
    assert found.nll == pytest.approx(-math.log(0.3))


def test_no_samples_give_no_metrics_and_nan_is_refused():
    nothing = calibration.confidence_metrics(np.zeros((0, 3)), [])
    assert nothing.nll is nothing.ece is nothing.aurc is None
    with pytest.raises(DataError, match="NaN"):
        calibration.confidence_metrics(np.full((1, 3), np.nan), [(0,)])
    with pytest.raises(DataError, match="at least one"):
        calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))


def test_the_temperature_undoes_overconfidence_and_has_the_lowest_nll():
    probabilities, label = noisy(4000, 1, 2.5)
    temperature = calibration.fit_temperature(probabilities, label)
    assert temperature == pytest.approx(2.5, rel=0.06)

    def nll(value: float) -> float:
        scaled = apply_temperature(probabilities, value)
        return sklearn_metrics.log_loss(label, scaled, labels=range(CLASSES))

    assert nll(temperature) <= min(nll(temperature * f) for f in (0.99, 0.999, 1.001, 1.01))
    scaled = apply_temperature(probabilities, temperature)
    assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    new, new_label = noisy(4000, 2, 2.5)
    before = calibration.confidence_metrics(new, new_label[:, None].tolist())
    after = calibration.confidence_metrics(
        apply_temperature(new, temperature), new_label[:, None].tolist()
    )
    assert after.ece < before.ece / 3
    assert after.nll < before.nll


def test_the_temperature_stays_in_bounds_when_every_prediction_is_right():
    probabilities = np.full((5, 3), 0.2) + 0.4 * np.eye(3)[[0, 1, 2, 0, 1]]
    label = np.array([0, 1, 2, 0, 1])
    assert calibration.fit_temperature(probabilities, label) == pytest.approx(0.05)
    assert calibration.fit_temperature(probabilities, (label + 1) % 3) == pytest.approx(20)
    certain = np.eye(3)[label]
    assert np.isfinite(apply_temperature(certain, 0.05)).all()


def test_binomial_cdf_equals_that_of_scipy():
    binom = pytest.importorskip("scipy.stats").binom  # scikit-learn depends on it
    for k, n, p in [(0, 59, 0.05), (3, 200, 0.1), (150, 1000, 0.2), (7, 7, 0.3)]:
        assert calibration.binomial_cdf(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_abstention_keeps_its_promise_on_new_data(alpha):
    new_conf, new_correct = confidence(*noisy(40_000, 999, spread=4))
    broken, found = 0, 0
    for seed in range(100):
        conf, correct = confidence(*noisy(1000, seed, spread=4))
        threshold = calibration.abstention_threshold(conf, correct, alpha)
        if threshold is not None:
            found += 1
            broken += bool((~new_correct[new_conf > threshold]).mean() > alpha)
    assert found > 50
    assert broken <= 5  # delta = 0.05 of 100 calibration sets


def test_abstention_answers_all_or_nothing_at_the_extremes():
    conf = np.linspace(0.3, 0.9, 200)
    assert calibration.abstention_threshold(conf, np.ones(200, bool), 0.05) < 0
    assert calibration.abstention_threshold(conf, np.zeros(200, bool), 0.05) is None
    # Ten correct answers cannot prove an error of at most 5 %.
    assert calibration.abstention_threshold(conf[:10], np.ones(10, bool), 0.05) is None


def test_the_conformal_quantile_has_the_finite_sample_correction():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    label = np.zeros(4, np.int64)  # 1 - p(label): 0.1, 0.2, 0.4, 0.7
    assert calibration.conformal_quantile(probabilities, label, 0.8) == pytest.approx(0.7)  # rank 4
    assert calibration.conformal_quantile(probabilities, label, 0.6) == pytest.approx(0.4)  # rank 3
    assert calibration.conformal_quantile(probabilities, label, 0.9) == 1.0  # rank 5 of 4


def test_conformal_sets_have_the_coverage_they_promise():
    covered = []
    for seed in range(100):
        probabilities, label = noisy(200, seed, 2.0)
        quantile = calibration.conformal_quantile(probabilities, label, 0.9)
        new, new_label = noisy(200, 1000 + seed, 2.0)
        sets = conformal_sets(new, quantile)
        assert sets.any(1).all()
        covered.append(sets[np.arange(200), new_label].mean())
    # Exactly ceil(201 * 0.9) / 201 = 0.9005 in expectation; the mean of 100 has a deviation of
    # about sqrt(0.09 * 2 / 200 / 100) = 0.003.
    assert np.mean(covered) == pytest.approx(0.9005, abs=0.01)
