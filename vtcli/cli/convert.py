"""`vt convert`: a checkpoint between an upstream format and vt's, or to a graph for an engine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import writable
from vtcli.cli.suggestions import complete_model, one_of
from vtcli.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from vtcli.weights.convert import ConversionReport
    from vtcli.weights.formats.transformers_repo import Repository

GRAPHS = ("onnx", "openvino", "torch-export", "triton")
UPSTREAM = ("official", "mmaction2", "torchvision", "hf", "scenic")
QUANTIZED = ("onnx", "openvino")


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
            metavar="PATH",
            help="File to write; a folder with --to openvino or triton.",
            callback=writable,
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
            autocompletion=complete_model,
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
            help="Output format: safetensors, onnx, openvino, torch-export, triton (a model "
            "repository), or an upstream layout.",
            autocompletion=one_of("safetensors", *GRAPHS, *UPSTREAM),
        ),
    ] = "safetensors",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check that converting back restores the tensors bit for bit, and nothing else; "
            "for exported graphs, that logits are within 1e-4 of ours.",
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
            max=4096,
            help="Frames per clip.",
            show_default="as SRC or -m states",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            max=4096,
            help="Side of the frames in pixels, where nothing states it.",
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
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="With --to onnx or openvino: quantize the products with weights to int8, and "
            "print agreement and speed against fp32.",
        ),
    ] = False,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration",
            metavar="SOURCE",
            help="Videos for --int8, a folder or file: every second one calibrates, the others "
            "are compared. May be repeated.",
        ),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor with its old and new name.")
    ] = False,
) -> int:
    """Convert a checkpoint from an upstream format to safetensors, or from there to another."""
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.report.conversion import print_report
    from vtcli.weights import convert, export_upstream

    _check_int8(int8, calibration, to, verify)
    if to == "safetensors":
        src, path = _source(source)
        name = path.name if path.is_dir() or not isinstance(src, Path) else path.stem
        dst = output or path.with_name(f"{name}.vt.safetensors")
        _refuse_overwriting_input(path, dst)
        with working(f"reading {path.name}") as task, fetch_progress() as on_bytes:
            report = convert.convert(
                *(src, dst, model, layout, labels, verify),
                on_stage=task.say,
                on_bytes=on_bytes,
                ema=ema,
                verify_logits=verify_logits,
                num_frames=num_frames,
                image_size=image_size,
                num_heads=num_heads,
                tubelet_size=_tubelet(tubelet),
            )
        print_report(report, tensors)
        print_next(*_next(source, report))
        return EXIT_OK
    if verify_logits:
        raise UsageError(
            "--verify-logits is for conversions to safetensors; with --to, use --verify"
        )
    checkpoint = _local_checkpoint(source)
    if to in GRAPHS:
        _export(checkpoint, to, output, verify, calibration if int8 else None)
        return EXIT_OK
    dst = output or Path(checkpoint.stem + export_upstream.export_suffix(checkpoint, to))
    _refuse_overwriting_input(checkpoint, dst)
    with working(f"converting {checkpoint.name}"), fetch_progress() as on_bytes:
        report = export_upstream.export(checkpoint, dst, to, verify, on_bytes=on_bytes)
    print_report(report, tensors)
    print_next(command("convert", dst, "--verify") + "  # back again")
    return EXIT_OK


def _check_int8(int8: bool, calibration: Sequence[str] | None, to: str, verify: bool) -> None:
    if calibration and not int8:
        raise UsageError("--calibration is for --int8; add it, or leave --calibration out")
    if not int8:
        return
    if to not in QUANTIZED:
        raise UsageError(f"--int8 is for --to {' or '.join(QUANTIZED)}, not {to}")
    if not calibration:
        raise UsageError("--int8 needs videos to calibrate with; add --calibration FOLDER")
    if verify:
        raise UsageError(
            "--verify compares fp32 graphs; leave it out, --int8 prints how it differs from fp32"
        )


def _export(
    checkpoint: Path, to: str, output: Path | None, verify: bool, calibration: list[str] | None
) -> None:
    """Write a graph and say what it has."""
    from vtcli.cli.progress import working
    from vtcli.weights.export_graph import SUFFIXES, export_graph, where_card
    from vtcli.weights.export_triton import CONFIG, export_triton

    dst = output or Path(f"{checkpoint.stem}{SUFFIXES.get(to, f'_{to}')}")
    _refuse_overwriting_input(checkpoint, dst)
    quantized = difference = None
    with working(f"loading {checkpoint.name}") as task:
        if calibration is not None:
            from vtcli.inference.inputs import find_videos
            from vtcli.inference.quantize import export_int8

            quantized = export_int8(checkpoint, dst, to, find_videos(calibration), task.say)
        elif to == "triton":
            dst, difference = export_triton(checkpoint, dst, verify, task.say)
        else:
            difference = export_graph(checkpoint, dst, to, verify, task.say)
    typer.echo(f"{checkpoint} -> {dst}")
    place = f"parameter 'vt' of {CONFIG}" if to == "triton" else where_card(to)
    typer.echo(f"  metadata   {place}: labels and preprocessing, as JSON")
    if difference is not None:
        typer.echo(f"  verified   logits differ by at most {difference:.1e}")
    if quantized is not None:
        from vtcli.report.conversion import print_quantization

        print_quantization(quantized)
    if to in QUANTIZED:
        print_next(command("predict", "VIDEO", "-m", dst))
    elif to == "triton":
        print_next(f"tritonserver --model-repository {shlex.quote(str(dst.parent))}")
    else:
        print_next(command("models", "show", checkpoint) + "  # the same metadata")


def _next(source: str, report: ConversionReport) -> tuple[str, ...]:
    """Use the file; where nothing states its classes, say first which checkpoint it is."""
    use = command("predict", "VIDEO", "-m", report.output)
    if not report.labels.startswith("unverified"):
        return (use,)
    name = command("convert", source, "-m", "ID") + "  # an ID of vt models list sets the classes"
    return name, use


def _source(source: str) -> tuple[Path | Repository, Path]:
    """A file or folder, or the opened repository of the Hub; and the path that names the output."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.formats.transformers_repo import Repository
    from vtcli.weights.registry import load_registry
    from vtcli.weights.repository import HUB_PREFIX, hub_name, open_hub

    name = hub_name(source)
    if name is None:
        path = Path(source)
        if not os.path.lexists(path) and load_registry().get(source) is not None:
            raise UsageError(
                f"{source} is a model, not a file: every command takes its name, `vt models fetch "
                f"{source}` downloads and converts it, --to writes it in another format"
            )
        return path, path if path.name.strip(".") else path.resolve()
    with fetch_progress() as progress:
        repository = Repository(open_hub(name, progress, source.startswith(HUB_PREFIX)))
    return repository, Path(name.repo.rpartition("/")[2])


def _tubelet(text: str | None) -> tuple[int, ...] | None:
    """Frames, height and width of `TxHxW`."""
    if text is None:
        return None
    parts = text.replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--tubelet takes TxHxW, such as 2x16x16, not '{text}'")
    return tuple(int(part) for part in parts)


def _local_checkpoint(source: str) -> Path:
    """A checkpoint file that vt wrote, by any name of a model."""
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
