"""What all printed tables and reports share: the table style, and metrics and text as printed.

Console output goes through `print_text` or `rich.text.Text`, so that brackets and colons in paths
and labels are never read as markup.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from vtcli.evaluation.results import Estimate
from vtcli.runtime.words import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEASURE_WIDTH = 10_000
"""Characters; wide enough for any table to be measured without a line break."""


def with_interval(estimate: Estimate | None) -> str:
    """A fraction and its interval in percent; a dash for None."""
    if estimate is None:
        return "–"
    return f"{percent(estimate.value)} ({percent(estimate.low)}–{percent(estimate.high)})"


def points(difference: float | None) -> str:
    """A difference in percentage points with its sign; "" for None."""
    return "" if difference is None else f"{difference:+.1f}"


def print_text(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print text as it is, without markup; `indent` in characters applies to every line."""
    from rich.padding import Padding
    from rich.text import Text

    line = Text(text, style=style)
    console.print(Padding(line, (0, 0, 0, indent), expand=False) if indent else line)


def plain_table(
    *columns: str,
    left: Collection[str] | None = None,
    wraps: Literal["names", "numbers", "nothing"] = "names",
) -> Table:
    """An empty table with one rule below its header.

    left: the left-aligned columns, by default the first one; the others are right-aligned numbers.
    wraps: the columns that may break a line where the console is narrow: the left-aligned ones, the
        others, or none.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        is_left = number == 0 if left is None else name in left
        may_wrap = wraps == ("names" if is_left else "numbers")
        table.add_column(name, justify="left" if is_left else "right", no_wrap=not may_wrap)
    return table


def full_width(table: Table) -> int:
    """Characters that the table needs to show every cell on one line."""
    from rich.console import Console

    return Console(width=MEASURE_WIDTH).measure(table).maximum


def print_uncut(table: Table) -> None:
    """Print on standard output with every cell on one line, whatever the terminal's width."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, full_width(table))
    console.print(table)
