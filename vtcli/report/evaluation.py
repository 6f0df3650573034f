"""What an evaluation found, for people and for programs: the results as data, tables, JSON.

Accuracies are shares in 0..1 here and per cent only where they are printed; figures that a paper
published are per cent, as the paper prints them. An interval holds 95 %.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

SCHEMA = 1
FAILURES_NAMED = 3
CLASSES_NAMED = 5


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the confusion matrix as [truth, prediction, count] of its non-zero cells."""
        table = {f.name: getattr(self, f.name) for f in fields(Accuracy)}
        rows, columns = self.confusion.nonzero()
        cells = zip(rows, columns, self.confusion[rows, columns], strict=True)
        return {
            **{name: asdict(v) if isinstance(v, Figure) else v for name, v in table.items()},
            "classes": list(self.classes),
            "mean_class": self.mean_class and asdict(self.mean_class),
            "per_class": [{**asdict(row), "accuracy": row.accuracy} for row in self.per_class],
            "confusion": [[int(value) for value in cell] for cell in cells],
        }


@dataclass(frozen=True)
class PermutationSuspicion:
    """Predictions that fit the truth only once classes are renamed.

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
        return sum(truth == predicted for truth, predicted in self.mapping.items())

    def sentence(self, classes: Sequence[str]) -> str:
        """The warning, with the first class that moved as its example."""
        truth, predicted = next(pair for pair in self.mapping.items() if pair[0] != pair[1])
        return (
            "this looks like a permuted class order, or like mirrored or reversed videos: mean "
            f"class accuracy is {percent(self.plain)} %, but {percent(self.renamed)} % once "
            f"classes are renamed one to one ({self.kept} of {self.classes} keep their place; "
            f"'{classes[truth]}' is answered as '{classes[predicted]}'); check the class order of "
            "the weights against that of the annotation"
        )


@dataclass(frozen=True)
class Spread:
    """Shares in 0..1, their mean and standard deviation (n - 1; None for a single one)."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class SplitMean:
    """Top-1 on each split of a dataset, over what was read and over all that was expected."""

    names: tuple[str, ...]
    read: Spread
    over_all: Spread

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

    @property
    def figures(self) -> tuple[FigureRow, ...]:
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


def _without_frames(mistake: Mistake) -> dict[str, Any]:
    table = asdict(mistake)
    del table["frames"]
    return table


@dataclass(frozen=True)
class FigureRow:
    """One row of the headline table; `published` in per cent."""

    label: str
    read: Figure | None
    over_all: Figure | None
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Points between what was read and what is published."""
        if self.read is None or self.published is None:
            return None
        return 100 * self.read.value - self.published


def _figure_rows(report: EvaluationReport) -> Iterator[FigureRow]:
    """Top-5 is left out where there are five classes or fewer, and all are among the best five."""
    several = len(report.heads) > 1 or report.action is not None
    published = report.published or Published(None)
    results: list[Accuracy] = [*([report.action] if report.action else []), *report.heads]
    for result in results:
        first = result is report.headline
        prefix = f"{result.name} " if several else ""
        stated = (published.top1, published.top5) if first else (None, None)
        yield FigureRow(f"{prefix}top-1", result.top1_read, result.top1_all, stated[0])
        if not isinstance(result, HeadResult) or len(result.classes) > 5:
            yield FigureRow(f"{prefix}top-5", result.top5_read, result.top5_all, stated[1])
        if isinstance(result, HeadResult):
            yield FigureRow(f"{prefix}mean class", result.mean_class, None)


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
        return {"schema": SCHEMA, "n": self.n, **asdict(self)}


def as_json(table: Mapping[str, Any]) -> str:
    """JSON to be read by people too; bytes of a name that are no UTF-8 stand as escapes."""
    text = json.dumps(table, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def percent(share: float) -> str:
    """A share in per cent with one digit after the point, as papers print it."""
    return f"{100 * share:.1f}"


def with_interval(figure: Figure | None) -> str:
    """A share and its interval in per cent; a dash where there is none."""
    if figure is None:
        return "–"
    return f"{percent(figure.value)} ({percent(figure.low)}–{percent(figure.high)})"


def points(difference: float | None) -> str:
    """A difference in points with its sign; nothing where there is none."""
    return "" if difference is None else f"{difference:+.1f}"


def plural(n: int, one: str, many: str = "") -> str:
    """The number with its thousands marked, and the word that goes with it."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def speed_in_words(report: EvaluationReport) -> str:
    """How long it took, and the videos per second where any were read; "" where nobody says."""
    if not report.seconds:
        return ""
    minutes, seconds = divmod(round(report.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    if not hours and not minutes:
        time = f"{report.seconds:.1f} s"
    return f"{time}, {report.read / report.seconds:.2f} videos/s" if report.read else time


def counts_in_words(report: EvaluationReport) -> str:
    """How many were expected, read, failed, and not come to where a run was broken off."""
    words = f"{report.expected:,} expected, {report.read:,} read, {report.failed:,} failed"
    left = report.expected - report.read - report.failed
    return f"{words}, {left:,} not done" if left else words


def by_reason(failures: Iterable[FailureRow]) -> dict[str, list[FailureRow]]:
    """The failures of each reason, the most frequent reason first."""
    groups: dict[str, list[FailureRow]] = {}
    for failure in failures:
        groups.setdefault(failure.reason, []).append(failure)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def failure_in_words(failure: FailureRow) -> str:
    """The error, led by the path where it does not name it itself."""
    named = failure.path in failure.error
    return failure.error if named else f"{failure.path}: {failure.error}"


def worst_first(rows: Iterable[ClassRow]) -> list[ClassRow]:
    """The classes that have samples by accuracy; of two that are equal, the one with more."""
    return sorted((row for row in rows if row.n), key=lambda row: (row.right / row.n, -row.n))


def print_evaluation(report: EvaluationReport, console: Console) -> None:
    """Print what a person reads at the end of a run; fits 80 columns."""
    _say(console, report.title, "bold")
    _say(console, report.protocol, "dim")
    if report.differs:
        _say(console, report.differs, "yellow")
    console.print(_figure_table(report))
    _say(console, _legend(report), "dim")
    console.print()
    speed = speed_in_words(report)
    _say(console, counts_in_words(report) + (f"; {speed}" if speed else ""))
    for warning in report.warnings:
        _say(console, f"warning: {warning}", "yellow")
    _print_failures(report.failures, console)
    for head in report.heads:
        _print_worst(head, console, f" of {head.name}" if len(report.heads) > 1 else "")


def _say(console: Console, words: str, style: str = "", indent: int = 0) -> None:
    """Print words as they are: brackets and colons in paths and labels mean nothing."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(words, style=style), (0, 0, 0, indent), expand=False))


def plain_table(*columns: str) -> Table:
    """The first column is a name, the others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    return table


def _figure_table(report: EvaluationReport) -> Table:
    """Without the column over all where everything was read, and without published figures where
    there are none.
    """
    from rich.text import Text

    all_read = report.read == report.expected
    columns = ["per cent", "read" if not all_read else "ours", *([] if all_read else ["all"])]
    table = plain_table(*columns, *(["published", "diff"] if report.published else []))
    for row in report.figures:
        cells = [row.label, with_interval(row.read)]
        if not all_read:
            cells.append(with_interval(row.over_all) if row.over_all else "")
        if report.published:
            stated = "" if row.published is None else f"{row.published:.1f}"
            cells += [stated, points(row.difference)]
        style = "bold" if row.label == report.figures[0].label else ""
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _legend(report: EvaluationReport) -> str:
    words = "In brackets: 95 % intervals."
    if report.read != report.expected:
        words += " all: whatever was not read counts as wrong."
    if report.published:
        source = f"published: {report.published.source}; " if report.published.source else ""
        words += f" {source}diff: in points, over what was read."
    return words


def _print_failures(failures: Sequence[FailureRow], console: Console) -> None:
    for reason, group in by_reason(failures).items():
        _say(console, f"failed, {reason}: {len(group):,}", "red")
        for failure in group[:FAILURES_NAMED]:
            _say(console, failure_in_words(failure), indent=2)
        if len(group) > FAILURES_NAMED:
            _say(console, f"and {len(group) - FAILURES_NAMED:,} more", "dim", indent=2)


def _print_worst(head: HeadResult, console: Console, of_head: str) -> None:
    from rich.text import Text

    worst = [r for r in worst_first(head.per_class) if r.right < r.n][:CLASSES_NAMED]
    if not worst:
        return
    table = plain_table(f"worst classes{of_head}", "right", "%")
    table.add_column("most often taken for")
    for row in worst:
        other = "" if row.confused_with is None else head.classes[row.confused_with]
        accuracy = percent(row.right / row.n)
        cells = (row.name, f"{row.right}/{row.n}", accuracy, f"{other} ({row.confused})")
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def print_splits(splits: SplitMean, published: Published | None, console: Console) -> None:
    """Print the top-1 of each split, their mean and their standard deviation."""
    from rich.text import Text

    table = plain_table("top-1, per cent", "read", "all")
    for name, read, over_all in zip(
        splits.names, splits.read.values, splits.over_all.values, strict=True
    ):
        table.add_row(Text(f"split {name}"), percent(read), percent(over_all))
    means = (_spread_in_words(splits.read), _spread_in_words(splits.over_all))
    table.add_row(Text("mean", style="bold"), *(Text(cell, style="bold") for cell in means))
    console.print(table)
    if published and published.top1 is not None:
        difference = points(100 * splits.read.mean - published.top1)
        source = f" ({published.source})" if published.source else ""
        _say(console, f"published: {published.top1:.1f}{source}, difference {difference}", "dim")


def _spread_in_words(spread: Spread) -> str:
    deviation = "" if spread.deviation is None else f" ± {percent(spread.deviation)}"
    return percent(spread.mean) + deviation


def print_comparison(found: Comparison, name_a: str, name_b: str, console: Console) -> None:
    """Print two runs side by side; fits 80 columns."""
    accuracy_a = (found.both_right + found.only_a) / found.n
    accuracy_b = (found.both_right + found.only_b) / found.n
    _say(console, f"A  {percent(accuracy_a)} %  {name_a}")
    _say(console, f"B  {percent(accuracy_b)} %  {name_b}")
    table = plain_table(f"of {plural(found.n, 'sample')}", "B right", "B wrong")
    table.add_row("A right", f"{found.both_right:,}", f"{found.only_a:,}")
    table.add_row("A wrong", f"{found.only_b:,}", f"{found.both_wrong:,}")
    console.print(table)
    _say(console, _verdict(found), "bold")
    for missing, run, other in (
        (found.missing_in_a, "B", "A"),
        (found.missing_in_b, "A", "B"),
    ):
        if missing:
            words = f"{plural(missing, 'sample')} of {run} not in {other}, left out"
            _say(console, words, "yellow")
    _print_changes("won by B", found.won, console)
    _print_changes("lost by B", found.lost, console)


def _verdict(found: Comparison) -> str:
    d = found.difference
    interval = f"{points(100 * d.low)} to {points(100 * d.high)}"
    small = "< 0.0001" if found.p_value < 1e-4 else f"= {found.p_value:.4f}"
    meaning = "hardly chance" if found.p_value < 0.05 else "may well be chance"
    return (
        f"B - A: {points(100 * d.value)} points ({interval}), exact McNemar test p {small}: "
        f"{meaning}"
    )


def _print_changes(title: str, changes: Sequence[ClassChange], console: Console) -> None:
    from rich.text import Text

    if not changes:
        return
    table = plain_table(f"{plural(len(changes), 'class', 'classes')} {title}", "n", "A", "B")
    for change in changes[:CLASSES_NAMED]:
        counts = (change.n, change.right_a, change.right_b)
        table.add_row(Text(change.name), *(str(count) for count in counts))
    if len(changes) > CLASSES_NAMED:
        table.add_row(Text(f"and {len(changes) - CLASSES_NAMED:,} more", style="dim"))
    console.print(table)
