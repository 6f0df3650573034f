"""`vt convert`: an upstream's checkpoint file to ours, or ours to an upstream's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtcli.errors import EXIT_OK, UsageError


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A checkpoint file; an id is enough to write one of ours elsewhere."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write.",
            show_default="SRC's name with a new ending; beside SRC for ours, else here",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The checkpoint id it is: gives class order, frames and protocol."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="Class names in SRC's order: a file with one per line, or a known list's name.",
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option("--layout", help="SRC's key names: auto, official, mmaction2, ...")
    ] = "auto",
    to: Annotated[
        str,
        typer.Option(
            "--to", help="safetensors (ours), an upstream's layout, onnx or torch-export."
        ),
    ] = "safetensors",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check both directions bit for bit.")
    ] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor and its new name.")
    ] = False,
) -> int:
    """Convert a checkpoint between an upstream's file and ours."""
    from vtcli.report.conversion import print_report
    from vtcli.weights import convert, export_graph, export_upstream

    src = Path(source)
    if to == "safetensors":
        dst = output or src.with_name(f"{src.stem}.vt.safetensors")
        _refuse_overwriting_itself(src, dst)
        print_report(convert.convert(src, dst, model, layout, labels, verify), tensors)
        return EXIT_OK
    ours = _our_file(source)
    if to in export_graph.SUFFIXES:
        dst = output or Path(ours.stem + export_graph.SUFFIXES[to])
        _refuse_overwriting_itself(ours, dst)
        difference = export_graph.export_graph(ours, dst, to, verify)
        typer.echo(f"{ours} -> {dst}")
        if difference is not None:
            typer.echo(f"  verified   logits differ by {difference:.1e} at most")
        return EXIT_OK
    dst = output or Path(ours.stem + export_upstream.export_suffix(ours, to))
    _refuse_overwriting_itself(ours, dst)
    print_report(export_upstream.export(ours, dst, to, verify=verify), tensors)
    return EXIT_OK


def _our_file(source: str) -> Path:
    """One of our files, by its path or by a checkpoint's id."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.resolve import is_path, resolve

    if is_path(source):
        return Path(source)
    with fetch_progress() as progress:
        return resolve(source, progress).path


def _refuse_overwriting_itself(src: Path, dst: Path) -> None:
    if src.exists() and dst.exists() and src.samefile(dst):
        raise UsageError(f"{dst} would overwrite the file that is read; name another with -o")
