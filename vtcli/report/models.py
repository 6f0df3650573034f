"""Registry entries as tables, JSON or CSV: the list, and everything about one of them.

The output of `vt models list` and `vt models show`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.report.tables import full_width, plain_table, print_text, print_whole, wrapped
from vtcli.runtime.csv_cells import SafeDictWriter
from vtcli.runtime.words import plural
from vtcli.weights.registry import Checkpoint, Registry, Source

FACT_INDENT = 15  # cells of a name and the spaces around it

if TYPE_CHECKING:
    from rich.table import Table

    from vtcli.weights.checkpoint import ModelCard

NARROW_COLUMNS = ("id", "dataset", "frames", "top1", "state")
COLUMNS = (
    "id",
    "dataset",
    "frames",
    "resolution",
    "views",
    "top1",
    "top5",
    "params",
    "gmacs",
    "state",
)
TITLES = {"resolution": "size", "params": "M params", "gmacs": "GMACs"}
STATE_STYLES = {
    "alive": "green",
    "likely": "yellow",
    "unknown": "yellow",
    "dead": "red",
    "unread": "red",
}

STATES = {
    "alive": "a link was checked",
    "likely": "a link is on a site that serves such files",
    "unknown": "no link was checked",
    "dead": "all links are gone",
    "unread": "the tensor names of its files are not known",
}
"""What the states of an entry's best link mean."""


def best_state(row: Checkpoint) -> str:
    """The best state among an entry's sources: the one that a download will try first.

    `unread` where all known files have tensor names that no layout describes.
    """
    states = [s.link_status for s in row.sources if s.convertible]
    last = "dead" if states else "unread"
    return next((s for s in ("alive", "likely", "unknown") if s in states), last)


def print_list(rows: Sequence[Checkpoint], registry: Registry, format: str) -> None:
    """Print entries as `table`, `json` or `csv` on standard output."""
    tables = [_line(row) for row in rows]
    if format == "json":
        print(json.dumps(tables, indent=2))
    elif format == "csv":
        writer = SafeDictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(tables)
    else:
        _print_table(tables, set(registry.model_defaults.values()))


def _line(row: Checkpoint) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS[:-1]} | {"state": best_state(row)}


def _print_table(lines: Sequence[dict[str, Any]], defaults: set[str]) -> None:
    """All columns, or on a terminal too narrow for them the most important ones."""
    from rich.console import Console

    console = Console(highlight=False)
    note = f"{plural(len(lines), 'checkpoint')}; * marks the default of its model."
    table = _table(COLUMNS, lines, defaults)
    if sys.stdout.isatty() and full_width(table) > console.width:
        table = _table(NARROW_COLUMNS, lines, defaults)
    else:
        note += " GMACs are per view, as published."
    print_whole(table)
    print_text(console, note, "dim")
    states = {line["state"] for line in lines}
    legend = "; ".join(f"{name}: {text}" for name, text in STATES.items() if name in states)
    print_text(console, legend, "dim")


def _table(columns: Sequence[str], lines: Sequence[dict[str, Any]], defaults: set[str]) -> Table:
    from rich.text import Text

    titles = [TITLES.get(name, name) for name in columns]
    table = plain_table(*titles, left=("id", "dataset", "views", "state"), wraps="nothing")
    for line in lines:
        cells = [Text("" if line[name] is None else str(line[name])) for name in columns]
        cells[0].append(" *" if line["id"] in defaults else "")
        cells[-1].stylize(STATE_STYLES[line["state"]])
        table.add_row(*cells)
    return table


def print_card(row: Checkpoint, cached: Path | None, format: str) -> None:
    """Print everything about an entry; `cached` is our converted file, where there is one."""
    if format == "json":
        table = asdict(row) | {"pipeline": row.pipeline.to_dict(), "cached": cached and str(cached)}
        print(json.dumps(table, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(row.id, style="bold"))
    for name, value in _facts(row, cached):
        if value:
            text = wrapped(console, value, FACT_INDENT)
            console.print(Text.assemble((f"  {name:<12}", "dim"), f" {text}"))
    console.print(Text("  sources, in the order they are tried", style="dim"))
    for source in row.sources:
        for line in _source_lines(source):
            indent = 4 + len(line) - len(line.lstrip())
            text = wrapped(console, line.lstrip(), indent)
            console.print(Text(f"{' ' * indent}{text}"))


def print_model_card(card: ModelCard, name: str, format: str) -> None:
    """Print the card of a file, folder or repository, and what each fact comes from."""
    if format == "json":
        print(json.dumps(json.loads(card.to_json()), indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(card.id or name, style="bold"))
    for title, value in _card_facts(card):
        if value:
            text = wrapped(console, value, FACT_INDENT)
            console.print(Text.assemble((f"  {title:<12}", "dim"), f" {text}"))


def _card_facts(card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "model", f"{card.model} ({card.arch})" if card.model else card.arch
    yield "dataset", card.dataset
    for head in card.heads:
        yield f"{head.name} head", f"{head.size} classes, order: {head.confidence or 'not stated'}"
        yield "labels", ", ".join(head.labels)
    if not card.heads:
        yield "head", "none; vt finetune trains one"
    p = card.pipeline
    yield "clip", f"{p.frames} frames of {p.crop_size}x{p.crop_size}"
    yield "protocol", f"{card.views} (clips x crops), {p.sampling}, {p.view_fusion}"
    yield "pretraining", card.pretrain
    for fact, source in card.source.get("facts", {}).items():
        yield f"{fact} from", source
    yield "source", str(card.source.get("address", ""))
    yield "sha256", str(card.source.get("sha256", ""))
    yield "license", card.license or str(card.source.get("license", ""))
    yield "notes", card.notes
    for warning in card.source.get("warnings", ()):
        yield "", warning


def _facts(row: Checkpoint, cached: Path | None) -> Iterator[tuple[str, str]]:
    scores = [f"{k} {v}" for k, v in ((row.metric, row.top1), ("top-5", row.top5)) if v is not None]
    yield "model", f"{row.model} ({row.arch})"
    yield "dataset", row.dataset
    for head in row.heads:
        order = f"order: {head.label_list or 'unknown'} ({head.confidence or 'not stated'})"
        yield f"{head.name} head", f"{head.size} classes, {order}"
    yield "clip", f"{row.frames} frames of {row.resolution}x{row.resolution}"
    yield (
        "protocol",
        f"{row.views} (clips x crops), {row.pipeline.sampling}, {row.pipeline.view_fusion}",
    )
    yield "pretraining", row.pretrain
    yield "accuracy", ", ".join(scores) + (f" ({row.metric_source})" if row.metric_source else "")
    cost = [f"{row.params} M parameters"] * (row.params is not None)
    cost += [f"{row.gmacs} GMACs per view"] * (row.gmacs is not None)
    yield (
        "published",
        ", ".join(cost) + (f" ({row.cost_source})" if cost and row.cost_source else ""),
    )
    yield "cost note", row.cost_note
    yield "settings", ", ".join(f"{k} = {v}" for k, v in row.config.items())
    yield "license", row.license
    yield "notes", row.notes
    yield "in cache", str(cached) if cached else "no"


def _source_lines(source: Source) -> Iterator[str]:
    mark = "" if source.convertible else ", not convertible"
    yield f"[{source.link_status}{mark}] {source.address}"
    digest = source.sha256 or (
        f"{source.sha256_prefix}..." if source.sha256_prefix else "not stated"
    )
    size = f"{source.bytes / 1e6:.0f} MB, " if source.bytes else ""
    order = source.labels or "unknown"
    kind = f"{source.layout} layout, {source.serialization}"
    yield f"    {size}{kind}, sha256 {digest}, class order {order}"
    for text in (source.checked and f"checked {source.checked}", source.notes):
        if text:
            yield f"    {text}"
