"""`vt convert`: a checkpoint between an upstream format and vt's, or to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtcli.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from vtcli.weights.formats.transformers_repo import Repository


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Checkpoint file, folder or hf://org/repo; with --to, a checkpoint id works too.",
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
            help="Check that converting back restores the tensors bit for bit, and nothing else; "
            "with --to onnx or torch-export, that logits are within 1e-4 of ours.",
        ),
    ] = False,
    verify_logits: Annotated[
        bool,
        typer.Option(
            "--verify-logits",
            help="Compare logits on a random clip with the library SRC is from, if installed "
            "(transformers, torchvision); fail above 1e-3.",
        ),
    ] = False,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take the EMA weights of a training checkpoint.")
    ] = False,
    num_frames: Annotated[
        int | None,
        typer.Option(
            "--num-frames",
            min=1,
            help="Frames per clip.",
            show_default="as SRC or -m states",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", min=1, help="Side of the frames in pixels, where nothing states it."
        ),
    ] = None,
    num_heads: Annotated[
        int | None,
        typer.Option(
            "--num-heads", min=1, help="Attention heads per layer, where nothing states them."
        ),
    ] = None,
    tubelet: Annotated[
        str | None,
        typer.Option(
            "--tubelet",
            metavar="TxHxW",
            help="Frames, height and width of a ViViT token, checked against the tensors.",
        ),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor with its old and new name.")
    ] = False,
) -> int:
    """Convert a checkpoint from an upstream format to safetensors, or from there to another."""
    from vtcli.report.conversion import print_report
    from vtcli.weights import convert, export_graph, export_upstream
    from vtcli.weights.formats.transformers_repo import Repository

    if to == "safetensors":
        src = _source(source)
        path = Path(source.rpartition("/")[2] if isinstance(src, Repository) else source)
        dst = output or path.with_name(f"{path.stem}.vt.safetensors")
        _refuse_overwriting_input(path, dst)
        given: dict[str, Any] = {
            "num_frames": num_frames,
            "image_size": image_size,
            "num_heads": num_heads,
            "tubelet_size": _tubelet(tubelet),
            "ema": ema,
            "verify_logits": verify_logits,
        }
        report = convert.convert(src, dst, model, layout, labels, verify, **given)
        print_report(report, tensors)
        return EXIT_OK
    if verify_logits:
        raise UsageError(
            "--verify-logits is for conversions to safetensors; with --to, use --verify"
        )
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


def _source(source: str) -> Path | Repository:
    """A file or folder, or the opened repository of the Hub."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.formats.transformers_repo import Repository
    from vtcli.weights.repository import HUB_PREFIX, hub_name, open_hub

    name = hub_name(source)
    if name is None:
        return Path(source)
    with fetch_progress() as progress:
        return Repository(open_hub(name, progress, source.startswith(HUB_PREFIX)))


def _tubelet(text: str | None) -> tuple[int, ...] | None:
    """Frames, height and width of `TxHxW`."""
    if text is None:
        return None
    parts = text.replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--tubelet takes TxHxW, such as 2x16x16, not '{text}'")
    return tuple(int(part) for part in parts)


def _local_checkpoint(source: str) -> Path:
    """A checkpoint file that vt wrote, by path or checkpoint id."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.repository import hub_name
    from vtcli.weights.resolve import is_path, resolve

    if is_path(source) and hub_name(source) is None and not Path(source).is_dir():
        return Path(source)
    with fetch_progress() as progress:
        return resolve(source, progress).path


def _refuse_overwriting_input(src: Path, dst: Path) -> None:
    if src.exists() and dst.exists() and src.samefile(dst):
        raise UsageError(f"{dst} would overwrite the input file; name another file with -o")
