"""What an evaluation found, for people and for programs: the results as data, tables, JSON.

Accuracies are shares in 0..1 here and per cent only where they are printed; figures that a paper
published are per cent, as the paper prints them. An interval holds 95 %.
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
    Published,
    SplitMean,
    percent,
)
from vtcli.report.tables import plain_table, points, with_interval
from vtcli.report.tables import print_text as _say
from vtcli.runtime.words import plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAILURES_NAMED = 3
CLASSES_NAMED = 5


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


def worst_first(rows: Iterable[PerClassResult]) -> list[PerClassResult]:
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


def _spread_in_words(spread: MeanStd) -> str:
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
    _print_changes("won by B", found.improved, console)
    _print_changes("lost by B", found.regressed, console)


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
