"""TODO-HEAD"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1


@dataclass(frozen=True)
class Estimate:
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
class PerClassResult:
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
    top1_read: Estimate | None
    top1_all: Estimate | None
    top5_read: Estimate | None
    top5_all: Estimate | None


@dataclass(frozen=True)
class HeadResult(Accuracy):
    """All figures of one classifier.

    `mean_class` is over the classes that have samples; `confusion` is an integer array [K, K] of
    counts, rows target, columns prediction.
    """

    classes: tuple[str, ...]
    mean_class: Estimate | None
    per_class: tuple[PerClassResult, ...]
    confusion: np.ndarray = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the confusion matrix as [target, prediction, count] of its non-zero cells."""
        table = {f.name: getattr(self, f.name) for f in fields(Accuracy)}
        rows, columns = self.confusion.nonzero()
        cells = zip(rows, columns, self.confusion[rows, columns], strict=True)
        return {
            **{name: asdict(v) if isinstance(v, Estimate) else v for name, v in table.items()},
            "classes": list(self.classes),
            "mean_class": self.mean_class and asdict(self.mean_class),
            "per_class": [{**asdict(row), "accuracy": row.accuracy} for row in self.per_class],
            "confusion": [[int(value) for value in cell] for cell in cells],
        }


@dataclass(frozen=True)
class ClassOrderWarning:
    """Predictions that fit the target only once classes are renamed.

    plain and renamed: mean accuracy of the `classes` that were looked at, as it is and after the
    best renaming, one to one, found on one half of the samples and counted on the other. mapping:
    class -> the prediction that stands for it.
    """

    plain: float
    renamed: float
    classes: int
    mapping: Mapping[int, int]

    @property
    def kept(self) -> int:
        """How many classes keep their place."""
        return sum(target == predicted for target, predicted in self.mapping.items())

    def sentence(self, classes: Sequence[str]) -> str:
        """The warning, with the first class that moved as its example."""
        target, predicted = next(pair for pair in self.mapping.items() if pair[0] != pair[1])
        return (
            "this looks like a permuted class order, or like mirrored or reversed videos: mean "
            f"class accuracy is {percent(self.plain)} %, but {percent(self.renamed)} % once "
            f"classes are renamed one to one ({self.kept} of {self.classes} keep their place; "
            f"'{classes[target]}' is answered as '{classes[predicted]}'); check the class order of "
            "the weights against that of the annotation"
        )


@dataclass(frozen=True)
class MeanStd:
    """Shares in 0..1, their mean and standard deviation (n - 1; None for a single one)."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class SplitMean:
    """Top-1 on each split of a dataset, over what was read and over all that was expected."""

    names: tuple[str, ...]
    read: MeanStd
    over_all: MeanStd

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class FailureRow:
    """A sample that was not read: `reason` is one word, `error` the whole sentence."""

    id: str
    path: str
    reason: str
    error: str


@dataclass(frozen=True)
class Misclassification:
    """A sample that got a wrong answer, and what the model saw of it.

    score and target_score: probabilities in 0..1 of the answer and of the right class. frames: JPEG
    or PNG files in order of time; times: a few characters per frame, or nothing.
    """

    id: str
    path: str
    target: str
    predicted: str
    score: float
    target_score: float
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
    mistakes: tuple[Misclassification, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> Accuracy:
        """What the published figure is compared with: actions where there are pairs."""
        return self.action or self.heads[0]

    @property
    def figures(self) -> tuple[HeadlineRow, ...]:
        """The rows of the headline table, those that have a published figure first."""
        return tuple(_figure_rows(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; mistakes without their pictures."""
        made_here = {
            "schema": SCHEMA,
            "published": self.published and asdict(self.published),
            "heads": [head.to_dict() for head in self.heads],
            "action": self.action and asdict(self.action),
            "failures": [asdict(failure) for failure in self.failures],
            "mistakes": [_without_frames(mistake) for mistake in self.mistakes],
            "warnings": list(self.warnings),
            "settings": dict(self.settings),
        }
        return {f.name: getattr(self, f.name) for f in fields(self)} | made_here


def _without_frames(mistake: Misclassification) -> dict[str, Any]:
    table = asdict(mistake)
    del table["frames"]
    return table


@dataclass(frozen=True)
class HeadlineRow:
    """One row of the headline table; `published` in per cent."""

    label: str
    read: Estimate | None
    over_all: Estimate | None
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Points between what was read and what is published."""
        if self.read is None or self.published is None:
            return None
        return 100 * self.read.value - self.published


def _figure_rows(report: EvaluationReport) -> Iterator[HeadlineRow]:
    """Top-5 is left out where there are five classes or fewer, and all are among the best five."""
    several = len(report.heads) > 1 or report.action is not None
    published = report.published or Published(None)
    results: list[Accuracy] = [*([report.action] if report.action else []), *report.heads]
    for result in results:
        first = result is report.headline
        prefix = f"{result.name} " if several else ""
        stated = (published.top1, published.top5) if first else (None, None)
        yield HeadlineRow(f"{prefix}top-1", result.top1_read, result.top1_all, stated[0])
        if not isinstance(result, HeadResult) or len(result.classes) > 5:
            yield HeadlineRow(f"{prefix}top-5", result.top5_read, result.top5_all, stated[1])
        if isinstance(result, HeadResult):
            yield HeadlineRow(f"{prefix}mean class", result.mean_class, None)


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
    difference: Estimate
    p_value: float
    improved: tuple[ClassChange, ...]
    regressed: tuple[ClassChange, ...]

    @property
    def n(self) -> int:
        """Samples that both runs have."""
        return self.both_right + self.only_a + self.only_b + self.both_wrong

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"schema": SCHEMA, "n": self.n, **asdict(self)}


def as_json(table: Mapping[str, Any]) -> str:
    """JSON to be read by people too; bytes of a name that are no UTF-8 stand as escapes."""
    text = json.dumps(table, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def percent(share: float) -> str:
    """A share in per cent with one digit after the point, as papers print it."""
    return f"{100 * share:.1f}"
