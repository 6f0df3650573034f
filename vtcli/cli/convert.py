"""`vt convert`: a checkpoint between an upstream format and vt's, or to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtcli.errors import EXIT_OK, UsageError


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Checkpoint file; with --to, a checkpoint id works too."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write.",
            show_default="SRC with a new extension; next to SRC for safetensors, else here",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ID",
            help="Checkpoint id of SRC; sets class order, frames and protocol.",
            show_default="detected",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|NAME",
            help="Class names in SRC's order: a file (one name per line, `0 name` lines, CSV, JSON "
            "id2label or label2id), or a label map such as k400.",
            show_default="by checkpoint id",
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="NAME",
            help="Tensor names used in SRC: auto (detect), official, mmaction2, ...",
        ),
    ] = "auto",
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Output format: safetensors, onnx, torch-export, or an upstream layout.",
        ),
    ] = "safetensors",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check that tensors are bit-exact both ways, and logits within 1e-4 of ours.",
        ),
    ] = False,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take the EMA weights of a training checkpoint.")
    ] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor with its old and new name.")
    ] = False,
) -> int:
    """Convert a checkpoint from an upstream format to safetensors, or from there to another."""
    from vtcli.report.conversion import print_report
    from vtcli.weights import convert, export_graph, export_upstream

    src = Path(source)
    if to == "safetensors":
        dst = output or src.with_name(f"{src.stem}.vt.safetensors")
        _refuse_overwriting_input(src, dst)
        report = convert.convert(src, dst, model, layout, labels, verify, ema=ema)
        print_report(report, tensors)
        return EXIT_OK
    checkpoint = _local_checkpoint(source)
    if to in export_graph.SUFFIXES:
        dst = output or Path(checkpoint.stem + export_graph.SUFFIXES[to])
        _refuse_overwriting_input(checkpoint, dst)
        difference = export_graph.export_graph(checkpoint, dst, to, verify)
        typer.echo(f"{checkpoint} -> {dst}")
        if difference is not None:
            typer.echo(f"  verified   logits differ by at most {difference:.1e}")
        return EXIT_OK
    dst = output or Path(checkpoint.stem + export_upstream.export_suffix(checkpoint, to))
    _refuse_overwriting_input(checkpoint, dst)
    print_report(export_upstream.export(checkpoint, dst, to, verify=verify), tensors)
    return EXIT_OK


def _local_checkpoint(source: str) -> Path:
    """A checkpoint file that vt wrote, by path or checkpoint id."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.resolve import is_path, resolve

    if is_path(source):
        return Path(source)
    with fetch_progress() as progress:
        return resolve(source, progress).path


def _refuse_overwriting_input(src: Path, dst: Path) -> None:
    if src.exists() and dst.exists() and src.samefile(dst):
        raise UsageError(f"{dst} would overwrite the input file; name another file with -o")
