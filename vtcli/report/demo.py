"""The tables of `vt demo` that no other command prints, and the headings of its steps.

The other steps print through the reports of their own commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.report.tables import plain_table, print_table, with_interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from vtcli.evaluation.results import EvaluationReport


def print_step(console: Console, title: str, command: str) -> None:
    """A step's title, and the command that does the same."""
    from rich.text import Text

    console.print(Text(title, style="bold"))
    console.print(Text(f"$ {command}", style="dim"), soft_wrap=True)


def print_seen(console: Console, clips: Sequence[Mapping[str, Any]]) -> None:
    """A row per clip, a column per model: its confidence, and its prediction where it is wrong."""
    models = list(clips[0]["predictions"]) if clips else []
    table = plain_table("target", *(model.split("-")[0] for model in models))
    for column in table.columns[1:]:  # a long wrong prediction is folded, never cut
        column.no_wrap, column.overflow = False, "fold"
    for clip in clips:
        table.add_row(clip["target"], *map(_prediction, clip["predictions"].values()))
    print_table(table, console)


def _prediction(prediction: Mapping[str, Any]) -> Text:
    from rich.text import Text

    confidence = f"{100 * prediction['score']:.0f}%"
    if prediction["correct"]:
        return Text(f"✓ {confidence}", style="green")
    return Text(f"✗ {prediction['label']}, {confidence}", style="red")


def print_costs(console: Console, profiles: Sequence[Mapping[str, Any]]) -> None:
    """A row per model: parameters, multiply-accumulates and latency of a clip."""
    table = plain_table("model", "parameters", "MMACs per clip", "ms per clip")
    for profile in profiles:
        macs = profile["macs_paper"]["per_view"]
        times = [1e3 * timing["latency_median"] for timing in profile["timings"]]
        table.add_row(
            profile["id"],
            f"{profile['params']:,}",
            f"{macs / 1e6:.1f}",
            f"{times[0]:.1f}" if times else "–",
        )
    print_table(table, console)


def print_accuracies(console: Console, reports: Sequence[EvaluationReport], pages: str) -> None:
    """A row per model: top-1 accuracy with its interval; then where the reports are."""
    table = plain_table("model", "top-1 accuracy in percent (95% interval)")
    for report in reports:
        table.add_row(report.model, with_interval(report.headline.top1_read))
    print_table(table, console)
    text = f"reports with every class and the most confident misclassifications: {pages}\n"
    console.print(text, soft_wrap=True, markup=False)
