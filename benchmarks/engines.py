"""Inference engines as peers of our networks: OpenVINO and ONNX Runtime on the exported graph.

Each `Engine` compiles a graph for one precision, shape and number of threads, and returns what
computes logits of a clip. Shapes: clips [B,3,T,H,W].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vtcli.weights.export_graph import write_onnx

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Engine:
    """`build(graph, precision, clip, threads)` gives a call that computes the clip's logits."""

    package: str
    precisions: tuple[str, ...]
    build: Callable[[Path, str, Tensor, int], Run]


def openvino_run(graph: Path, precision: str, clip: Tensor, threads: int) -> Run:
    """OpenVINO on the CPU, one stream, the shape fixed."""
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape(list(clip.shape))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        },
    )
    request, values = compiled.create_infer_request(), clip.numpy()
    return lambda: torch.from_numpy(request.infer({0: values})[0])


def onnxruntime_run(graph: Path, precision: str, clip: Tensor, threads: int) -> Run:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    values = clip.numpy()
    return lambda: torch.from_numpy(session.run(None, {"clip": values})[0])


ENGINES = {
    "openvino": Engine("openvino", ("fp32", "bf16"), openvino_run),
    "onnxruntime": Engine("onnxruntime", ("fp32",), onnxruntime_run),
}


def exported(net: nn.Module, clip: Tensor, path: Path) -> Path:
    """The network as an ONNX graph, which is written unless it is there."""
    if not path.exists():
        write_onnx(net, clip.repeat(2, 1, 1, 1, 1)[:2], path, ["logits"], "{}")
    return path
