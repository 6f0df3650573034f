"""How `vt eval` prints its reports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, TypeAlias

from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED

if TYPE_CHECKING:
    from vtcli.evaluation.results import EvaluationReport

Format: TypeAlias = Literal["table", "json"]


def print_report(report: EvaluationReport, format: Format) -> None:
    """Print the report of one split."""
    from rich.console import Console

    from vtcli.evaluation.results import as_json
    from vtcli.report.evaluation import print_evaluation

    if format == "json":
        print(as_json(report.to_dict()))
    else:
        print_evaluation(report, Console())


def print_splits(
    splits: list[str | None], reports: list[EvaluationReport | None], format: Format
) -> None:
    """Print the mean over all splits; in JSON the report of each split as well."""
    from rich.console import Console

    from vtcli.evaluation.metrics import mean_over_splits
    from vtcli.evaluation.results import as_json
    from vtcli.report.evaluation import print_splits as print_mean

    found = {str(split): report for split, report in zip(splits, reports, strict=True) if report}
    mean = mean_over_splits([(split, report.headline) for split, report in found.items()])
    if format == "json":
        by_split = {split: report.to_dict() for split, report in found.items()}
        print(as_json({"splits": by_split, "mean": mean.to_dict()}))
    else:
        print_mean(mean, next(iter(found.values())).reported, Console())


def log(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def exit_code(report: EvaluationReport | None) -> int:
    """The exit code of an evaluation with this report."""
    assert report is not None
    if not report.failed:
        return EXIT_OK
    return EXIT_SOME_FAILED if report.read else EXIT_NO_INPUT
