"""Two runs over the same samples: which is better, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Mapping

from vtcli.report.evaluation import Comparison


def compare(
    right_a: Mapping[str, bool], right_b: Mapping[str, bool], class_of: Mapping[str, str]
) -> Comparison:
    """Compare two runs, each sample id -> whether its answer is right.

    class_of: sample id -> name of its class. Raises `DataError` where no sample is in both.
    """
    raise NotImplementedError


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test."""
    raise NotImplementedError
