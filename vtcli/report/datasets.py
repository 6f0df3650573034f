"""Datasets as tables, JSON or CSV: the catalog, one of its entries, or an annotation.

The output of `vt datasets list` and `vt datasets show`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vtcli.data.catalog import CatalogEntry
from vtcli.data.samples import Dataset, Sample
from vtcli.report.tables import print_rows
from vtcli.runtime.csv_cells import SafeDictWriter
from vtcli.video.remote import is_url
from vtcli.weights.registry import Checkpoint

COLUMNS = ("name", "title", "classes", "split", "samples", "metric", "checkpoints")
FIRST_SAMPLES = 5


def print_list(
    entries: Sequence[CatalogEntry], checkpoints: Sequence[Checkpoint], format: str
) -> None:
    """Print the catalog as `table`, `json` or `csv` on standard output.

    `split` is the default test split, `samples` its published size.
    """
    tested = Counter(row.dataset for row in checkpoints)
    lines = [_line(entry, tested[entry.name]) for entry in entries]
    if format == "json":
        print(json.dumps(lines, indent=2, ensure_ascii=False))
    elif format == "csv":
        writer = SafeDictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    else:
        rows = [
            ["" if line[name] is None else str(line[name]) for name in COLUMNS] for line in lines
        ]
        _print_table(COLUMNS, rows, right=("classes", "samples", "checkpoints"))


def _line(entry: CatalogEntry, checkpoints: int) -> dict[str, Any]:
    split = entry.splits[entry.default_split]
    return {
        "name": entry.name,
        "title": entry.title,
        "classes": "+".join(str(head.size) for head in entry.heads),
        "split": split.name,
        "samples": split.size,
        "metric": entry.metric,
        "checkpoints": checkpoints,
    }


def print_card(
    entry: CatalogEntry, checkpoints: Sequence[Checkpoint], dataset: Dataset | None, format: str
) -> None:
    """Print everything the catalog has on a dataset, the checkpoints tested on it, and the content
    of its annotation where the data folder has one.
    """
    if format == "json":
        table = {
            **asdict(entry),
            "checkpoints": [_published(row) for row in checkpoints],
            "dataset": _dataset_table(dataset) if dataset else None,
        }
        print(json.dumps(table, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(Text(f"{entry.name}: {entry.title}", style="bold"))
    for name, value in _facts(entry):
        if value:
            console.print(Text.assemble((f"  {name:<12}", "dim"), f" {value}"))
    console.print(Text(f"  layout of --data-root DIR, or of $VT_DATA/{entry.name}", style="dim"))
    for line in entry.layout.splitlines():
        console.print(f"    {line}")
    if checkpoints:
        console.print(Text("  checkpoints tested on it, with published accuracy", style="dim"))
        _print_checkpoints(checkpoints)
    if dataset:
        console.print()
        print_dataset(dataset, format)


def _facts(entry: CatalogEntry) -> Iterator[tuple[str, str]]:
    yield "aliases", ", ".join(entry.aliases)
    for head in entry.heads:
        order = f"order of {head.label_list}" if head.labels else "class order unknown"
        others = [stem for stem in head.known_orders() if stem != head.label_list]
        order += f", also in use: {', '.join(others)}" if others else ""
        yield f"{head.name}s", f"{head.size} classes, {order}"
    for split in entry.splits.values():
        size = f"{split.size:,} samples ({split.source})" if split.size else "size unknown"
        tested = ", tested by default" if split.name == entry.default_split else ""
        yield "split", f"{split.name}: {size}{tested}"
    yield "annotations", entry.annotations
    yield "metric", entry.metric
    rate = f"{entry.frame_rate:g} frames per second" if entry.frame_rate else ""
    yield "videos", f"folders of {entry.frame_names}, {rate}" if rate else ""
    yield "mirroring", "never: class names include directions" if entry.flip_sensitive else ""
    yield "license", entry.license
    yield "notes", entry.notes


def _published(row: Checkpoint) -> dict[str, Any]:
    names = ("id", "views", "frames", "metric", "top1", "top5", "metric_source")
    return {name: getattr(row, name) for name in names}


def _print_checkpoints(checkpoints: Sequence[Checkpoint]) -> None:
    columns = ("id", "frames", "views", "metric", "top1", "top5")
    rows = [
        ["" if getattr(row, name) is None else str(getattr(row, name)) for name in columns]
        for row in checkpoints
    ]
    _print_table(columns, rows, right=("frames", "top1", "top5"))


def print_dataset(dataset: Dataset, format: str) -> None:
    """Print the content of an annotation: a summary, the first samples, and every class with its
    number of samples.
    """
    table = _dataset_table(dataset)
    if format == "json":
        print(json.dumps(table, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(dataset.summary)
    missing = f"{table['missing']:,} missing" if table["missing"] else "none missing"
    console.print(f"videos in {dataset.root}: {missing}")
    rows = [[s["id"], " ".join(s["labels"]), s["path"]] for s in table["first"]]
    _print_table(("first samples", "label", "file"), rows)
    for head, classes in table["classes"].items():
        rows = [[str(c["index"]), c["name"], str(c["samples"])] for c in classes]
        _print_table(("class", head, "samples"), rows, right=("class", "samples"))


def _dataset_table(dataset: Dataset) -> dict[str, Any]:
    """JSON-able."""
    samples = dataset.samples
    return {
        "name": dataset.name,
        "summary": dataset.summary,
        "root": str(dataset.root),
        "split": dataset.split,
        "metric": dataset.metric,
        "frame_rate": dataset.frame_rate,
        "samples": len(samples),
        "missing": sum(
            not is_url(sample.filename) and not os.path.exists(sample.path) for sample in samples
        ),
        "first": [_sample_table(dataset, sample) for sample in samples[:FIRST_SAMPLES]],
        "classes": {head: _class_table(dataset, place) for place, head in enumerate(dataset.heads)},
    }


def _sample_table(dataset: Dataset, sample: Sample) -> dict[str, Any]:
    several = len(dataset.heads) > 1
    names = list(dataset.classes.values())
    labels = [
        _class_name(names[place if several else 0], index)
        for place, index in enumerate(sample.labels)
    ]
    table = {"id": sample.id, "path": str(sample.path), "labels": labels}
    times = {"start": sample.start, "end": sample.end}
    return table | {name: value for name, value in times.items() if value is not None}


def _class_table(dataset: Dataset, place: int) -> list[dict[str, Any]]:
    """Index, name and number of samples of each class; without class names, of those that occur."""
    names = tuple(dataset.classes.values())[place]
    several = len(dataset.heads) > 1
    counts = Counter(
        index
        for sample in dataset.samples
        for index in (sample.labels[place : place + 1] if several else sample.labels)
    )
    indices = range(len(names)) if names else sorted(counts)
    return [{"index": i, "name": _class_name(names, i), "samples": counts[i]} for i in indices]


def _class_name(names: Sequence[str], index: int) -> str:
    return names[index] if names else f"class {index} (unnamed)"


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Print a table whose columns are left-aligned but for those in `right`."""
    print_rows(columns, rows, left=[name for name in columns if name not in right])
