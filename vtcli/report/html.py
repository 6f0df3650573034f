"""An evaluation as one self-contained HTML file: no network, no fonts, no server.

This file prepares what the Jinja templates in `templates/` show (see `pages.py`). Numbers and
tables are readable without scripts; `page.js` adds sorting, the filter and the large confusion
matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtcli.evaluation.results import (
    EvaluationReport,
    FailureRow,
    HeadlineRow,
    HeadResult,
    Misclassification,
    PerClassResult,
)
from vtcli.report.confidence import confidence_section
from vtcli.report.evaluation import (
    by_reason,
    counts_in_words,
    failure_in_words,
    speed_in_words,
    worst_first,
)
from vtcli.report.multi_label import multi_label_section
from vtcli.report.pages import render_page, strip_frames, write_page
from vtcli.report.tables import points
from vtcli.runtime.words import and_more, percent, plural

MAX_LABELED_CLASSES = 24
"""Up to this many classes a confusion matrix is a table with names and counts."""
PAIRS_SHOWN = 15
FAILURES_SHOWN = 200
OPEN_UP_TO = 5
"""A reason with at most this many failures is shown unfolded."""
HISTOGRAM_BINS = 10
HISTOGRAM_BIN_WIDTH, HISTOGRAM_HEIGHT = 46, 56
AXIS_WIDTH = 200


def write_html(report: EvaluationReport, path: Path) -> None:
    """Write the page; the file appears under its name only once it is complete.

    Raises `DataError` where it cannot be written.
    """
    write_page(render_html(report), path)


def render_html(report: EvaluationReport) -> str:
    """The page as text."""
    return render_page(
        "report.html.j2",
        script="page.js",
        title=report.title,
        protocol=report.protocol,
        differs=report.differs,
        warnings=report.warnings,
        sections=list(_sections(report)),
    )


def _sections(report: EvaluationReport) -> Iterator[dict[str, Any]]:
    """Each section's anchor, title, kind (the name of its template) and data."""
    yield _section("accuracy", "Accuracy", _accuracy(report))
    yield _section("videos", "Videos", _videos(report))
    for number, head in enumerate(report.heads):
        if head.n_read:
            of_head = f" of {head.name}" if len(report.heads) > 1 else ""
            if head.multi_label:
                found = multi_label_section(head.multi_label)
                yield _section("multi_label", f"Classes by themselves{of_head}", found, number)
                continue
            if head.confidence:
                data = confidence_section(head, head.confidence)
                yield _section("confidence", f"Confidence{of_head}", data, number)
            yield _section("confusion", f"Confusion matrix{of_head}", _confusion(head), number)
            yield _section("classes", f"Classes{of_head}", _classes(head, number), number)
    if report.misclassifications:
        rows = [_misclassification(mistake) for mistake in report.misclassifications]
        yield _section("misclassifications", "Most confident misclassifications", rows)
    yield _section("settings", "Settings", _settings(report))


def _section(kind: str, title: str, data: object, number: int | None = None) -> dict[str, Any]:
    anchor = kind if number is None else f"{kind}-{number}"
    return {"anchor": anchor, "title": title, "kind": kind, "data": data}


# --- accuracy -----------------------------------------------------------------------------------


def _accuracy(report: EvaluationReport) -> dict[str, Any]:
    """The headline metric, and all metrics on one axis of percent.

    Columns that would be empty, or repeat another, are left out by the template.
    """
    rows = report.headline_rows
    all_read = report.read == report.expected
    low, high = _axis_range(rows)
    source = f": {report.reported.source}" if report.reported and report.reported.source else ""
    return {
        "hero": _hero(report),
        "measured": "this run" if all_read else "over videos read",
        "all_read": all_read,
        "has_published": any(row.reported is not None for row in rows),
        "published_key": f"published{source}; the difference is in points, over videos read",
        "low": low,
        "high": high,
        "width": AXIS_WIDTH,
        "rows": [
            {
                "label": row.label,
                "read": row.read,
                "over_all": row.over_all,
                "published": "" if row.reported is None else f"{row.reported:.1f}",
                "difference": points(row.difference),
                "marks": _marks(row, low, high),
            }
            for row in rows
        ],
    }


def _hero(report: EvaluationReport) -> dict[str, Any] | None:
    """The first metric in large type with its notes; None where no video was read."""
    first = report.headline_rows[0]
    if first.read is None:
        return None
    notes = [f"{percent(first.read.low)} to {percent(first.read.high)}"]
    if first.over_all and report.read != report.expected:
        notes[0] += ", over videos read"
        notes.append(f"{percent(first.over_all.value)}% over all expected")
    if first.reported is not None:
        notes.append(f"published: {first.reported:.1f}% ({points(first.difference)})")
    return {"label": first.label, "value": first.read.value, "notes": notes}


def _axis_range(rows: Sequence[HeadlineRow]) -> tuple[int, int]:
    """The multiples of ten percent that enclose all metrics and their intervals."""
    values = [row.reported for row in rows if row.reported is not None]
    for estimate in (e for row in rows for e in (row.read, row.over_all) if e is not None):
        values += [100 * estimate.low, 100 * estimate.high]
    low = math.floor(min(values, default=0) / 10) * 10
    high = math.ceil(max(values, default=100) / 10) * 10
    return low, max(high, low + 10)


def _marks(row: HeadlineRow, low: int, high: int) -> dict[str, float | None]:
    """Where a metric's marks are on the axis; None for those it does not have."""

    def x(value: float) -> float:
        return round(AXIS_WIDTH * (value - low) / (high - low), 2)

    read, other = row.read, row.over_all if row.over_all != row.read else None
    return {
        "published": None if row.reported is None else x(row.reported),
        "over_all": None if other is None else x(100 * other.value),
        "low": None if read is None else x(100 * read.low),
        "high": None if read is None else x(100 * read.high),
        "read": None if read is None else x(100 * read.value),
    }


# --- videos -------------------------------------------------------------------------------------


def _videos(report: EvaluationReport) -> dict[str, Any]:
    parts = (("read", report.read), ("failed", report.failed))
    whole = max(1, report.expected)
    return {
        "counts": counts_in_words(report),
        "speed": speed_in_words(report),
        "parts": [{"kind": kind, "percent": 100 * n / whole} for kind, n in parts if n],
        "failures": [
            _failure_group(reason, group) for reason, group in by_reason(report.failures).items()
        ],
    }


def _failure_group(reason: str, group: Sequence[FailureRow]) -> dict[str, Any]:
    return {
        "title": f"{reason}: {plural(len(group), 'video')}",
        "open": len(group) <= OPEN_UP_TO,
        "shown": [failure_in_words(failure) for failure in group[:FAILURES_SHOWN]],
        "more": and_more(len(group) - FAILURES_SHOWN),
    }


# --- confusion ----------------------------------------------------------------------------------


def _confusion(head: HeadResult) -> dict[str, Any]:
    """The rows of a small matrix, or the data that page.js draws a large one from."""
    pairs = _most_confused(head)
    few = len(head.classes) <= MAX_LABELED_CLASSES
    return {
        "pairs": [
            {
                "target": head.classes[target],
                "prediction": head.classes[prediction],
                "cell": f"{target} {prediction}",
                "count": count,
                "n": head.per_class[target].n,
            }
            for target, prediction, count in pairs
        ],
        "rows": [_matrix_row(row, head) for row in head.per_class] if few else [],
        "classes": () if few else head.classes,
        "matrix": None if few else _matrix_data(head, pairs[0][:2] if pairs else (0, 0)),
    }


def _matrix_row(row: PerClassResult, head: HeadResult) -> dict[str, Any]:
    """Counts of one target; the strength of a cell's color grows with its fraction of the row."""
    cells = [
        {
            "count": int(count),
            "correct": column == row.index,
            "strength": 0.7 * math.sqrt(count / row.n) if count else 0.0,
        }
        for column, count in enumerate(head.confusion[row.index])
    ]
    return {"name": row.name, "cells": cells}


def _most_confused(head: HeadResult) -> list[tuple[int, int, int]]:
    """(target, prediction, count) of the most frequent wrong predictions."""
    wrong = head.confusion.copy()
    wrong[range(len(wrong)), range(len(wrong))] = 0
    order = (-wrong).ravel().argsort(kind="stable")[:PAIRS_SHOWN]
    pairs = [(*divmod(int(cell), len(wrong)), int(wrong.flat[cell])) for cell in order]
    return [pair for pair in pairs if pair[2]]


def _matrix_data(head: HeadResult, start: tuple[int, int]) -> dict[str, Any]:
    """JSON-able: class names, samples per class, the matrix's non-zero cells, the first cell."""
    rows, columns = head.confusion.nonzero()
    counts = head.confusion[rows, columns]
    return {
        "classes": head.classes,
        "n": [row.n for row in head.per_class],
        "cells": [[int(v) for v in cell] for cell in zip(rows, columns, counts, strict=True)],
        "start": start,
    }


# --- classes ------------------------------------------------------------------------------------


def _classes(head: HeadResult, number: int) -> dict[str, Any]:
    """Lowest accuracy first; classes without samples come last."""
    with_samples = worst_first(head.per_class)
    rows = [*with_samples, *(row for row in head.per_class if not row.n)]
    return {
        "number": number,
        "count": plural(len(head.classes), "class", "classes"),
        "histogram": _histogram(with_samples),
        "rows": [_class_row(row, head) for row in rows],
    }


def _class_row(row: PerClassResult, head: HeadResult) -> dict[str, Any]:
    other = row.confused_with
    return {
        "name": row.name,
        "n": row.n,
        "accuracy": row.accuracy,
        "counts": f"{row.correct} of {row.n}" if row.n else "0",
        "other": None if other is None else head.classes[other],
        "confused": row.confused,
    }


def _histogram(rows: Sequence[PerClassResult]) -> dict[str, Any]:
    """How many classes have which accuracy, in bins of ten percent; the last one includes 100."""
    counts = [0] * HISTOGRAM_BINS
    for row in rows:
        counts[min(HISTOGRAM_BINS - 1, HISTOGRAM_BINS * row.correct // row.n)] += 1
    tallest = max(counts, default=0) or 1
    columns: list[Mapping[str, Any]] = [
        {
            "count": count,
            "x": index * HISTOGRAM_BIN_WIDTH,
            "middle": index * HISTOGRAM_BIN_WIDTH + HISTOGRAM_BIN_WIDTH / 2 - 2,
            "width": HISTOGRAM_BIN_WIDTH - 4,
            "height": HISTOGRAM_HEIGHT * count / tallest,
            "range": f"{index * 10}–{index * 10 + 10}",
        }
        for index, count in enumerate(counts)
    ]
    return {
        "width": HISTOGRAM_BINS * HISTOGRAM_BIN_WIDTH,
        "columns": columns,
        "description": "Number of classes by accuracy in bins of ten percent, lowest first: "
        + ", ".join(map(str, counts)),
    }


# --- misclassifications and settings ------------------------------------------------------------


def _misclassification(mistake: Misclassification) -> dict[str, Any]:
    return {
        "target": mistake.target,
        "target_score": mistake.target_score,
        "prediction": mistake.predicted,
        "score": mistake.score,
        "path": mistake.path,
        "frames": strip_frames(mistake.frames, mistake.times),
    }


def _settings(report: EvaluationReport) -> list[tuple[str, str]]:
    named = {"model": report.model, "dataset": report.dataset, "split": report.split}
    return [(name, value) for name, value in {**named, **report.settings}.items() if value]
