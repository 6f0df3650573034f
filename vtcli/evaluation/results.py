"""What an evaluation produces, as plain records that convert to JSON; nothing here renders them.

Accuracies are fractions in 0..1, metrics reported by a paper are percentages as the paper prints
them. Intervals are 95 % confidence intervals. K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from vtcli.evaluation.multi_label import MultiLabelResult
from vtcli.runtime.words import valid_text

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2  # of every JSON document below; 1 had other keys


@dataclass(frozen=True)
class Estimate:
    """A fraction and its 95 % interval, each in 0..1 (a difference: -1..1)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ReportedMetrics:
    """Accuracies reported by the model's authors, in percent; `source` names where."""

    top1: float | None
    top5: float | None = None
    source: str = ""


@dataclass(frozen=True)
class PerClassResult:
    """One class: `correct` of its `n` samples, and what the others are most often predicted as.

    `confused_with` is the index of that class and `confused` how often it was predicted; None and
    0 if every sample of the class is correct.
    """

    index: int
    name: str
    n: int
    correct: int
    confused_with: int | None
    confused: int

    @property
    def accuracy(self) -> float | None:
        """Fraction of correct samples; None for a class without samples."""
        return self.correct / self.n if self.n else None


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 over the samples that were read (`_read`) and over all of them (`_all`).

    In `_all`, a sample that could not be read counts as wrong. None if there are no samples to
    average over. With five classes or fewer, every top-5 prediction is correct.
    """

    name: str
    n_read: int
    n_expected: int
    top1_read: Estimate | None
    top1_all: Estimate | None
    top5_read: Estimate | None
    top5_all: Estimate | None


@dataclass(frozen=True)
class ReliabilityBin:
    """The `n` samples whose confidence is in (low, high]: mean confidence and accuracy in 0..1.

    Both are None for an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Confidence:
    """How well the probability of the top-1 class, the confidence, tells right from wrong.

    nll: negative log-likelihood in nats. brier: 0..2. ece: expected calibration error, 0..1, of
    the bins in `reliability`. auroc: of the confidence for being correct, None if all predictions
    are correct or all are wrong. aurc: area under the risk-coverage curve. risk_coverage:
    (fraction answered, error rate among the answers). All None without samples.
    """

    nll: float | None
    brier: float | None
    ece: float | None
    auroc: float | None
    aurc: float | None
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class HeadResult(Accuracy):
    """All metrics of one classifier.

    `macro_f1` averages over the classes with samples or predictions, `mean_class` over the classes
    that have samples. `multi_label` is there in place of `confidence` where the classes do not
    exclude each other. `confusion` is an integer array [K, K] of counts, rows are targets and
    columns predictions.
    """

    classes: tuple[str, ...]
    mean_class: Estimate | None
    per_class: tuple[PerClassResult, ...]
    confusion: np.ndarray = field(compare=False, repr=False)
    macro_f1: float | None = None
    confidence: Confidence | None = None
    multi_label: MultiLabelResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the confusion matrix as [target, prediction, count] of its nonzero cells."""
        table = {f.name: getattr(self, f.name) for f in fields(Accuracy)}
        rows, columns = self.confusion.nonzero()
        cells = zip(rows, columns, self.confusion[rows, columns], strict=True)
        return {
            **{name: asdict(v) if isinstance(v, Estimate) else v for name, v in table.items()},
            "classes": list(self.classes),
            "mean_class": self.mean_class and asdict(self.mean_class),
            "macro_f1": self.macro_f1,
            "confidence": self.confidence and asdict(self.confidence),
            **({"multi_label": self.multi_label.to_dict()} if self.multi_label else {}),
            "per_class": [{**asdict(row), "accuracy": row.accuracy} for row in self.per_class],
            "confusion": [[int(value) for value in cell] for cell in cells],
        }


@dataclass(frozen=True)
class ClassOrderWarning:
    """Predictions that match the targets only after the classes are permuted.

    accuracy and permuted_accuracy: mean accuracy of the `classes` that have enough samples, as
    measured and under the best one-to-one permutation, which is found on one half of the samples
    and evaluated on the other. mapping: class -> the class predicted in its place.
    """

    accuracy: float
    permuted_accuracy: float
    classes: int
    mapping: Mapping[int, int]

    @property
    def unchanged(self) -> int:
        """How many classes the permutation maps to themselves."""
        return sum(target == predicted for target, predicted in self.mapping.items())


@dataclass(frozen=True)
class MeanStd:
    """Fractions in 0..1, their mean and sample standard deviation (None for a single value)."""

    values: tuple[float, ...]
    mean: float
    std: float | None


@dataclass(frozen=True)
class SplitMean:
    """Top-1 on each split of a dataset, over the samples that were read and over all of them."""

    names: tuple[str, ...]
    read: MeanStd
    over_all: MeanStd

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class FailureRow:
    """A sample that could not be read: `reason` is one word, `error` the whole message."""

    id: str
    path: str
    reason: str
    error: str


@dataclass(frozen=True)
class Misclassification:
    """A wrong prediction, and the frames that the model saw.

    score and target_score: probabilities in 0..1 of the predicted and of the target class. frames:
    encoded JPEG or PNG images in temporal order; times: a short text per frame, or empty.
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
    """The results of one run.

    protocol: one sentence; differs: how the protocol differs from the published one, "" if it does
    not. heads: at least one; action: verb-noun pairs of EPIC-Kitchens. seconds: wall time of the
    run, 0 if it was resumed. settings: name -> value, in display order.
    """

    title: str
    model: str
    dataset: str
    split: str
    protocol: str
    differs: str
    reported: ReportedMetrics | None
    expected: int
    read: int
    failed: int
    heads: tuple[HeadResult, ...]
    action: Accuracy | None = None
    warnings: tuple[str, ...] = ()
    failures: tuple[FailureRow, ...] = ()
    misclassifications: tuple[Misclassification, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> Accuracy:
        """The result that is compared with the reported one: actions if there are any."""
        return self.action or self.heads[0]

    @property
    def headline_rows(self) -> tuple[HeadlineRow, ...]:
        """The rows of the headline table, those with a reported metric first."""
        return tuple(_headline_rows(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; misclassifications without their frames."""
        converted = {
            "format": FORMAT,
            "reported": self.reported and asdict(self.reported),
            "heads": [head.to_dict() for head in self.heads],
            "action": self.action and asdict(self.action),
            "failures": [asdict(failure) for failure in self.failures],
            "misclassifications": [_without_frames(sample) for sample in self.misclassifications],
            "warnings": list(self.warnings),
            "settings": dict(self.settings),
        }
        return {f.name: getattr(self, f.name) for f in fields(self)} | converted


def _without_frames(sample: Misclassification) -> dict[str, Any]:
    table = asdict(sample)
    del table["frames"]
    return table


@dataclass(frozen=True)
class HeadlineRow:
    """One row of the headline table; `reported` in percent."""

    label: str
    read: Estimate | None
    over_all: Estimate | None
    reported: float | None = None

    @property
    def difference(self) -> float | None:
        """Accuracy over the samples that were read minus the reported one, in points."""
        if self.read is None or self.reported is None:
            return None
        return 100 * self.read.value - self.reported


def _headline_rows(report: EvaluationReport) -> Iterator[HeadlineRow]:
    """Top-5 is omitted with five classes or fewer, where it is always 100 %."""
    several = len(report.heads) > 1 or report.action is not None
    reported = report.reported or ReportedMetrics(None)
    results: list[Accuracy] = [*([report.action] if report.action else []), *report.heads]
    for result in results:
        first = result is report.headline
        prefix = f"{result.name} " if several else ""
        top1, top5 = (reported.top1, reported.top5) if first else (None, None)
        yield HeadlineRow(f"{prefix}top-1", result.top1_read, result.top1_all, top1)
        if not isinstance(result, HeadResult) or len(result.classes) > 5:
            yield HeadlineRow(f"{prefix}top-5", result.top5_read, result.top5_all, top5)
        if isinstance(result, HeadResult):
            yield HeadlineRow(f"{prefix}mean class", result.mean_class, None)


@dataclass(frozen=True)
class ClassChange:
    """One class in two runs: how many of the same `n` samples each predicts correctly."""

    name: str
    n: int
    correct_a: int
    correct_b: int


@dataclass(frozen=True)
class Comparison:
    """Two runs over the samples that both have read.

    difference: accuracy of B minus accuracy of A; p_value: exact McNemar test, two-sided. improved
    and regressed: classes of which B predicts more or fewer samples correctly, largest change
    first.
    """

    correct_both: int
    correct_only_a: int
    correct_only_b: int
    correct_neither: int
    missing_in_a: int
    missing_in_b: int
    difference: Estimate
    p_value: float
    improved: tuple[ClassChange, ...]
    regressed: tuple[ClassChange, ...]

    @property
    def n(self) -> int:
        """Samples that both runs have read."""
        one_run = self.correct_only_a + self.correct_only_b
        return self.correct_both + one_run + self.correct_neither

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"format": FORMAT, "n": self.n, **asdict(self)}


def as_json(table: Mapping[str, Any]) -> str:
    """Indented JSON; bytes of a file name that are not valid UTF-8 are escaped."""
    return valid_text(json.dumps(table, ensure_ascii=False, indent=2))
