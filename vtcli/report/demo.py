"""What `vt demo` shows of its steps, beside the tables of the commands themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.report.tables import plain_table, with_interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from vtcli.evaluation.results import EvaluationReport


def print_step(console: Console, title: str, command: str) -> None:
    """A step's name, and the command that does the same."""
    from rich.text import Text

    console.print(Text(title, style="bold"))
    console.print(Text(f"$ {command}", style="dim"), soft_wrap=True)


def print_seen(console: Console, clips: Sequence[Mapping[str, Any]]) -> None:
    """A row per clip, a column per model: how sure it is, and of what where it is wrong."""
    models = list(clips[0]["answers"]) if clips else []
    table = plain_table("shown", *(model.split("-")[0] for model in models))
    for column in table.columns[1:]:  # a long wrong answer is folded, never cut
        column.no_wrap, column.overflow = False, "fold"
    for clip in clips:
        table.add_row(clip["target"], *map(_answer, clip["answers"].values()))
    console.print(table)


def _answer(answer: Mapping[str, Any]) -> Text:
    from rich.text import Text

    sure = f"{100 * answer['score']:.0f} %"
    if answer["right"]:
        return Text(f"✓ {sure}", style="green")
    return Text(f"✗ {answer['label']}, {sure}", style="red")


def print_costs(console: Console, profiles: Sequence[Mapping[str, Any]]) -> None:
    """A row per model: its size, its multiply-accumulates, its time."""
    table = plain_table("model", "parameters", "MMACs per clip", "ms per clip")
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


def print_accuracies(console: Console, reports: Sequence[EvaluationReport], pages: str) -> None:
    """A row per model: top-1 with its interval; and where the pages lie."""
    table = plain_table("model", "top-1, 95 % interval")
    for report in reports:
        table.add_row(report.model, with_interval(report.headline.top1_read))
    console.print(table)
    console.print(f"pages with every class and the worst mistakes: {pages}\n", soft_wrap=True)
