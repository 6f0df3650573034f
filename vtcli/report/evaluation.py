"""What an evaluation found, for people and for programs: the results as data, tables, JSON.

Accuracies are shares in 0..1 here and per cent only where they are printed; figures that a paper
published are per cent, as the paper prints them. An interval holds 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """A share and its 95 % interval, each in 0..1 (differences: -1..1)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Published:
    """What the model's authors print, in per cent; `source` names where."""

    top1: float | None
    top5: float | None = None
    source: str = ""


@dataclass(frozen=True)
class ClassRow:
    """One class: `right` of its `n` samples, and what the others are most often taken for.

    `confused_with` is the index of that class, None where none of its samples is wrong.
    """

    index: int
    name: str
    n: int
    right: int
    confused_with: int | None
    confused: int

    @property
    def accuracy(self) -> float | None:
        """None for a class without samples."""
        return self.right / self.n if self.n else None


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 over the samples that were read, and over all that were expected.

    Over all, a sample that was not read counts as wrong. None where there is nothing to divide by.
    With five classes or fewer, top-5 is right by definition.
    """

    name: str
    n_read: int
    n_expected: int
    top1_read: Figure | None
    top1_all: Figure | None
    top5_read: Figure | None
    top5_all: Figure | None


@dataclass(frozen=True)
class HeadResult(Accuracy):
    """All figures of one classifier.

    `mean_class` is over the classes that have samples; `confusion` is an integer array [K, K] of
    counts, rows truth, columns prediction.
    """

    classes: tuple[str, ...]
    mean_class: Figure | None
    per_class: tuple[ClassRow, ...]
    confusion: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class PermutationSuspicion:
    """Predictions that fit the truth only once classes are renamed.

    top1: as it is; renamed: top-1 after the best renaming, one to one, found on one half of the
    samples and counted on the other; mapping: class -> the prediction that stands for it; kept: how
    many of these are the class itself.
    """

    top1: float
    renamed: float
    mapping: Mapping[int, int]

    @property
    def kept(self) -> int:
        """How many classes keep their place."""
        return sum(truth == predicted for truth, predicted in self.mapping.items())

    def sentence(self, classes: Sequence[str]) -> str:
        """The warning, with the class that moved and has the lowest index as its example."""
        raise NotImplementedError


@dataclass(frozen=True)
class SplitMean:
    """Top-1 over the splits of a dataset: mean and standard deviation (n - 1) in 0..1."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class FailureRow:
    """A sample that was not read: `reason` is one word, `error` the whole sentence."""

    id: str
    path: str
    reason: str
    error: str


@dataclass(frozen=True)
class Mistake:
    """A sample that got a wrong answer, and what the model saw of it.

    score and truth_score: probabilities in 0..1 of the answer and of the right class. frames: JPEG
    or PNG files in order of time; times: a few characters per frame, or nothing.
    """

    id: str
    path: str
    truth: str
    predicted: str
    score: float
    truth_score: float
    frames: tuple[bytes, ...] = ()
    times: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationReport:
    """One run: what was evaluated, how, what came out and what went wrong.

    protocol: a sentence; differs: a sentence on how that is not the published protocol, or "".
    heads: at least one; action: EPIC-Kitchens' pairs of verb and noun. seconds: of all the work.
    settings: name -> value, in the order they are shown.
    """

    title: str
    model: str
    dataset: str
    split: str
    protocol: str
    differs: str
    published: Published | None
    expected: int
    read: int
    failed: int
    heads: tuple[HeadResult, ...]
    action: Accuracy | None = None
    warnings: tuple[str, ...] = ()
    failures: tuple[FailureRow, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> Accuracy:
        """What the published figure is compared with: actions where there are pairs."""
        return self.action or self.heads[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; confusion matrices as their non-zero cells, mistakes without pictures."""
        raise NotImplementedError


@dataclass(frozen=True)
class ClassChange:
    """One class in two runs: how many of the same `n` samples each got right."""

    name: str
    n: int
    right_a: int
    right_b: int


@dataclass(frozen=True)
class Comparison:
    """Two runs over the samples that both have.

    difference: accuracy of B minus accuracy of A; p_value: exact McNemar test, two-sided. won and
    lost: classes of which B gets more or fewer right, largest change first.
    """

    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    missing_in_a: int
    missing_in_b: int
    difference: Figure
    p_value: float
    won: tuple[ClassChange, ...]
    lost: tuple[ClassChange, ...]

    @property
    def n(self) -> int:
        """Samples that both runs have."""
        return self.both_right + self.only_a + self.only_b + self.both_wrong

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        raise NotImplementedError


def print_evaluation(report: EvaluationReport, console: Console) -> None:
    """Print what a person reads at the end of a run; fits 80 columns."""
    raise NotImplementedError


def print_splits(splits: SplitMean, published: Published | None, console: Console) -> None:
    """Print the top-1 of each split, their mean and their standard deviation."""
    raise NotImplementedError


def print_comparison(found: Comparison, name_a: str, name_b: str, console: Console) -> None:
    """Print two runs side by side; fits 80 columns."""
    raise NotImplementedError
