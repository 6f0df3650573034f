"""An exported graph as a network: a clip in, logits out, computed by an inference engine.

The engine follows from the file: ONNX Runtime for .onnx, OpenVINO for a folder with model.xml and
model.bin. The graph has the model card in its metadata (`export_graph`), so that frames are sampled
and scores are fused as for the file that it was exported from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vtcli.errors import InputError, UsageError, WeightsError
from vtcli.models import get_architecture
from vtcli.models.build import build_on_meta
from vtcli.runtime.files import file_sha256
from vtcli.weights import engine_onnxruntime, engine_openvino
from vtcli.weights.checkpoint import CARD_KEY, PRECISION_KEY, ModelCard

if TYPE_CHECKING:
    from torch import Tensor

Run = Callable[[Any], Sequence[Any]]


class Engine(Protocol):
    """What a module that computes graphs of one format has."""

    FORMAT: str
    PRECISIONS: tuple[str, ...]
    DEVICES: tuple[str, ...]

    def files(self, path: Path) -> tuple[Path, ...] | None:
        """The files of the graph that a path names, first the one to load; None for no graph."""
        ...

    def metadata(self, path: Path) -> Mapping[str, str]:
        """What is stored with a graph; raises what `compile_graph` does."""
        ...

    def compile_graph(self, path: Path, device: str, precision: str) -> Run:
        """A call that computes the outputs of clips, arrays float32 [B,3,T,H,W].

        Raises `UsageError` for a missing package or device, `WeightsError` for a file that the
        engine does not load.
        """
        ...


ENGINES: tuple[Engine, ...] = (engine_onnxruntime, engine_openvino)


def find_graph(path: Path) -> tuple[Engine, tuple[Path, ...]] | None:
    """The engine and the files of a graph; None for anything else."""
    for engine in ENGINES:
        if (files := engine.files(path)) is not None:
            return engine, files
    return None


def model_sha256(path: Path) -> str:
    """The SHA-256 of a checkpoint file, or of the digests of the files of a graph."""
    found = find_graph(path)
    if found is None or len(found[1]) == 1:
        return file_sha256(path)
    digests = "".join(file_sha256(file) for file in found[1])
    return hashlib.sha256(digests.encode()).hexdigest()


class GraphNetwork:
    """Computes like the network that was exported; see `vtcli.models.protocol.VideoModel`.

    `precision` is that of its products; clips are fp32.
    """

    def __init__(self, path: Path, card: ModelCard, precision: str, run: Run) -> None:
        import torch

        self.card, self.precision, self._run = card, precision, run
        self.config, self.labels = card.config, card.labels
        self.dtype = torch.float32
        architecture = get_architecture(card.arch)
        network = build_on_meta(architecture, architecture.read_config(card.config)).eval()
        # Overlapping windows sample the frames that the network would share.
        self.sampling_step: int | None = getattr(network, "frame_step", None)

    def __call__(self, clips_B3THW: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Logits [B,K], or one such tensor per head."""
        import torch

        logits = [torch.from_numpy(output) for output in self._run(clips_B3THW.numpy())]
        heads = [head.name for head in self.card.heads]
        return logits[0] if len(heads) == 1 else dict(zip(heads, logits, strict=True))

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """A tensor where clips are expected: the graph has the weights to itself."""
        import torch

        return iter([torch.empty(0)])


def load_graph(
    path: Path, device: str = "auto", precision: str = "auto", label_set: str | None = None
) -> GraphNetwork:
    """The network of a graph; raises `UsageError` for settings that a graph does not have, and
    what `read_graph_card` does.
    """
    card = read_graph_card(path)
    engine, (file, *_) = _found(path)
    stored = engine.metadata(file).get(PRECISION_KEY, "fp32")
    possible = engine.PRECISIONS if stored == "fp32" else (stored,)
    if precision not in ("auto", *possible):
        raise UsageError(
            f"{path} computes in {' or '.join(possible)}; leave out --precision {precision}"
        )
    if label_set is not None:
        raise UsageError(f"{path} has a fixed classifier; leave out --label-set {label_set}")
    if device != "auto" and device.split(":")[0] not in engine.DEVICES:
        raise UsageError(
            f"{path} runs on {' or '.join(engine.DEVICES)}; leave out --device {device}"
        )
    chosen = stored if precision == "auto" else precision
    return GraphNetwork(path, card, chosen, engine.compile_graph(file, device, chosen))


def read_graph_card(path: Path) -> ModelCard:
    """The model card of a graph.

    Raises `InputError` for a missing file, `UsageError` where the engine is not installed,
    `WeightsError` for a file that is not a graph or has no card.
    """
    engine, (file, *_) = _found(path)
    try:
        return ModelCard.from_json(engine.metadata(file)[CARD_KEY])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} has no model card that can be read ({error}); export the graph with: "
            f"vt convert MODEL --to {engine.FORMAT}"
        ) from error


def _found(path: Path) -> tuple[Engine, tuple[Path, ...]]:
    found = find_graph(path)
    assert found is not None  # callers ask `find_graph` first
    engine, files = found
    missing = [file for file in files if not file.is_file()]
    if missing and len(files) == 1:
        raise InputError(f"the model file {path} does not exist; check the path")
    if missing:
        raise WeightsError(
            f"{path} lacks {missing[0].name}; export it again with: vt convert MODEL --to "
            f"{engine.FORMAT} -o {missing[0].parent}"
        )
    return engine, files
