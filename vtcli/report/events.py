"""The report of an evaluation of events, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtcli.report.tables import plain_table, print_table, print_text
from vtcli.runtime.words import percent, plural

if TYPE_CHECKING:
    from rich.console import Console

    from vtcli.evaluation.event_fit import EventFit
    from vtcli.evaluation.events import EventReport

_CLASS_THRESHOLD = 0.5


def print_events(report: EventReport, console: Console) -> None:
    """The metrics by tIoU in percent, those of each class at 0.5, and the rule."""
    from rich.text import Text

    metrics = report.metrics
    table = plain_table("tIoU", "mAP", "F1", "precision", "recall")
    for threshold in metrics.map:
        values = (metrics.map, metrics.f1, metrics.precision, metrics.recall)
        table.add_row(f"{threshold:g}", *(Text(percent(value[threshold])) for value in values))
    print_table(table, console)
    classes = plain_table("class", "events", "predicted", "AP", "F1", left=("class",))
    for one in metrics.classes:
        scores = (one.ap[_CLASS_THRESHOLD], one.f1[_CLASS_THRESHOLD])
        cells = ("–" if score is None else percent(score) for score in scores)
        classes.add_row(Text(one.label), str(one.labeled), str(one.predicted), *map(Text, cells))
    print_text(console, f"\nat tIoU {_CLASS_THRESHOLD:g}", "dim")
    print_table(classes, console)
    mean = sum(metrics.map.values()) / len(metrics.map)
    rule = rule_text(report.settings["rule"])
    false = f"\n{plural(report.false, 'false event')} in {report.background:.1f} min of background"
    if report.false_per_minute is not None:
        false += f", {report.false_per_minute:.2f} per minute"
    print_text(console, false, "dim")
    text = (
        f"{report.settings['model']} · mean mAP {percent(mean)}% · "
        f"{plural(report.videos, 'video')}, {report.minutes:.1f} min · {rule}"
    )
    print_text(console, text, "dim")


def rule_text(rule: Mapping[str, Any]) -> str:
    """A rule in the form of --event-rule, with what only a calibration sets."""
    words = [
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in rule.items()
        if name not in ("classes", "activity", "overlap") and value is not None
    ]
    words += [f"on({label})={value:.3g}" for label, value in rule.get("classes", {}).items()]
    words += ["scores times the probability that anything happens"] * ("activity" in rule)
    return ", ".join(words)


def print_fit(fit: EventFit, console: Console) -> None:
    """F1 and false events of a model before and after the calibration, and the rule."""
    from rich.text import Text

    table = plain_table("events", "F1 at 0.5", "mean mAP", "false/min", left=("events",))
    for name, judged in (("before", fit.before), ("calibrated", fit.now)):
        mean = sum(judged.metrics.map.values()) / len(judged.metrics.map)
        rate = "–" if judged.false_per_minute is None else f"{judged.false_per_minute:.2f}"
        table.add_row(name, *map(Text, (percent(judged.metrics.f1[0.5]), percent(mean), rate)))
    print_table(table, console)
    print_text(console, f"\n{rule_text(fit.rule.to_dict())}", "dim")
