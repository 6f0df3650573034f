"""Our own checkpoint files: safetensors that describe themselves in their metadata, opened by
mapping.

The metadata key `vt` holds a card in JSON: architecture, configuration, labels, pipeline, where the
weights came from (address, digest, license) and what they score, so that a file stands alone. Files
are written tensor by tensor and appear under their name only when they are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, InputError, WeightsError
from vtcli.runtime.files import atomic_write
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
CARD_KEY = "vt"
# What format 1 called a key and a value of `pipeline`.
PIPELINE_KEYS_1 = {"score": "view_fusion"}
SAMPLING_NAMES_1 = {"dense_loop_segment_centres": "dense_loop_segment_centers"}
_MAX_HEADER = 100_000_000
_MAPPED_TOGETHER = 16
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class HeadSpec:
    """One classifier output and its class names in index order."""

    name: str
    size: int
    labels: tuple[str, ...]
    confidence: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint file says of itself; see `weights.registry.Checkpoint` for the fields'
    meaning.
    """

    id: str
    arch: str
    model: str
    config: Mapping[str, Any]
    heads: tuple[HeadSpec, ...]
    pipeline: Pipeline
    dataset: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    pretrain: str = ""
    top1: float | None = None
    top5: float | None = None
    metric: str = "top-1"
    metric_source: str = ""
    license: str = ""
    notes: str = ""
    created_with: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the only head, or of all heads one after the other."""
        return tuple(label for head in self.heads for label in head.labels)

    @property
    def views(self) -> str:
        """The published protocol, clips x crops."""
        return f"{self.pipeline.clips}x{self.pipeline.crops}"

    def to_json(self) -> str:
        """The card as one line of JSON."""
        table = {**asdict(self), "pipeline": self.pipeline.to_dict(), "format": FORMAT}
        return json.dumps({**table, "views": self.views}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Raises `KeyError`, `TypeError` or `ValueError` for what is no card of this format."""
        table = json.loads(text)
        version = table.pop("format")
        if version > FORMAT:
            raise ValueError("it was written by a newer version of vtcli")
        if version < FORMAT:
            table = _from_format_1(table)
        table.pop("views", None)
        heads = tuple(HeadSpec(**{**h, "labels": tuple(h["labels"])}) for h in table.pop("heads"))
        return cls(**{**table, "heads": heads, "pipeline": Pipeline.from_dict(table["pipeline"])})


def _from_format_1(table: Mapping[str, Any]) -> dict[str, Any]:
    """A card of format 1 in the words of format 2."""
    pipeline = {PIPELINE_KEYS_1.get(k, k): v for k, v in table["pipeline"].items()}
    sampling = pipeline["sampling"]
    return {
        **table,
        "pipeline": {**pipeline, "sampling": SAMPLING_NAMES_1.get(sampling, sampling)},
    }


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, without PyTorch.

    Raises `InputError` where there is no such file, `WeightsError` where it is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("its header length is impossible")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no safetensors file; make one with `vt convert`") from error
    return header


def read_card(path: Path) -> ModelCard:
    """The card of one of our files.

    Raises `WeightsError` for a safetensors file without one (another project's): it has to be
    converted.
    """
    metadata = read_header(path).get("__metadata__") or {}
    if CARD_KEY not in metadata:
        raise WeightsError(
            f"{path} does not say what it is; convert it first: vt convert {path} -m MODEL -o "
            "model.safetensors"
        )
    try:
        return ModelCard.from_json(metadata[CARD_KEY])
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise WeightsError(f"the card in {path} cannot be read: {error}") from error


def open_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, mapped from the file: nothing is read before it is used.

    A mapping stays in memory, as far as it was read, until the last of its tensors is gone; so
    tensors share one only with few others.
    Raises `WeightsError` where the file is cut off or damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
        for first in range(0, len(names), _MAPPED_TOGETHER):
            with safe_open(path, framework="pt") as file:
                for name in names[first : first + _MAPPED_TOGETHER]:
                    tensors[name] = file.get_tensor(name)
        return tensors
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is a broken safetensors file ({error}); make it again"
        ) from error


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file tensor by tensor, whole or not at all; returns its sha256.

    Raises `DataError` where the disk is full or the folder cannot be written.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with atomic_write(path, size) as part, part.open("wb") as file:
        digest = _write(file, tensors, metadata)
        file.flush()
        os.fsync(file.fileno())
    return digest


def _write(file: Any, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    # Wider types first, so that every tensor starts at a multiple of its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha = hashlib.sha256()
    for block in (struct.pack("<Q", len(text)), text):
        file.write(block)
        sha.update(block)
    for name in order:
        flat = tensors[name].detach().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy()
        file.write(raw.data)
        sha.update(raw.data)
    return sha.hexdigest()
