"""ONNX graphs, computed by ONNX Runtime; see `vtcli.weights.graph_model.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vtcli.errors import UsageError, WeightsError
from vtcli.runtime.extras import missing_package

FORMAT = "onnx"
PRECISIONS: tuple[str, ...] = ("fp32",)
DEVICES: tuple[str, ...] = ("cpu", "cuda")
_CUDA = "CUDAExecutionProvider"


def files(path: Path) -> tuple[Path, ...] | None:
    """The file itself."""
    return (path,) if path.suffix == ".onnx" else None


def metadata(path: Path) -> Mapping[str, str]:
    """The metadata properties of the graph."""
    entries: Mapping[str, str] = _open(path, "cpu").get_modelmeta().custom_metadata_map
    return entries


def compile_graph(path: Path, device: str, precision: str) -> Callable[[Any], Sequence[Any]]:
    """A call that computes the outputs of a batch."""
    session = _open(path, device)
    return lambda clips: session.run(None, {"clip": clips})


def _open(path: Path, device: str) -> Any:
    return _session(path, path.stat().st_mtime_ns, device.startswith("cuda"))


@lru_cache(maxsize=2)
def _session(path: Path, changed_ns: int, on_cuda: bool) -> Any:
    """The graph, ready to compute; `changed_ns` tells whether its file is the same."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(missing_package("ONNX graphs", "onnxruntime", "export")) from error
    if on_cuda and _CUDA not in onnxruntime.get_available_providers():
        raise UsageError(
            "this onnxruntime computes on the CPU alone; use --device cpu, or install it for CUDA: "
            "pip install onnxruntime-gpu"
        )
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers = [*([_CUDA] if on_cuda else []), "CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common class
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} is not a graph that onnxruntime loads ({reason}); export it again with: "
            "vt convert MODEL --to onnx"
        ) from error
