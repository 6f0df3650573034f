"""Export one of our files as a graph that runs without this package: ONNX, OpenVINO or
torch.export.

The batch size is dynamic; frames and resolution are those of the checkpoint. The model card is
stored with the graph (ONNX metadata `vt`, OpenVINO runtime information `vt`, or the extra file `vt`
of a torch.export archive), so that labels and pipeline are available wherever the graph runs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import DataError, UsageError
from vtcli.models.build import clip_shape
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, read_card, require_classifier
from vtcli.weights.engine_openvino import XML, write_ir
from vtcli.weights.graph_model import ENGINES
from vtcli.weights.load import load_resolved
from vtcli.weights.resolve import LocalCheckpoint

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4  # largest logit difference to the network that was exported


def where_card(kind: str) -> str:
    """Where a file of this kind holds the model card."""
    places = {"onnx": "metadata property", "openvino": "runtime information"}
    return f"{places.get(kind, 'extra file')} '{CARD_KEY}'"


def export_graph(
    src: Path,
    dst: Path,
    kind: str,
    verify: bool = False,
    on_stage: Callable[[str], None] = lambda what: None,
) -> float | None:
    """Write `src` as `onnx`, `openvino` or `torch-export`.

    Returns the largest logit difference, with `verify`. `dst` is a file, for `openvino` a folder;
    `on_stage` is called with what is done next, in words. Raises `UsageError` if a package for it
    is missing, and `DataError` if the graph's logits differ from the network's.
    """
    card = read_card(src)
    require_classifier(card, src)
    model: Any = load_resolved(LocalCheckpoint(src, card))
    clip = torch.randn(2, *clip_shape(model.config))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with atomic_write(dst / XML if kind == "openvino" else dst, size) as part:
        on_stage(f"tracing the network and writing {dst.name}")
        _WRITERS[kind](model, clip, part, output_names(card), card.to_json())
        if not verify:
            return None
        on_stage(f"comparing logits with those of {dst.name}")
        return _largest_difference(model, part, kind, clip)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence PyTorch's exporters, which print to standard output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _dynamic_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


def output_names(card: ModelCard) -> list[str]:
    """The names of a graph's outputs, one per head."""
    several = len(card.heads) > 1
    return [f"logits_{head.name}" if several else "logits" for head in card.heads]


def write_onnx(model: Any, clip: Tensor, path: Path, outputs: list[str], card: str) -> None:
    """Write a network as ONNX: `clip` [B,3,T,H,W] is traced, `outputs` are names.

    Raises `UsageError` if a package for it is missing.
    """
    require("onnx", "onnxscript")
    with quiet():
        program = torch.onnx.export(
            model,
            (clip,),
            dynamo=True,
            dynamic_shapes=_dynamic_batch(),
            input_names=["clip"],
            output_names=outputs,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[CARD_KEY] = card
        program.save(path)


def _write_openvino(model: Any, clip: Tensor, path: Path, outputs: list[str], card: str) -> None:
    require("onnx", "onnxscript", "openvino", extra="openvino")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "model.onnx")
        write_onnx(model, clip, graph, outputs, card)
        write_ir(graph, path, {CARD_KEY: card})


def require(*packages: str, extra: str = "export") -> None:
    """Raise `UsageError` for a package that is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(missing_package("such exports", package, extra)) from error


def _write_archive(model: Any, clip: Tensor, path: Path, outputs: list[str], card: str) -> None:
    with quiet():
        program = torch.export.export(model, (clip,), dynamic_shapes=_dynamic_batch())
        torch.export.save(program, path, extra_files={CARD_KEY: card})


_WRITERS: Mapping[str, Callable[[Any, Tensor, Path, list[str], str], None]] = {
    "onnx": write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_archive,
}


def _runner(kind: str, path: Path) -> Callable[[Tensor], Any]:
    if kind == "torch-export":
        module: Callable[[Tensor], Any] = torch.export.load(path).module()
        return module
    (engine,) = (engine for engine in ENGINES if kind == engine.FORMAT)
    compute = engine.compile_graph(path, "cpu", "fp32")
    return lambda clip: [torch.from_numpy(output) for output in compute(clip.numpy())]


def _as_list(logits: Any) -> list[Tensor]:
    if isinstance(logits, Tensor):
        return [logits]
    return list(logits.values() if isinstance(logits, dict) else logits)


def _largest_difference(model: Any, path: Path, kind: str, clip: Tensor) -> float:
    """The largest logit difference over a batch of the traced size and one of another size."""
    run = _runner(kind, path)
    worst = 0.0
    with torch.inference_mode():
        for batch in (clip, clip[:1]):
            for expected, actual in zip(_as_list(model(batch)), _as_list(run(batch)), strict=True):
                worst = max(worst, (expected - actual).abs().max().item())
    if not worst < TOLERANCE:
        raise DataError(
            f"the logits of the {kind} graph differ from the network's by {worst:.1e}; please "
            "report this as a bug"
        )
    return worst
