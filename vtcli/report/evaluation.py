"""Prints the results of an evaluation as tables and text for the terminal.

Accuracies are printed in percent with one decimal; differences are in percentage points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vtcli.evaluation.results import (
    ClassChange,
    Comparison,
    EvaluationReport,
    FailureRow,
    HeadResult,
    MeanStd,
    PerClassResult,
    ReportedMetrics,
    SplitMean,
)
from vtcli.report.confidence import LEGEND, confidence_table
from vtcli.report.multi_label import class_table, summary
from vtcli.report.tables import plain_table, points, print_table, print_text, with_interval
from vtcli.runtime.words import and_more, percent, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAILURES_SHOWN = 3
CLASSES_SHOWN = 5
SIGNIFICANCE_LEVEL = 0.05


def speed_in_words(report: EvaluationReport) -> str:
    """Wall time, and videos per second if any were read; "" if the time is unknown."""
    if not report.seconds:
        return ""
    minutes, seconds = divmod(round(report.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    if not hours and not minutes:
        time = f"{report.seconds:.1f} s"
    return f"{time}, {report.read / report.seconds:.2f} videos/s" if report.read else time


def counts_in_words(report: EvaluationReport) -> str:
    """How many videos were expected, read, failed, and not done if the run was interrupted."""
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
    """The error message, preceded by the path unless it contains it."""
    named = failure.path in failure.error
    return failure.error if named else f"{failure.path}: {failure.error}"


def worst_first(rows: Iterable[PerClassResult]) -> list[PerClassResult]:
    """The classes that have samples by ascending accuracy; ties by descending number of samples."""
    return sorted((row for row in rows if row.n), key=lambda row: (row.correct / row.n, -row.n))


def print_evaluation(report: EvaluationReport, console: Console) -> None:
    """Print the results of a run; fits 80 columns."""
    print_text(console, report.title, "bold")
    print_text(console, report.protocol, "dim")
    if report.differs:
        print_text(console, report.differs, "yellow")
    print_table(_headline_table(report), console)
    print_text(console, _legend(report), "dim")
    for head in report.heads:
        if head.multi_label:
            print_text(console, summary(head.multi_label))
            print_table(class_table(head.multi_label), console)
    if any(head.confidence for head in report.heads):
        print_table(confidence_table(report.heads), console)
        print_text(console, LEGEND, "dim")
    console.print()
    speed = speed_in_words(report)
    print_text(console, counts_in_words(report) + (f"; {speed}" if speed else ""))
    for warning in report.warnings:
        print_text(console, f"warning: {warning}", "yellow")
    _print_failures(report.failures, console)
    for head in report.heads:
        _print_worst_classes(head, console, f" of {head.name}" if len(report.heads) > 1 else "")


def _headline_table(report: EvaluationReport) -> Table:
    """Without the column over all videos if all were read, and without empty columns."""
    from rich.text import Text

    all_read = report.read == report.expected
    columns = ["percent", "this run"] if all_read else ["percent", "read", "all"]
    table = plain_table(*columns, *(["published", "diff"] if report.reported else []))
    for number, row in enumerate(report.headline_rows):
        cells = [row.label, with_interval(row.read)]
        if not all_read:
            cells.append(with_interval(row.over_all) if row.over_all else "")
        if report.reported:
            published = "" if row.reported is None else f"{row.reported:.1f}"
            cells += [published, points(row.difference)]
        table.add_row(*(Text(cell, style="" if number else "bold") for cell in cells))
    return table


def _legend(report: EvaluationReport) -> str:
    words = "In parentheses: 95 % intervals."
    if report.read != report.expected:
        words += " all: videos that could not be read count as wrong."
    if report.reported:
        source = f"published: {report.reported.source}; " if report.reported.source else ""
        words += f" {source}diff: in points, over the videos read."
    return words


def _print_failures(failures: Sequence[FailureRow], console: Console) -> None:
    for reason, group in by_reason(failures).items():
        print_text(console, f"failed, {reason}: {len(group):,}", "red")
        for failure in group[:FAILURES_SHOWN]:
            print_text(console, failure_in_words(failure), indent=2)
        if more := and_more(len(group) - FAILURES_SHOWN):
            print_text(console, more, "dim", indent=2)


def _print_worst_classes(head: HeadResult, console: Console, of_head: str) -> None:
    from rich.text import Text

    worst = [r for r in worst_first(head.per_class) if r.correct < r.n][:CLASSES_SHOWN]
    if not worst:
        return
    predicted = "most often predicted as"
    name = f"worst classes{of_head}"
    table = plain_table(name, "correct", "%", predicted, left=(name, predicted))
    for row in worst:
        other = "" if row.confused_with is None else head.classes[row.confused_with]
        accuracy = percent(row.correct / row.n)
        cells = (row.name, f"{row.correct}/{row.n}", accuracy, f"{other} ({row.confused})")
        table.add_row(*(Text(cell) for cell in cells))
    print_table(table, console)


def print_splits(splits: SplitMean, reported: ReportedMetrics | None, console: Console) -> None:
    """Print the top-1 of each split, their mean and their standard deviation."""
    from rich.text import Text

    table = plain_table("top-1, percent", "read", "all")
    for name, read, over_all in zip(
        splits.names, splits.read.values, splits.over_all.values, strict=True
    ):
        table.add_row(Text(f"split {name}"), percent(read), percent(over_all))
    means = (_format_mean(splits.read), _format_mean(splits.over_all))
    table.add_row(Text("mean", style="bold"), *(Text(cell, style="bold") for cell in means))
    print_table(table, console)
    if reported and reported.top1 is not None:
        difference = points(100 * splits.read.mean - reported.top1)
        source = f" ({reported.source})" if reported.source else ""
        text = f"published: {reported.top1:.1f}{source}, difference {difference}"
        print_text(console, text, "dim")


def _format_mean(values: MeanStd) -> str:
    std = "" if values.std is None else f" ± {percent(values.std)}"
    return percent(values.mean) + std


def print_comparison(found: Comparison, name_a: str, name_b: str, console: Console) -> None:
    """Print two runs side by side; fits 80 columns."""
    accuracy_a = (found.correct_both + found.correct_only_a) / found.n
    accuracy_b = (found.correct_both + found.correct_only_b) / found.n
    print_text(console, f"A  {percent(accuracy_a)} %  {name_a}")
    print_text(console, f"B  {percent(accuracy_b)} %  {name_b}")
    table = plain_table(f"of {plural(found.n, 'sample')}", "B correct", "B wrong")
    table.add_row("A correct", f"{found.correct_both:,}", f"{found.correct_only_a:,}")
    table.add_row("A wrong", f"{found.correct_only_b:,}", f"{found.correct_neither:,}")
    print_table(table, console)
    print_text(console, _verdict(found), "bold")
    for missing, run, other in (
        (found.missing_in_a, "B", "A"),
        (found.missing_in_b, "A", "B"),
    ):
        if missing:
            skipped = f"{plural(missing, 'sample')} of {run} skipped: not in {other}"
            print_text(console, skipped, "yellow")
    _print_changes("improved in B", found.improved, console)
    _print_changes("regressed in B", found.regressed, console)


def _verdict(found: Comparison) -> str:
    d = found.difference
    interval = f"{points(100 * d.low)} to {points(100 * d.high)}"
    p_value = "< 0.0001" if found.p_value < 1e-4 else f"= {found.p_value:.4f}"
    verdict = "significant" if found.p_value < SIGNIFICANCE_LEVEL else "not significant"
    return (
        f"B - A: {points(100 * d.value)} points ({interval}), exact McNemar test p {p_value}: "
        f"{verdict}"
    )


def _print_changes(title: str, changes: Sequence[ClassChange], console: Console) -> None:
    from rich.text import Text

    if not changes:
        return
    table = plain_table(f"{plural(len(changes), 'class', 'classes')} {title}", "n", "A", "B")
    for change in changes[:CLASSES_SHOWN]:
        counts = (change.n, change.correct_a, change.correct_b)
        table.add_row(Text(change.name), *(str(count) for count in counts))
    if more := and_more(len(changes) - CLASSES_SHOWN):
        table.add_row(Text(more, style="dim"))
    print_table(table, console)
