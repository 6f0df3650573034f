"""Profiles for people and for programs: tables, JSON, CSV.

A profile is a table as the profiler makes it (`to_dict`): MACs and FLOPs in whole numbers, times in
seconds, memory in bytes. MACs in published form and as executed stand in columns of their own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]
FORMS = ("published_form", "as_executed")
NOT_STATED = "not stated"
NOT_TERMINAL_WIDTH = 160


def write_profiles(
    stream: TextIO, format: str, profiles: Sequence[Row], header: Row, blocks: bool
) -> None:
    """Write as `table`, `json` or `csv`.

    header: `machine`, and `decoding` where a video was measured. blocks: also the cost of every
    block; a CSV then has a row per block instead of one per model and timing.
    """
    if format == "json":
        models = list(profiles)
        if not blocks:
            models = [{k: v for k, v in row.items() if k != "blocks"} for row in profiles]
        json.dump({**header, "models": models}, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    elif format == "csv":
        _write_csv(stream, [r for p in profiles for r in (_block_rows(p) if blocks else _rows(p))])
    else:
        _print_tables(stream, profiles, header, blocks)


def _write_csv(stream: TextIO, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)


def _rows(profile: Row) -> Iterator[dict[str, Any]]:
    """One flat row per timing; one without times where nothing was timed."""
    shared = {
        "id": profile["id"],
        "arch": profile["arch"],
        "dataset": profile["dataset"],
        **profile["clip"],
        "views": profile["views"],
        "params": profile["params"],
    }
    for form in FORMS:
        shared |= {f"{name}_{form}": value for name, value in profile[form].items()}
    printed = profile["printed"]
    difference = printed["difference_percent"]
    shared |= {
        "printed_params_millions": printed["params_millions"],
        "printed_gmacs_per_view": printed["gmacs_per_view"],
        "difference_percent": None if difference is None else round(difference, 2),
        "printed_source": printed["source"],
        "printed_note": printed["note"],
    }
    clip_times = {(t["precision"], t["batch_size"]): t for t in profile["clip_times"]}
    for timing in profile["timings"]:
        times = {k: v for k, v in timing.items() if k != "block_seconds"}
        key = (timing["precision"], timing["batch_size"])
        yield {**shared, **times, **clip_times.get(key, {}), "failure": ""}
    for failure in profile["failures"]:
        yield {**shared, "failure": failure}
    if not profile["timings"] and not profile["failures"]:
        yield shared


def _block_rows(profile: Row) -> Iterator[dict[str, Any]]:
    for block in profile["blocks"]:
        row = {"id": profile["id"], "block": block["name"], "params": block["params"]}
        row |= {"macs_as_executed": block["macs"]}
        yield row | {
            f"seconds_{t['precision']}_b{t['batch_size']}": t["block_seconds"][block["name"]]
            for t in profile["timings"]
        }


def _print_tables(stream: TextIO, profiles: Sequence[Row], header: Row, blocks: bool) -> None:
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console.width = NOT_TERMINAL_WIDTH
    _print_costs(console, profiles)
    if any(p["timings"] for p in profiles):
        _print_timings(console, profiles, header["machine"])
    if header.get("decoding"):
        _print_decoding(console, profiles, header["decoding"])
    if blocks:
        for profile in profiles:
            _print_blocks(console, profile)


def _print_costs(console: Console, profiles: Sequence[Row]) -> None:
    columns = ["model", "M params", "GMACs/view", "executed", "GFLOPs/view", "views"]
    columns += ["TMACs/video", "executed", "TFLOPs/video", "printed GMACs", "diff"]
    notes: dict[str, int] = {}
    rows = []
    for p in profiles:
        published, executed, printed = p["published_form"], p["as_executed"], p["printed"]
        note = printed["note"]
        mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
        difference = printed["difference_percent"]
        rows.append(
            (
                p["id"],
                f"{p['params'] / 1e6:.3f}",
                _scaled(published["macs_per_view"], 1e9),
                _scaled(executed["macs_per_view"], 1e9),
                _scaled(published["flops_per_view"], 1e9),
                p["views"],
                _scaled(published["macs_per_video"], 1e12, 2),
                _scaled(executed["macs_per_video"], 1e12, 2),
                _scaled(published["flops_per_video"], 1e12, 2),
                ("" if printed["gmacs_per_view"] is None else f"{printed['gmacs_per_view']}")
                + mark,
                "" if difference is None else f"{difference:+.1f} %",
            )
        )
    _print_table(console, columns, rows)
    for note, number in notes.items():
        console.print(f"[{number}] {note}", style="dim", markup=False)
    console.print(
        "GMACs and FLOPs as papers count them, FLOPs = 2 x MACs; executed: what runs here, with "
        "the same result. printed: per view, and ours against it.",
        style="dim",
    )


def _print_timings(console: Console, profiles: Sequence[Row], machine: Row) -> None:
    columns = ["model", "precision", "batch", "median", "p95", "clips/s", "videos/s"]
    columns += ["peak memory", "matrix rate", "share", "executed"]
    rows = [
        (
            p["id"],
            t["precision"] + (" compiled" if t["compiled"] else ""),
            str(t["batch_size"]),
            f"{1e3 * t['median']:.1f} ms",
            f"{1e3 * t['p95']:.1f} ms",
            f"{t['clips_per_second']:.2f}",
            f"{t['videos_per_second']:.3f}",
            "" if t["peak_bytes"] is None else f"{t['peak_bytes'] / 2**20:.0f} MiB",
            f"{2 * t['peak_matmul_macs_per_s'] / 1e9:.0f} GFLOP/s",
            NOT_STATED if t["mfu"] is None else f"{t['mfu']:.2f}",
            f"{t['hfu']:.2f}",
        )
        for p in profiles
        for t in p["timings"]
    ]
    console.print()
    _print_table(console, columns, rows)
    console.print(
        f"on {machine['device']} ({machine['name']}), {machine['threads']} threads, "
        f"torch {machine['torch']}; share: of this machine's own matrix rate, by MACs in published "
        "form and as executed; videos/s: all views of a video.",
        style="dim",
    )


def _print_decoding(console: Console, profiles: Sequence[Row], decoding: Row) -> None:
    console.print(
        f"\n{decoding['path']}: {decoding['frames']} frames of {decoding['width']}x"
        f"{decoding['height']} ({decoding['codec']}), {decoding['duration']:.1f} s; decoded at "
        f"{decoding['decoded_fps']:.0f} frames/s",
        markup=False,
    )
    columns = ("model", "precision", "batch", "decode and cut", "compute", "bound by", "real time")
    rows = [
        (
            p["id"],
            t["precision"],
            str(t["batch_size"]),
            f"{t['read_seconds']:.3f} s",
            f"{t['compute_seconds']:.3f} s",
            t["bound"],
            f"{t['realtime_factor']:.2f}x",
        )
        for p in profiles
        for t in p["clip_times"]
    ]
    if rows:
        _print_table(console, columns, rows)
        console.print("all views of the protocol, one step after the other", style="dim")


def _print_blocks(console: Console, profile: Row) -> None:
    timings = profile["timings"]
    columns = ["block", "M params", "GMACs executed", "share"]
    for timing in timings:
        columns += [f"{timing['precision']} -b {timing['batch_size']}", "share"]
    whole = profile["as_executed"]["macs_per_view"]
    rows = []
    for block in profile["blocks"]:
        name = block["name"]
        row = [name, f"{block['params'] / 1e6:.3f}"]
        row += [f"{block['macs'] / 1e9:.3f}", f"{100 * block['macs'] / whole:.1f} %"]
        for timing in timings:
            seconds = timing["block_seconds"]
            share = seconds[name] / sum(seconds.values())
            row += [f"{1e3 * seconds[name]:.1f} ms", f"{100 * share:.1f} %"]
        rows.append(row)
    console.print(f"\n{profile['id']}", style="bold")
    _print_table(console, columns, rows)


def _print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is a name, the others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        left = number == 0
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _scaled(value: int | None, unit: float, digits: int = 1) -> str:
    return NOT_STATED if value is None else f"{value / unit:.{digits}f}"
