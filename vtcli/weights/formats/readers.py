"""Read upstream checkpoint files safely: safetensors, PyTorch pickle, Flax msgpack, NumPy archive.

The format is detected from the file's first bytes, never from its name. Nothing in a file is ever
executed: a pickle that names anything but tensors and known inert records is refused, and so is a
TorchScript archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import InputError, UnsafeFileError, WeightsError
from vtcli.models import get_architecture, list_architectures
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback, no_progress
from vtcli.weights.card_check import MAX_TENSORS
from vtcli.weights.checkpoint import CARD_KEY, DTYPES
from vtcli.weights.formats.pickles import load_pickle
from vtcli.weights.formats.unwrap import Fits, find_weights

# Compressed weights are at most a little smaller than they are in memory.
MAX_ZIP_RATIO = 20
MIN_ZIP_LIMIT = 1 << 26
_INDEX = ".index.json"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)")
# The first bytes of files that are often taken for weights, and what they are.
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights; run `git lfs pull` in its "
    "repository, or download the file itself",
    b"<!doctype html": "an HTML page, such as a login or error page, not the weights; download it "
    "again",
    b"<html": "an HTML page, such as a login or error page, not the weights; download it again",
    b"<?xml": "an XML text, such as a storage server's error, not the weights; download it again",
    b"{": "a JSON text, not the weights; name the weights file",
    b"\x1f\x8b": "a gzip archive; unpack it and name the checkpoint file inside",
    b"\x93numpy": "a single NumPy array without names; name a checkpoint file",
    b"\x89hdf": "a Keras/HDF5 file; use the PyTorch or Flax file of this model",
}


@dataclass
class RawCheckpoint:
    """A checkpoint file's tensors by the names in the file.

    kind: safetensors, pickle, msgpack or npz; wrapper_keys: the keys that lead to the tensors,
    joined by "." ("" for a flat file); metadata: a safetensors file's metadata; unused: (name,
    reason) of tensors beside the weights; note: which of several copies of the weights was taken.
    """

    tensors: dict[str, Tensor]
    kind: str
    wrapper_keys: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    unused: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def read_checkpoint(path: Path, fits: Fits | None = None, ema: bool = False) -> RawCheckpoint:
    """Open a checkpoint file of any known format, memory-mapped if the format allows it.

    A folder or `*.index.json` of a sharded checkpoint is read as one file. `fits` and `ema` choose
    between several sets of weights in the file: see `find_weights`. Raises `InputError` for
    a missing file, `UnsafeFileError` if it could only be opened by running code, and
    `WeightsError` if it is damaged or of an unknown format.
    """
    path = _sharded_index(path)
    if path.name.endswith(_INDEX):
        return _raw(path, _read_shards(path), "safetensors", {}, fits, ema)
    return _raw(path, *_read_file(path), fits, ema)


def fits_a_layout(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensor names are those of a layout of any architecture."""
    return any(
        layout.recognizes(tensors)
        for architecture in map(get_architecture, list_architectures())
        for layout in architecture.layouts.values()
    )


def _raw(
    path: Path,
    found: Any,
    kind: str,
    metadata: Mapping[str, str],
    fits: Fits | None,
    ema: bool,
) -> RawCheckpoint:
    if kind == "msgpack" or CARD_KEY in metadata:
        result = RawCheckpoint(found, kind, metadata=metadata)
    else:
        weights = find_weights(path, found, fits, ema)
        result = RawCheckpoint(
            weights.tensors, kind, weights.keys, metadata, weights.unused, weights.note
        )
    _refuse_odd_tensors(path, result)
    return result


def _refuse_odd_tensors(path: Path, contents: RawCheckpoint) -> None:
    """Raise `WeightsError` for tensors that are not plain numbers, one after the other."""
    for name, tensor in contents.tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind in DTYPES and tensor.layout is torch.strided and tensor.device.type == "cpu":
            continue
        form = "without values" if tensor.device.type == "meta" else f"{kind}"
        form = form if tensor.layout is torch.strided else "sparse"
        raise WeightsError(
            f"{path}: the tensor '{name}' is {form}; save its values as float32 or float16"
        )
    size = sum(t.numel() * t.element_size() for t in contents.tensors.values())
    if contents.kind == "pickle" and size > max(2 * path.stat().st_size, MIN_ZIP_LIMIT):
        raise WeightsError(
            f"{path} would expand to {size} bytes, more than twice its size; weights never do, "
            "name another file"
        )


def _sharded_index(path: Path) -> Path:
    """The index of a sharded checkpoint for its folder, else the file itself.

    Raises `InputError` for a folder without an index, a missing file and one shard of several.
    """
    if os.path.isdir(path):
        indexes = sorted(path.glob("*.index.json"))
        if len(indexes) == 1:
            return indexes[0]
        raise InputError(f"{path} is a folder; name the checkpoint file inside it")
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint file {path}; check the path")
    if shard := _SHARD.search(path.name):
        index = path.with_name(f"{path.name[: shard.start()]}{path.suffix}.index.json")
        if int(shard[2]) > 1:
            way = (
                f"name {index}" if index.is_file() else f"get all parts and {index.name}, its index"
            )
            raise InputError(
                f"{path} is part {int(shard[1])} of {int(shard[2])} of a sharded checkpoint; {way}"
            )
    return path


def checkpoint_files(path: Path) -> list[Path]:
    """The file, or the files of a sharded checkpoint; raises `InputError` if one is missing."""
    path = _sharded_index(path)
    if not path.name.endswith(_INDEX):
        return [path]
    shards = [path.with_name(name) for name in sorted(set(_weight_map(path).values()))]
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"the part {shard.name} of {path} is missing; download it to {shard}")
    return shards


def checkpoint_digest(path: Path, on_bytes: ProgressCallback = no_progress) -> str:
    """The sha256 of a file; of a sharded checkpoint, that of the digests of its files."""
    digests = [file_sha256(file, on_bytes) for file in checkpoint_files(path)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _weight_map(index: Path) -> dict[str, str]:
    """File name by tensor name, from the index of a sharded checkpoint."""
    try:
        files = json.loads(index.read_bytes())["weight_map"]
        for name in files.values():
            if name != Path(name).name or name.startswith("."):
                raise ValueError(f"'{name}' is not the name of a file in the same folder")
    except OSError as error:
        raise InputError(f"{index} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{index} is not the index of a sharded checkpoint ({error}); download it again"
        ) from error
    return dict(files)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that the index of a sharded checkpoint names."""
    tensors: dict[str, Tensor] = {}
    for shard in checkpoint_files(index):
        part = _read_file(shard)[0]
        if twice := tensors.keys() & part.keys():
            raise WeightsError(f"{index} has the tensor '{min(twice)}' in two files")
        tensors.update(part)
    if missing := sorted(set(_weight_map(index)) - set(tensors)):
        raise WeightsError(
            f"the parts of {index} lack the tensor '{missing[0]}'; download them again"
        )
    return tensors


def _read_file(path: Path) -> tuple[Any, str, Mapping[str, str]]:
    """Content, kind and metadata of one file."""
    head = _first_bytes(path)
    if not head:
        raise WeightsError(f"{path} is empty; download it again")
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return _read_safetensors(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return load_pickle(path, mmap=False), "pickle", {}
    text = head.lstrip().lower()
    for start, what in _NOT_WEIGHTS.items():
        if text.startswith(start):
            raise WeightsError(f"{path} is {what}")
    if 0x81 <= head[0] <= 0x8F:
        from vtcli.weights.formats.flax import read_flax

        return read_flax(path), "msgpack", {}
    raise WeightsError(
        f"{path} is not a checkpoint file (safetensors, PyTorch pickle, Flax msgpack or npz); name "
        "one that is"
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _read_safetensors(path: Path) -> tuple[Any, str, Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            _refuse_too_many(path, len(file.keys()))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, "safetensors", file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is a damaged safetensors file ({error}); download it again"
        ) from error


def _refuse_too_many(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        raise WeightsError(f"{path} has {count} tensors, which no model has; name another file")


def _read_zip(path: Path) -> tuple[Any, str, Mapping[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or damaged ({error}); download it again"
        ) from error
    if unpacked > max(MAX_ZIP_RATIO * path.stat().st_size, MIN_ZIP_LIMIT):
        raise WeightsError(
            f"{path} would unpack to {unpacked} bytes, {MAX_ZIP_RATIO} times its size or more; "
            "weights never do, name another file"
        )
    _refuse_too_many(path, len(names))
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive, which contains code; use the same weights as "
            "safetensors "
            "(for CLIP: openai/clip-vit-base-patch16 or openai/clip-vit-large-patch14 on the Hub, "
            "or timm/vit_*_clip_*.openai)"
        )
    if any(name.endswith(".npy") for name in names):
        return _read_npz(path), "npz", {}
    if not any(name.endswith("/data.pkl") for name in names):
        inside = ", ".join(names[:3]) or "nothing"
        raise WeightsError(
            f"{path} is a zip archive that torch.save did not write (it holds {inside}); unpack it "
            "and name the checkpoint file inside"
        )
    return load_pickle(path, mmap=True), "pickle", {}


def _read_npz(path: Path) -> dict[str, Tensor]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for name, array in arrays.items():
            if array.dtype.kind not in "biufc":
                raise WeightsError(
                    f"{path} is a NumPy archive whose '{name}' is not an array of numbers, so it "
                    "holds no checkpoint; name the file with the weights"
                )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise WeightsError(
            f"{path} is a damaged NumPy archive ({error}); download it again"
        ) from error
