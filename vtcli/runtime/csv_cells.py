"""CSV for people who open it in a spreadsheet: cells that a spreadsheet would run as a formula.

With `--csv-safe`, text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an
apostrophe in front (OWASP, CSV injection); numbers stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TextIO

CSV_SAFE: ContextVar[bool] = ContextVar("csv_safe", default=False)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A value as it may be written to a CSV file under the setting `CSV_SAFE`."""
    if not CSV_SAFE.get() or not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


class SafeDictWriter(csv.DictWriter):
    """`csv.DictWriter` that obeys `CSV_SAFE`."""

    def writerow(self, rowdict: Mapping[str, Any]) -> Any:
        return super().writerow({name: safe_cell(value) for name, value in rowdict.items()})

    def writerows(self, rowdicts: Iterable[Mapping[str, Any]]) -> None:
        for row in rowdicts:
            self.writerow(row)


def write_csv(
    file: TextIO,
    rows: Iterable[Sequence[Any]],
    line_end: str = "\r\n",
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL,
) -> None:
    """Write rows, the header among them, to a text file; obeys `CSV_SAFE`."""
    writer = csv.writer(file, lineterminator=line_end, quoting=quoting)
    writer.writerows([safe_cell(value) for value in row] for row in rows)
