"""Profiles as tables, JSON or CSV.

A profile is a table as `ModelProfile.to_dict` makes it: MACs and FLOPs are whole numbers, times are
seconds, memory is in bytes. MACs as papers count them and as executed have columns of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from vtcli.report.tables import figure, print_rows, print_text
from vtcli.runtime.csv_cells import SafeDictWriter

if TYPE_CHECKING:
    from rich.console import Console

ProfileTable = Mapping[str, Any]
COUNTS = ("macs_paper", "macs_executed", "flops_paper", "flops_executed")
NOT_STATED = "not stated"


def write_profiles(
    stream: TextIO,
    format: str,
    profiles: Sequence[ProfileTable],
    header: Mapping[str, Any],
    blocks: bool,
) -> None:
    """Write as `table`, `json` or `csv`.

    header: `machine`, and `decoding` where a video was measured. blocks: also the cost of every
    block; CSV then has one row per block instead of one per model and timing.
    """
    if format == "json":
        models = list(profiles)
        if not blocks:
            models = [{k: v for k, v in row.items() if k != "blocks"} for row in profiles]
        json.dump({**header, "models": models}, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    elif format == "csv":
        rows_of = _block_rows if blocks else _timing_rows
        _write_csv(stream, [row for profile in profiles for row in rows_of(profile)])
    else:
        _print_tables(stream, profiles, header, blocks)


def _write_csv(stream: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = SafeDictWriter(stream, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)


def _timing_rows(profile: ProfileTable) -> Iterator[dict[str, Any]]:
    """One flat row per timing; one without times where nothing was timed."""
    shared = _cost_columns(profile)
    video_timings = {(t["precision"], t["batch_size"]): t for t in profile["video_timings"]}
    for timing in profile["timings"]:
        times = {k: v for k, v in timing.items() if k != "block_seconds"}
        key = (timing["precision"], timing["batch_size"])
        yield {**shared, **times, **video_timings.get(key, {}), "failure": ""}
    for failure in profile["failures"]:
        yield {**shared, "failure": failure}
    if not profile["timings"] and not profile["failures"]:
        yield shared


def _cost_columns(profile: ProfileTable) -> dict[str, Any]:
    """The columns that all rows of a profile share."""
    columns = {
        "id": profile["id"],
        "arch": profile["arch"],
        "dataset": profile["dataset"],
        **profile["clip"],
        "views": profile["views"],
        "params": profile["params"],
    }
    for count in COUNTS:
        columns |= {f"{count}_{scope}": value for scope, value in profile[count].items()}
    reported = profile["reported"]
    difference = reported["difference_percent"]
    return columns | {
        "reported_params_millions": reported["params_millions"],
        "reported_gmacs_per_view": reported["gmacs_per_view"],
        "difference_percent": None if difference is None else round(difference, 2),
        "reported_source": reported["source"],
        "reported_note": reported["note"],
    }


def _block_rows(profile: ProfileTable) -> Iterator[dict[str, Any]]:
    for block in profile["blocks"]:
        row = {"id": profile["id"], "block": block["name"], "params": block["params"]}
        row |= {"macs_executed": block["macs"]}
        yield row | {
            f"seconds_{t['precision']}_b{t['batch_size']}": t["block_seconds"][block["name"]]
            for t in profile["timings"]
        }


def _print_tables(
    stream: TextIO, profiles: Sequence[ProfileTable], header: Mapping[str, Any], blocks: bool
) -> None:
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    _print_costs(console, profiles)
    if any(p["timings"] for p in profiles):
        _print_timings(console, profiles, header["machine"])
    if header.get("decoding"):
        _print_decoding(console, profiles, header["decoding"])
    if blocks:
        for profile in profiles:
            _print_blocks(console, profile)


def _print_costs(console: Console, profiles: Sequence[ProfileTable]) -> None:
    per_view, view_unit = _prefix(p["macs_paper"]["per_view"] for p in profiles)
    per_video, video_unit = _prefix(p["macs_paper"]["per_video"] for p in profiles)
    columns = ["model", "M params", f"{per_view}MACs/view", "executed", f"{per_view}FLOPs/view"]
    columns += ["views", f"{per_video}MACs/video", "executed", f"{per_video}FLOPs/video"]
    columns += ["reported GMACs", "diff"]
    notes: dict[str, int] = {}
    rows = []
    for p in profiles:
        reported = p["reported"]
        note, gmacs = reported["note"], reported["gmacs_per_view"]
        mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
        difference = reported["difference_percent"]
        rows.append(
            (
                p["id"],
                f"{p['params'] / 1e6:.3f}",
                _scaled(p["macs_paper"]["per_view"], view_unit),
                _scaled(p["macs_executed"]["per_view"], view_unit),
                _scaled(p["flops_paper"]["per_view"], view_unit),
                p["views"],
                _scaled(p["macs_paper"]["per_video"], video_unit, 2),
                _scaled(p["macs_executed"]["per_video"], video_unit, 2),
                _scaled(p["flops_paper"]["per_video"], video_unit, 2),
                ("" if gmacs is None else f"{gmacs}") + mark,
                "" if difference is None else f"{difference:+.1f}%",
            )
        )
    print_rows(columns, rows, console=console)
    for note, number in notes.items():
        print_text(console, f"[{number}] {note}", "dim")
    print_text(
        console,
        "MACs and FLOPs as papers count them, FLOPs = 2 x MACs. executed: MACs of the optimized "
        "implementation, which computes the same result. reported: per view, by the authors. diff: "
        "our count relative to the reported one.",
        "dim",
    )


def _print_timings(
    console: Console, profiles: Sequence[ProfileTable], machine: Mapping[str, Any]
) -> None:
    columns = ["model", "precision", "batch", "median", "p95", "clips/s", "videos/s"]
    columns += ["peak memory", "peak matmul", "MFU of peak", "HFU of peak"]
    rows = [
        (
            p["id"],
            t["precision"] + (" compiled" if t["compiled"] else ""),
            str(t["batch_size"]),
            f"{1e3 * t['latency_median']:.1f} ms",
            f"{1e3 * t['latency_p95']:.1f} ms",
            figure(t["clips_per_second"], 2),
            figure(t["videos_per_second"], 2),
            "" if t["peak_bytes"] is None else f"{t['peak_bytes'] / 2**20:.0f} MiB",
            f"{2 * t['peak_matmul_macs_per_s'] / 1e9:.0f} GFLOP/s",
            NOT_STATED if t["mfu"] is None else f"{t['mfu']:.2f}",
            f"{t['hfu']:.2f}",
        )
        for p in profiles
        for t in p["timings"]
    ]
    console.print()
    print_rows(columns, rows, console=console)
    print_text(
        console,
        f"Measured on {machine['device']} ({machine['name']}), {machine['threads']} threads, "
        f"torch {machine['torch']}. median, p95: latency of a forward pass. videos/s: all views of "
        "a video. MFU, HFU: model and hardware FLOPs utilization, relative to the peak matmul rate "
        "measured on this machine; MFU counts MACs as papers do, HFU as executed.",
        "dim",
    )


def _print_decoding(
    console: Console, profiles: Sequence[ProfileTable], decoding: Mapping[str, Any]
) -> None:
    console.print()
    print_text(
        console,
        f"{decoding['path']}: {decoding['frames']} frames of {decoding['width']}x"
        f"{decoding['height']} ({decoding['codec']}), {decoding['duration']:.1f} s; decoded at "
        f"{decoding['decoded_fps']:.0f} frames/s",
    )
    columns = ("model", "precision", "batch", "decode + crop", "compute", "bound by", "real time")
    rows = [
        (
            p["id"],
            t["precision"],
            str(t["batch_size"]),
            f"{t['decode_seconds']:.3f} s",
            f"{t['compute_seconds']:.3f} s",
            t["bound"],
            f"{t['realtime_factor']:.2f}x",
        )
        for p in profiles
        for t in p["video_timings"]
    ]
    if rows:
        print_rows(columns, rows, console=console)
        print_text(console, "All views of the protocol, decoding and computing in turn.", "dim")


def _print_blocks(console: Console, profile: ProfileTable) -> None:
    timings = profile["timings"]
    columns = ["block", "M params", "GMACs executed", "fraction"]
    for timing in timings:
        columns += [f"{timing['precision']} -b {timing['batch_size']}", "fraction"]
    total = profile["macs_executed"]["per_view"]
    rows = []
    for block in profile["blocks"]:
        name = block["name"]
        row = [name, f"{block['params'] / 1e6:.3f}"]
        row += [f"{block['macs'] / 1e9:.3f}", f"{block['macs'] / total:.1%}"]
        for timing in timings:
            seconds = timing["block_seconds"]
            fraction = seconds[name] / sum(seconds.values())
            row += [f"{1e3 * seconds[name]:.1f} ms", f"{fraction:.1%}"]
        rows.append(row)
    console.print()
    print_text(console, profile["id"], "bold")
    print_rows(columns, rows, console=console)


def _prefix(values: Iterable[int | None]) -> tuple[str, float]:
    """The prefix of a unit for the largest of these numbers, and what it stands for."""
    largest = max((value or 0 for value in values), default=0)
    prefixes = (("T", 1e12), ("G", 1e9), ("M", 1e6))
    return next(((name, size) for name, size in prefixes if largest >= size), prefixes[-1])


def _scaled(value: int | None, unit: float, digits: int = 1) -> str:
    return NOT_STATED if value is None else figure(value / unit, digits)
