"""Metrics of classes that do not exclude each other: tables for the terminal, data for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtcli.evaluation.multi_label import ClassScore, MultiLabelResult
from vtcli.report.tables import plain_table
from vtcli.runtime.words import percent

if TYPE_CHECKING:
    from rich.table import Table

CLASSES_SHOWN = 20


def summary(result: MultiLabelResult) -> str:
    """The metrics over all classes as one line, in percent."""
    return (
        f"mAP {_percent(result.mean_ap)}, micro F1 {percent(result.micro_f1)}, macro F1 "
        f"{_percent(result.macro_f1)} at a threshold of {result.threshold:.3f}"
    )


def class_table(result: MultiLabelResult) -> Table:
    """The classes with the lowest average precision, in percent."""
    from rich.text import Text

    table = plain_table("class", "videos", "AP", "F1")
    for row in lowest_first(result)[:CLASSES_SHOWN]:
        cells = (row.name, f"{row.n:,}", _percent(row.ap), percent(row.f1))
        table.add_row(*map(Text, cells))
    return table


def multi_label_section(result: MultiLabelResult) -> dict[str, Any]:
    """What the template shows."""
    return {"summary": summary(result), "rows": lowest_first(result)}


def lowest_first(result: MultiLabelResult) -> list[ClassScore]:
    """The classes by average precision; those without videos come last."""
    return sorted(result.per_class, key=lambda row: 2.0 if row.ap is None else row.ap)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
