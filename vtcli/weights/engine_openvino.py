"""OpenVINO's intermediate representation; see `vtcli.weights.graph_model.Engine`.

A model is a folder with model.xml, the operations, and model.bin, the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

from vtcli.errors import UsageError, WeightsError
from vtcli.runtime.extras import missing_package
from vtcli.weights.checkpoint import METADATA_KEYS

FORMAT = "openvino"
PRECISIONS: tuple[str, ...] = ("fp32", "bf16")
DEVICES: tuple[str, ...] = ("cpu",)
XML, BIN = "model.xml", "model.bin"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def files(path: Path) -> tuple[Path, ...] | None:
    """model.xml and model.bin of a folder that has one of them, or of the path to either."""
    folder = path if path.is_dir() else path.parent if path.name in (XML, BIN) else None
    if folder is None or not any((folder / name).is_file() for name in (XML, BIN)):
        return None
    return folder / XML, folder / BIN


def metadata(path: Path) -> Mapping[str, str]:
    """What `write_ir` has stored in the graph's runtime information."""
    model = _read(path)
    keys = (key for key in METADATA_KEYS if model.has_rt_info(key))
    return {key: model.get_rt_info(key).astype(str) for key in keys}


def compile_graph(path: Path, device: str, precision: str) -> Callable[[Any], Sequence[Any]]:
    """A call that computes the outputs of a batch; each batch size is compiled on first use."""
    compiled = lru_cache(maxsize=2)(partial(_request, path, precision))
    lock = Lock()  # a request computes one batch at a time

    def run(clips: Any) -> Sequence[Any]:
        with lock:
            outputs = compiled(len(clips)).infer({0: clips}, share_inputs=True)
            return [outputs[number].copy() for number in range(len(outputs))]

    return run


def write_ir(graph: Path, path: Path, entries: Mapping[str, str]) -> None:
    """Write an ONNX graph as model.xml and model.bin, with metadata; weights keep their type."""
    import openvino

    # Not by convert_model: of a quantized graph it makes one that cannot be compiled.
    model = _core().read_model(graph)
    for key, value in entries.items():
        model.set_rt_info(value, key)
    openvino.save_model(model, path, compress_to_fp16=False)


def _core() -> Any:
    """OpenVINO's core; it must be importable whether or not it was loaded before."""
    import openvino

    return _loaded_core(openvino.Core)


@lru_cache(maxsize=1)
def _loaded_core(core: Callable[[], Any]) -> Any:
    """OpenVINO, until the process ends: its CPU plugin gives the thread that loads it another stack
    for signals, and the end of the plugin leaves that thread with memory that is gone.
    """
    return core()


def _read(path: Path) -> Any:
    try:
        core = _core()
    except ImportError as error:
        raise UsageError(missing_package("OpenVINO graphs", "openvino", "openvino")) from error
    try:
        if path.read_bytes()[:5] != b"<?xml":  # what OpenVINO would take for other formats
            raise ValueError("model.xml is not XML")
        return core.read_model(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(path, error) from error


def _request(path: Path, precision: str, batch_size: int) -> Any:
    """What computes batches of one size; a graph of fixed shape is faster than one of any shape."""
    import torch

    model = _read(path)
    shape = model.inputs[0].partial_shape
    shape[0] = batch_size
    model.reshape(shape)
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    try:
        compiled = _core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise _not_loaded(path, error) from error
    return compiled.create_infer_request()


def _not_loaded(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[-200:]
    return WeightsError(
        f"{path.parent} is not a graph that OpenVINO loads ({reason}); export it again with: "
        f"vt convert MODEL --to openvino -o {path.parent}"
    )
