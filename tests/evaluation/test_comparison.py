"""Two runs are compared over the samples both have, with a test of significance."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest

from vtcli.errors import DataError
from vtcli.evaluation.comparison import compare, mcnemar, paired_difference


def run(outcomes: str) -> dict[str, bool]:
    """Sample ids 0, 1, ..., + for correct and - for wrong; a space omits the sample."""
    return {str(i): c == "+" for i, c in enumerate(outcomes) if c != " "}


def test_samples_are_counted_by_which_run_is_correct() -> None:
    found = compare(run("++--+- +"), run("+-+-++- "), {str(i): "x" for i in range(8)})
    assert (
        found.correct_both,
        found.correct_only_a,
        found.correct_only_b,
        found.correct_neither,
    ) == (2, 1, 2, 1)
    assert found.n == 6
    assert (found.missing_in_a, found.missing_in_b) == (1, 1)
    assert found.difference.value == pytest.approx(1 / 6)


def test_improved_and_regressed_classes_are_ordered_by_the_change() -> None:
    classes = dict(zip("0123456789", "aaaabbccdd", strict=True))
    found = compare(run("+---++--++"), run("++--+-++++"), classes)
    assert [(c.name, c.n, c.correct_a, c.correct_b) for c in found.improved] == [
        ("c", 2, 0, 2),
        ("a", 4, 1, 2),
    ]
    assert [(c.name, c.n, c.correct_a, c.correct_b) for c in found.regressed] == [("b", 2, 2, 1)]


def test_runs_without_a_common_sample_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="no sample in common"):
        compare({"a": True}, {"b": True}, {})


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 3), (1, 8), (5, 15), (15, 5), (40, 61)])
def test_the_p_value_is_the_binomial_tail(b: int, c: int) -> None:
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    assert mcnemar(b, c) == float(min(Fraction(1), Fraction(2 * tail, 2 ** (b + c))))


def test_the_p_value_of_a_large_run_is_fast_and_close_to_the_normal_approximation() -> None:
    start = time.process_time()  # of which a busy machine takes no more
    b, c = 24_700, 25_300
    p = mcnemar(b, c)
    assert time.process_time() - start < 5
    z = (abs(b - c) - 1) / math.sqrt(b + c)
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(0, 50_000) == 0


def test_the_interval_is_that_of_agresti_and_min() -> None:
    estimate = paired_difference(only_a=10, only_b=30, n=198)
    # Half a sample in each outcome: 10.5 and 30.5 of 200.
    deviation = math.sqrt(41 - 20**2 / 200) / 200
    assert estimate.value == 20 / 198
    assert estimate.low == pytest.approx(0.1 - 1.96 * deviation, abs=1e-5)
    assert estimate.high == pytest.approx(0.1 + 1.96 * deviation, abs=1e-5)


def test_runs_that_never_differ_still_have_an_interval() -> None:
    estimate = paired_difference(0, 0, 98)
    assert (estimate.value, estimate.low, estimate.high) == (
        0,
        pytest.approx(-0.0196, abs=1e-5),
        pytest.approx(0.0196, abs=1e-5),
    )
