"""An evaluation as one HTML file that needs nothing else: no network, no fonts, no server."""

from __future__ import annotations

from pathlib import Path

from vtcli.report.evaluation import EvaluationReport


def write_html(report: EvaluationReport, path: Path) -> None:
    """Write the page; it appears under its name only when whole.

    Raises `DataError` where it cannot be written.
    """
    raise NotImplementedError
