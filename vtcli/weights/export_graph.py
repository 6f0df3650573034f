"""Export one of our files as a graph that runs without this package: ONNX or torch.export.

The batch size is dynamic; frames and resolution are those of the checkpoint. The model card is
stored in the file (ONNX metadata `vt`, or the extra file `vt` of a torch.export archive), so that
labels and pipeline are available wherever the graph runs.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import DataError, UsageError
from vtcli.models.build import clip_shape
from vtcli.runtime.files import atomic_write
from vtcli.weights.checkpoint import CARD_KEY, read_card
from vtcli.weights.load import load_resolved
from vtcli.weights.resolve import LocalCheckpoint

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4  # largest logit difference to the network that was exported
_INSTALL = "install it: pip install 'vtcli[export]'"

Runner = Callable[[Tensor], list[Tensor]]


def export_graph(src: Path, dst: Path, kind: str, verify: bool = False) -> float | None:
    """Write `src` as `onnx` or `torch-export`; with `verify`, return the largest logit difference.

    Raises `UsageError` if a package for it is missing, and `DataError` if the graph's logits differ
    from the network's.
    """
    card = read_card(src)
    model: Any = load_resolved(LocalCheckpoint(src, card))
    names = [head.name for head in card.heads]
    clip = torch.randn(2, *clip_shape(model.config))
    write = _write_onnx if kind == "onnx" else _write_archive
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with atomic_write(dst, size) as part:
        with _quiet():
            write(model, clip, part, names, card.to_json())
        return _largest_difference(model, part, kind, clip) if verify else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


def _write_onnx(model: Any, clip: Tensor, path: Path, names: list[str], card: str) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX export needs the package '{error.name}'; {_INSTALL}") from error
    outputs = ["logits"] if len(names) == 1 else [f"logits_{name}" for name in names]
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


def _write_archive(model: Any, clip: Tensor, path: Path, names: list[str], card: str) -> None:
    program = torch.export.export(model, (clip,), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path, extra_files={CARD_KEY: card})


def _run_onnx(path: Path) -> Runner:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"--verify needs the package 'onnxruntime'; {_INSTALL}") from error
    session = onnxruntime.InferenceSession(path)
    return lambda clip: [torch.from_numpy(y) for y in session.run(None, {"clip": clip.numpy()})]


def _run_archive(path: Path) -> Runner:
    module = torch.export.load(path).module()
    return lambda clip: _as_list(module(clip))


def _as_list(logits: Any) -> list[Tensor]:
    return list(logits.values()) if isinstance(logits, dict) else [logits]


def _largest_difference(model: Any, path: Path, kind: str, clip: Tensor) -> float:
    """The largest logit difference over a batch of the traced size and one of another size."""
    run = _run_onnx(path) if kind == "onnx" else _run_archive(path)
    worst = 0.0
    with torch.inference_mode():
        for batch in (clip, clip[:1]):
            for expected, actual in zip(_as_list(model(batch)), run(batch), strict=True):
                worst = max(worst, (expected - actual).abs().max().item())
    if not worst < TOLERANCE:
        raise DataError(
            f"the logits of the {kind} graph differ from the network's by {worst:.1e}; please "
            "report this as a bug"
        )
    return worst
