"""Our own checkpoint files: safetensors files whose metadata describe them, opened memory-mapped.

The metadata key `vt` holds a model card in JSON: architecture, configuration, labels, pipeline,
where the weights come from (address, digest, license) and what they score. So a file needs nothing
else. Files are written tensor by tensor and appear under their name only when they are complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli._version import __version__
from vtcli.errors import DataError, InputError, LayoutError, WeightsError
from vtcli.labels.heads import HeadSpec
from vtcli.runtime.files import atomic_write
from vtcli.runtime.progress import CountedFile, ProgressCallback, no_progress
from vtcli.video.pipeline import Pipeline
from vtcli.weights.card_check import check_card

if TYPE_CHECKING:
    from torch import Tensor

CARD_KEY = "vt"
PRECISION_KEY = "vt_precision"
"""Metadata entry of an exported graph that does not compute in fp32."""
METADATA_KEYS = (CARD_KEY, PRECISION_KEY)
WEIGHTS_FILE = "model.safetensors"
"""The name of the weights in a repository."""
FORMAT = 2
# Keys and values of a card's `pipeline` that had another name in format 1.
RENAMED_IN_2 = {
    "score": "view_fusion",
    "dense_loop_segment_centres": "dense_loop_segment_centers",
}
_MAX_HEADER = 100_000_000
_TENSORS_PER_MAPPING = 16
DTYPES = {
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
class ModelCard:
    """The description stored in a checkpoint file.

    The fields mean what they mean in `vtcli.weights.registry.Checkpoint`; `source` is where the
    weights came from, `created_with` the version of vtcli that wrote the file. calibration: what
    `vt eval calibrate` fitted per head (see `vtcli.evaluation.calibrate`), {} if it has not run.
    thresholds: of a head whose classes do not exclude each other, the probability from which a
    class is predicted. adaptive_views: when `--views auto` stops (`vtcli.evaluation.stopping`), {}
    if `vt eval calibrate --views` has not run. events: the windows and the rule that were fitted
    for `--events` (see `vtcli.evaluation.event_calibration`).
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
    calibration: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    adaptive_views: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the only head, or of all heads one after the other."""
        return tuple(label for head in self.heads for label in head.labels)

    @property
    def views(self) -> str:
        """The published protocol, clips x crops."""
        return f"{self.pipeline.clips}x{self.pipeline.crops}"

    def with_classes(self, count: int, labels: tuple[str, ...], config: Any) -> ModelCard:
        """The card of the same network with a new classifier: no id, no scores, no calibration."""
        return replace(
            self,
            id="",
            config=asdict(config),
            heads=(HeadSpec("action", count, labels),),
            dataset="",
            pretrain=self.id or self.pretrain,
            top1=None,
            top5=None,
            metric_source="",
            calibration={},
            adaptive_views={},
            events={},
            created_with=f"vtcli {__version__}",
        )

    def write(self, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint file; classes without a name are called `class 0` and so on.

        Raises `DataError` as `write_checkpoint` does.
        """
        heads = tuple(
            head
            if head.labels
            else replace(head, labels=tuple(f"class {n}" for n in range(head.size)))
            for head in self.heads
        )
        on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        write_checkpoint(Path(path), on_cpu, {CARD_KEY: replace(self, heads=heads).to_json()})

    def to_json(self) -> str:
        """The card as one line of JSON."""
        table = {
            **asdict(self),
            "heads": [_head_table(head) for head in self.heads],
            "pipeline": self.pipeline.to_dict(),
            "format": FORMAT,
            "views": self.views,
        }
        for name in ("calibration", "thresholds", "adaptive_views", "events"):
            if not table[name]:  # so that earlier versions read the cards that need nothing new
                del table[name]
        return json.dumps(table, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card of this format or an older one.

        Raises `KeyError`, `TypeError` or `ValueError` for anything else.
        """
        table = json.loads(text)
        if not isinstance(table, dict) or "format" not in table:
            raise ValueError("it is not a table with a format number")
        table = upgrade(table)
        del table["format"]
        table.pop("views", None)
        heads = tuple(HeadSpec(**{**h, "labels": tuple(h["labels"])}) for h in table.pop("heads"))
        return cls(**{**table, "heads": heads, "pipeline": Pipeline.from_dict(table["pipeline"])})


def _head_table(head: HeadSpec) -> dict[str, Any]:
    """A head without the name of its class list, which may be a local path."""
    return {
        "name": head.name,
        "size": head.size,
        "labels": list(head.labels),
        "confidence": head.confidence,
    }


def upgrade(table: Mapping[str, Any]) -> dict[str, Any]:
    """A card's table with the keys of the current format.

    Raises `KeyError` or `TypeError` for a table without a format number, and `ValueError` for a
    format that is newer than this version.
    """
    if table["format"] > FORMAT:
        raise ValueError("it was written by a newer version of vtcli; update vtcli")
    if table["format"] == FORMAT:
        return dict(table)
    pipeline = {RENAMED_IN_2.get(key, key): value for key, value in table["pipeline"].items()}
    for key, value in pipeline.items():
        if isinstance(value, str):
            pipeline[key] = RENAMED_IN_2.get(value, value)
    return {**table, "pipeline": pipeline, "format": FORMAT}


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, read without PyTorch.

    Raises `InputError` for a missing file, and `WeightsError` if it is not a safetensors
    file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("its header length is impossible")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is not a table")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is not a safetensors file; make one with `vt convert`"
        ) from error
    return header


def read_card(path: Path) -> ModelCard:
    """The card of one of our files.

    Raises `WeightsError` for a safetensors file without a card, such as another project's, and for
    a card that does not describe the file's tensors.
    """
    header = read_header(path)
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict) or CARD_KEY not in metadata:
        way = f"convert it first: vt convert {path} -m MODEL -o model.safetensors"
        if (path.parent / "config.json").is_file():
            way = f"config.json beside it describes it, so name its folder, {path.parent}"
        raise WeightsError(f"{path} has no model card; {way}")
    try:
        card = ModelCard.from_json(metadata[CARD_KEY])
        check_card(card, header)
    except (KeyError, TypeError, ValueError, AttributeError, DataError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"the model card in {path} cannot be used: {reason}") from error
    return card


def require_classifier(card: ModelCard, name: str | Path) -> None:
    """Raise `LayoutError` for the card of a network that has no classifier."""
    if not card.heads:
        raise LayoutError(
            f"{name} has no classifier; train one: vt finetune -m {name} --dataset DIR -o RUN"
        )


def open_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, memory-mapped: nothing is read from disk before it is used.

    The pages of a mapping that were read stay in memory until all of its tensors are freed, so
    each mapping holds only a few tensors. Raises `WeightsError` if the file is truncated or
    damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
        for first in range(0, len(names), _TENSORS_PER_MAPPING):
            with safe_open(path, framework="pt") as file:
                for name in names[first : first + _TENSORS_PER_MAPPING]:
                    tensors[name] = file.get_tensor(name)
        return tensors
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is a damaged safetensors file ({error}); convert or download it again"
        ) from error


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    on_bytes: ProgressCallback = no_progress,
) -> str:
    """Write a safetensors file tensor by tensor, completely or not at all; returns its sha256.

    Raises `DataError` if the disk is full or the folder cannot be written.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with atomic_write(path, size) as part, part.open("wb") as file:
        counted = CountedFile(file, f"writing {path.name}", size, on_bytes)
        digest = _write(counted, tensors, metadata)
        file.flush()
        os.fsync(file.fileno())
    return digest


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of the tensors alone: names, types, shapes and bytes in the order of the names.

    Equal for two files that hold the same weights under our names, whatever else they say.
    """
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        sha.update(f"{name}:{dtype}:{list(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _write(file: Any, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    # Wider types first, so that every tensor starts at a multiple of its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
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
