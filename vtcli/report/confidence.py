"""Macro F1 and the confidence metrics of each head: a table for the terminal, plots for the page.

Coordinates of a plot are SVG units from the top left corner of a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtcli.evaluation.results import Confidence, HeadResult
from vtcli.report.tables import plain_table
from vtcli.runtime.words import percent

if TYPE_CHECKING:
    from rich.table import Table

    from vtcli.evaluation.stopping import StopFit

PLOT_SIZE = 200
COLUMNS = ("macro F1", "NLL", "Brier", "ECE", "AUROC", "AURC")
LEGEND = (
    "macro F1 in percent. ECE: expected calibration error, 15 equal-width bins. AUROC: of the "
    "confidence for being correct. AURC: area under the risk-coverage curve."
)


def cells(head: HeadResult) -> list[str]:
    """The metrics in COLUMNS as text; a dash for one that is not defined."""
    metrics = head.confidence
    values = [metrics and getattr(metrics, n) for n in ("nll", "brier", "ece", "auroc", "aurc")]
    f1 = "–" if head.macro_f1 is None else percent(head.macro_f1)
    return [f1, *("–" if value is None else f"{value:.3f}" for value in values)]


def confidence_table(heads: Sequence[HeadResult]) -> Table:
    """One row per head; the heads are named if there are several."""
    from rich.text import Text

    several = len(heads) > 1
    table = plain_table(*(["head"] if several else []), *COLUMNS, left=("head",))
    for head in heads:
        row = [*([head.name] if several else []), *cells(head)]
        table.add_row(*(Text(cell) for cell in row))
    return table


def calibration_table(rows: Sequence[tuple[str, float, Confidence, Confidence]]) -> Table:
    """(head, temperature, metrics before, metrics after) of each head."""
    from rich.text import Text

    table = plain_table("head", "temperature", "ECE before", "after", "NLL before", "after")
    for head, temperature, before, after in rows:
        values = (temperature, before.ece, after.ece, before.nll, after.nll)
        table.add_row(Text(head), *("–" if v is None else f"{v:.3f}" for v in values))
    return table


def stopping_table(fit: StopFit) -> Table:
    """What `--views auto` does to the videos that it was learned on."""
    table = plain_table("--views", "views per video", "of", "same first class")
    agreement = f"{100 * fit.agreement:.2f} %"
    table.add_row("auto", f"{fit.mean_views:.2f}", str(fit.total), agreement)
    return table


def confidence_section(head: HeadResult, confidence: Confidence) -> dict[str, Any]:
    """What the template shows: the metrics, the reliability plot, the risk-coverage curve."""
    return {
        "size": PLOT_SIZE,
        "names": COLUMNS,
        "values": cells(head),
        "legend": LEGEND,
        "bars": [
            {
                "x": f"{b.low * PLOT_SIZE:.1f}",
                "width": f"{(b.high - b.low) * PLOT_SIZE - 1:.1f}",
                "y": f"{(1 - b.accuracy) * PLOT_SIZE:.1f}",
                "height": f"{b.accuracy * PLOT_SIZE:.1f}",
                "text": f"confidence {percent(b.low)} to {percent(b.high)}: "
                f"mean {percent(b.confidence)}, accuracy {percent(b.accuracy)}, {b.n:,} videos",
            }
            for b in confidence.reliability
            if b.accuracy is not None and b.confidence is not None
        ],
        "curve": " ".join(
            f"{coverage * PLOT_SIZE:.1f},{(1 - risk) * PLOT_SIZE:.1f}"
            for coverage, risk in confidence.risk_coverage
        ),
        "risk": percent(confidence.risk_coverage[-1][1]),
    }
