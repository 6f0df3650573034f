"""What `vt demo` shows of its steps, beside the tables of the commands themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.report.evaluation import with_interval

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from vtcli.report.evaluation import EvaluationReport


def print_step(console: Console, title: str, command: str) -> None:
    """A step's name, and the command that does the same."""
    from rich.text import Text

    console.print(Text(title, style="bold"))
    console.print(Text(f"$ {command}", style="dim"), soft_wrap=True)


def print_seen(console: Console, clips: Sequence[Mapping[str, Any]]) -> None:
    """A row per clip, a column per model: its best class, its probability, and whether it is
    right.
    """
    from rich.text import Text

    models = list(clips[0]["answers"]) if clips else []
    table = _table("shown", *(model.split("-")[0] for model in models))
    for clip in clips:
        cells = [Text(clip["truth"])]
        for answer in clip["answers"].values():
            mark, style = ("✓", "green") if answer["right"] else ("✗", "red")
            cells.append(
                Text(f"{mark} {answer['label']} {100 * answer['score']:.0f} %", style=style)
            )
        table.add_row(*cells)
    console.print(table)


def print_costs(console: Console, profiles: Sequence[Mapping[str, Any]]) -> None:
    """A row per model: its size, its multiply-accumulates, its time."""
    table = _table("model", "parameters", "MMACs per clip", "ms per clip")
    for profile in profiles:
        macs = profile["published_form"]["macs_per_view"]
        times = [1e3 * timing["median"] for timing in profile["timings"]]
        table.add_row(
            profile["id"],
            f"{profile['params']:,}",
            f"{macs / 1e6:.1f}",
            f"{times[0]:.1f}" if times else "–",
        )
    console.print(table)


def print_accuracies(console: Console, reports: Sequence[tuple[EvaluationReport, Path]]) -> None:
    """A row per model: top-1 with its interval, and where its page lies."""
    table = _table("model", "top-1, 95 % interval")
    table.add_column("report", overflow="fold")
    for report, page in reports:
        table.add_row(report.model, with_interval(report.headline.top1_read), str(page))
    console.print(table)


def _table(*columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table
