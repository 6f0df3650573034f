"""Exported graphs in int8: weights per channel, activations by their ranges on calibration clips.

ONNX Runtime's static quantization inserts the quantized products (Q/DQ form), which ONNX Runtime
and OpenVINO both compute in int8. Half of the given videos calibrate; on the others the int8 graph
is compared with the fp32 graph, and timed in turn with it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtcli.data.samples import sample_of
from vtcli.errors import DataError, VideoDecodeError
from vtcli.inference.predictor import Predictor
from vtcli.inference.scoring import by_head
from vtcli.runtime.files import atomic_write
from vtcli.weights.checkpoint import CARD_KEY, PRECISION_KEY, read_card
from vtcli.weights.engine_openvino import XML, write_ir
from vtcli.weights.export_graph import export_graph, quiet, require
from vtcli.weights.graph_model import GraphNetwork, load_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MOST_CLIPS = 64
"""Calibrating, and as many held out."""
ROUNDS = 7


@dataclass(frozen=True)
class QuantizationReport:
    """What int8 changes, in center views of `held_out` videos.

    same_first: videos with the same first class of every head as in fp32. largest_difference: of a
    probability. milliseconds: of one clip on this machine, shortest of several rounds, `fp32` and
    `int8`. failures: the videos that could not be read.
    """

    calibration: int
    held_out: int
    same_first: int
    largest_difference: float
    milliseconds: dict[str, float]
    failures: tuple[VideoDecodeError, ...]


def export_int8(
    src: Path, dst: Path, kind: str, videos: Sequence[str], on_stage: Callable[[str], None]
) -> QuantizationReport:
    """Write one of our files as an int8 graph, `onnx` or `openvino`.

    Raises `DataError` where fewer than two of the videos can be read, `UsageError` for a missing
    package.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if kind == "openvino":
        require("openvino", extra="openvino")
    card = read_card(src)
    entries = {CARD_KEY: card.to_json(), PRECISION_KEY: "int8"}
    with tempfile.TemporaryDirectory() as temporary:
        plain, int8 = Path(temporary, "fp32.onnx"), Path(temporary, "int8.onnx")
        on_stage("reading the videos")
        with Predictor(src, precision="fp32") as predictor:
            paths = _spread(videos, 2 * MOST_CLIPS)
            calibration = _Clips(predictor, paths[::2], partial(_count, on_stage, "calibrating"))
            held_out = _Clips(predictor, paths[1::2], partial(_count, on_stage, "comparing"))
            if not (calibration.any() and held_out.any()):
                raise _too_few(videos, calibration, held_out)
            export_graph(src, plain, "onnx", on_stage=on_stage)
            _quantize(plain, int8, calibration)
            size = int8.stat().st_size
            with atomic_write(dst / XML if kind == "openvino" else dst, size) as part:
                if kind == "openvino":
                    write_ir(int8, part, entries)
                    write_ir(plain, Path(temporary, XML), {CARD_KEY: entries[CARD_KEY]})
                    plain = Path(temporary, XML)
                else:
                    _with_metadata(int8, part, entries)
                same, worst, milliseconds = _compare(plain, part, held_out)
    failures = (*calibration.failures, *held_out.failures)
    return QuantizationReport(
        *(calibration.read, held_out.read, same, worst, milliseconds, failures)
    )


def _count(on_stage: Callable[[str], None], what: str, number: int, total: int) -> None:
    on_stage(f"{what}, video {number} of {total}")


def _spread(paths: Sequence[str], most: int) -> list[str]:
    """At most so many paths, evenly over the list: every class folder has some."""
    step = max(1.0, len(paths) / most)
    return [paths[int(number * step)] for number in range(min(most, len(paths)))]


class _Clips:
    """The center clips [1,3,T,S,S] of videos, one at a time; what ONNX Runtime calls a data reader.

    read, failures: the videos that gave a clip, and that could not be read.
    """

    def __init__(
        self, predictor: Predictor, paths: Sequence[str], on_video: Callable[[int, int], None]
    ) -> None:
        self.read, self.failures = 0, list[VideoDecodeError]()
        self._clips = self._read(predictor, paths, on_video)

    def _read(
        self, predictor: Predictor, paths: Sequence[str], on_video: Callable[[int, int], None]
    ) -> Iterator[Tensor]:
        reader = predictor.reader()
        for number, path in enumerate(paths, 1):
            on_video(number, len(paths))
            try:
                loaded = reader.read(sample_of(path), None, predictor.open_source)
                clip = next(loaded.clips)[None]
            except VideoDecodeError as error:
                self.failures.append(error)
                continue
            self.read += 1
            yield clip

    def any(self) -> bool:
        """Whether a clip is left."""
        first = next(self._clips, None)
        if first is None:
            return False
        self._clips = chain([first], self._clips)
        return True

    def __iter__(self) -> Iterator[Tensor]:
        return self._clips

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input, None after the last one."""
        clip = next(self._clips, None)
        return None if clip is None else {"clip": clip.numpy()}


def _too_few(videos: Sequence[str], *clips: _Clips) -> DataError:
    read = sum(part.read for part in clips)
    failures = [failure for part in clips for failure in part.failures]
    reason = f" ({failures[0]})" if failures else ""
    return DataError(
        f"{read} of {len(videos)} calibration videos can be read{reason}, and two are needed; name "
        "a folder with more videos with --calibration"
    )


def _quantize(src: Path, dst: Path, clips: _Clips) -> None:
    """Products with weights in int8; products of activations and convolutions stay in fp32."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with quiet():
        # Without its preprocessing, after which OpenVINO needs twice as long for the small models.
        quantize_static(
            src,
            dst,
            clips,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _with_metadata(src: Path, dst: Path, entries: dict[str, str]) -> None:
    import onnx

    model = onnx.load(src)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, dst)


def _compare(
    fp32: Path, int8: Path, clips: Iterable[Tensor]
) -> tuple[int, float, dict[str, float]]:
    """`same_first`, `largest_difference` and `milliseconds` of the report."""
    networks = {"fp32": load_graph(fp32), "int8": load_graph(int8)}
    same, worst = 0, 0.0
    for clip in clips:
        expected, actual = (_probabilities(net, clip) for net in networks.values())
        pairs = list(zip(expected, actual, strict=True))
        worst = max(worst, *((e_K - a_K).abs().max().item() for e_K, a_K in pairs))
        same += all(e_K.argmax() == a_K.argmax() for e_K, a_K in pairs)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, net in networks.items():
            start = time.perf_counter()
            net(clip)
            seconds[name].append(time.perf_counter() - start)
    return same, worst, {name: 1e3 * min(took) for name, took in seconds.items()}


def _probabilities(net: GraphNetwork, clip: Tensor) -> list[Tensor]:
    """The probabilities [K] of every head."""
    from vtcli.video.views import probabilities

    rule = net.card.pipeline.view_fusion
    return [probabilities(logits, rule) for logits in by_head(net, net(clip)).values()]
