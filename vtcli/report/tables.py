"""TODO-HEAD"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
from vtcli.evaluation.results import Estimate, percent


def with_interval(figure: Estimate | None) -> str:
    """A share and its interval in per cent; a dash where there is none."""
    if figure is None:
        return "–"
    return f"{percent(figure.value)} ({percent(figure.low)}–{percent(figure.high)})"


def points(difference: float | None) -> str:
    """A difference in points with its sign; nothing where there is none."""
    return "" if difference is None else f"{difference:+.1f}"


def plural(n: int, one: str, many: str = "") -> str:
    """The number with its thousands marked, and the word that goes with it."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _say(console: Console, words: str, style: str = "", indent: int = 0) -> None:
    """Print words as they are: brackets and colons in paths and labels mean nothing."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(words, style=style), (0, 0, 0, indent), expand=False))


def plain_table(*columns: str) -> Table:
    """The first column is a name, the others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    return table
