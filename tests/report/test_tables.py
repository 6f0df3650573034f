"""A table shows every figure whole at any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vtcli.report.tables import figure, plain_table, print_table, print_whole, wrapped

TITLES = ("model", "M params", "GMACs/view", "peak memory", "note")
ROWS = [
    ("videoswin-b", "88.1", "282.0", "1024 MiB", "a"),
    ("x[red]-nano", "0.318", "0.0299", "26 MiB", ""),
]


def printed(width: int, terminal: bool, rows: list[tuple[str, ...]] = ROWS) -> list[str]:
    table = plain_table(*TITLES, wraps="nothing")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_whole(table, console)
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [24, 30, 40, 50, 80, 120])
@pytest.mark.parametrize("count", [2, 20])
def test_no_cell_is_cut_and_no_line_is_too_long(width: int, count: int) -> None:
    lines = printed(width, terminal=True, rows=ROWS * (count // 2))
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in ROWS:
        for cell in filter(None, row[1:4]):
            assert text.count(cell) >= count // 2
    assert "…" not in text


def test_columns_become_rows_before_rows_become_records() -> None:
    assert printed(80, terminal=True)[2].split() == [
        "videoswin-b",
        *ROWS[0][1:3],
        "1024",
        "MiB",
        "a",
    ]
    turned = printed(40, terminal=True)
    assert turned[0].split() == ["model", "videoswin-b", "x[red]-nano"]
    assert turned[2].split() == ["M", "params", "88.1", "0.318"]
    record = printed(30, terminal=True)
    assert record[:3] == [
        "videoswin-b",
        "  M params 88.1",
        "  GMACs/view 282.0",
    ]


def test_a_pipe_has_the_whole_table_on_one_line_per_row() -> None:
    lines = printed(30, terminal=False)
    assert len(lines) == 4
    assert lines[2].split() == ["videoswin-b", "88.1", "282.0", "1024", "MiB", "a"]


@pytest.mark.parametrize(
    ("value", "shown"), [(282.04, "282.0"), (1.0, "1.0"), (0.0351, "0.0351"), (0, "0.0")]
)
def test_small_figures_keep_their_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize("width", [30, 50, 80])
def test_names_break_between_words_and_nothing_is_cut(width: int) -> None:
    table = plain_table("class", "top-1 in percent (interval)", "predicted as", left=("class",))
    table.add_row("counter-clockwise", "99.0 (94.3–99.8)", "a very long name of many words")
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    print_table(table, console)
    text = stream.getvalue()
    assert "…" not in text
    for part in ("counter-clockwise", "99.0 (94.3–99.8)", "many"):
        assert part in text


def test_a_fact_is_wrapped_between_words_on_a_terminal_only() -> None:
    address = "https://example.org/" + "x" * 40
    terminal = Console(file=io.StringIO(), width=40, force_terminal=True)
    lines = wrapped(terminal, f"the official file of the paper {address}", 10).split("\n")
    assert lines == ["the official file of the paper", " " * 10 + address]
    pipe = Console(file=io.StringIO(), width=40)
    assert wrapped(pipe, f"one two {address}", 10) == f"one two {address}"
