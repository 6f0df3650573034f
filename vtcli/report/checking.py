"""The result of a dataset check (`vt datasets check`) as text, JSON or CSV.

Text lists the first samples of every problem; JSON and CSV list all.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from vtcli.data.issues import PROBLEMS, CheckResult, Issue, Problem
from vtcli.runtime.csv_cells import SafeDictWriter
from vtcli.runtime.words import and_more, plural

COLUMNS = ("problem", "split", "id", "path", "detail", "other")
SHOWN = 20


def print_check(result: CheckResult, format: str) -> None:
    """Print as `table`, `json` or `csv` on standard output."""
    if format == "json":
        print(json.dumps(_table(result), indent=2, ensure_ascii=False))
    elif format == "csv":
        writer = SafeDictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_line, result.issues))
    else:
        _print_issues(result)


def _table(result: CheckResult) -> dict[str, Any]:
    """JSON-able."""
    return {
        "dataset": result.datasets[0].name,
        "splits": [dataset.split for dataset in result.datasets],
        "summary": [dataset.summary for dataset in result.datasets],
        "samples": sum(len(dataset.samples) for dataset in result.datasets),
        "videos": result.videos,
        "readable": len(result.fingerprints),
        "frames": sum(video.frames for video in result.fingerprints.values()),
        "problems": _counted(result),
        "issues": [_line(issue) for issue in result.issues],
    }


def _counted(result: CheckResult) -> dict[Problem, int]:
    counts = Counter(issue.problem for issue in result.issues)
    return {problem: counts[problem] for problem in PROBLEMS if counts[problem]}


def _line(issue: Issue) -> dict[str, str]:
    sample = issue.sample
    other = issue.other.id if issue.other else ""
    values = (issue.problem, sample.split, sample.id, str(sample.path), issue.detail, other)
    return dict(zip(COLUMNS, values, strict=True))


def _print_issues(result: CheckResult) -> None:
    """The datasets, each problem with its first samples, and the totals."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for dataset in result.datasets:
        console.print(Text(dataset.summary, style="dim"))
    for problem, count in _counted(result).items():
        console.print(Text(f"{problem}: {PROBLEMS[problem]} ({count:,})", style="bold red"))
        found = [issue for issue in result.issues if issue.problem == problem]
        for issue in found[:SHOWN]:
            console.print(f"  {issue.sample.path}: {issue.detail}")
        if more := and_more(count - SHOWN):
            console.print(f"  ... {more}; --format csv lists all")
    samples = plural(sum(len(dataset.samples) for dataset in result.datasets), "sample")
    frames = plural(sum(video.frames for video in result.fingerprints.values()), "frame")
    console.print(
        f"{samples} of {plural(result.videos, 'video')}: {len(result.fingerprints):,} can be "
        f"decoded to the end ({frames}), {plural(len(result.issues), 'sample')} with a problem"
    )
