"""What all printed tables and reports share: the table style, and metrics and text as printed.

Console output goes through `print_text` or `rich.text.Text`, so that brackets and colons in paths
and labels are never read as markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from vtcli.runtime.words import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vtcli.evaluation.results import Estimate

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


def wrapped(console: Console, text: str, indent: int) -> str:
    """Text on lines that fit a terminal, whose second line begins after `indent` spaces.

    A word that is longer, such as an address, stays whole, and so does text in a pipe.
    """
    if not console.is_terminal:
        return text
    width = max(console.width - indent, 20)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


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


def _least_width(table: Table) -> int:
    """Characters that the table needs where columns that may wrap break between words."""
    saved = 0
    for column, cells in zip(table.columns, _cells(table), strict=True):
        if not column.no_wrap:
            words = (len(word) for cell in cells for word in cell.plain.split())
            saved += max(cell.cell_len for cell in cells) - max(words, default=0)
    return full_width(table) - saved


def print_whole(table: Table, console: Console | None = None) -> None:
    """Print every cell whole, by default on standard output.

    Where a terminal is too narrow for the table, columns become rows; where it is too narrow for
    that as well, every row becomes a record: its first cell, and below it the others, each behind
    its title. In a pipe or a file a table is as wide as it needs.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    needed = full_width(table)
    if not console.is_terminal:
        console.width = max(console.width, needed)
    if needed <= console.width:
        console.print(table)
    elif full_width(turned := _transposed(table)) <= console.width:
        console.print(turned)
    else:
        for record in _records(table, console.width):
            console.print(record)


def print_table(table: Table, console: Console) -> None:
    """Print a table whose names may break over lines; `print_whole` where that is not enough."""
    if _least_width(table) <= console.width:
        console.print(table)
    else:
        print_whole(table, console)


def print_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Collection[str] | None = None,
    console: Console | None = None,
) -> None:
    """`print_whole` of a table of plain texts; `left` as in `plain_table`."""
    from rich.text import Text

    table = plain_table(*columns, left=left, wraps="nothing")
    for row in rows:
        table.add_row(*map(Text, row))
    print_whole(table, console)


def _cells(table: Table) -> list[list[Text]]:
    """The cells of each column, its title first."""
    from rich.text import Text

    columns = ([column.header, *column.cells] for column in table.columns)
    return [[c if isinstance(c, Text) else Text(str(c)) for c in column] for column in columns]


def _transposed(table: Table) -> Table:
    first, *others = _cells(table)
    turned = plain_table(*(cell.plain for cell in first), wraps="nothing")
    for cells in others:
        if any(cell.plain for cell in cells[1:]):
            turned.add_row(*cells)
    return turned


def _records(table: Table, width: int) -> Iterator[Text]:
    from rich.text import Text

    for name, *cells in list(zip(*_cells(table), strict=True))[1:]:
        heading = name.copy()
        heading.stylize("bold")
        yield heading
        line = Text()
        for column, cell in zip(table.columns[1:], cells, strict=True):
            if not cell.plain:
                continue
            pair = Text.assemble("  ", (f"{column.header} ", "dim"), cell)
            if line and len(line) + len(pair) > width:
                yield line
                line = Text()
            line.append_text(pair)
        yield line


def figure(value: float, digits: int = 1) -> str:
    """A number with `digits` decimals; below 1 with three significant digits instead."""
    return f"{value:.{digits}f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
