"""Read upstream checkpoint files safely: safetensors, PyTorch pickle, Flax msgpack, NumPy archive.

The format is detected from the file's first bytes, never from its name. Nothing in a file is ever
executed: a pickle that names anything but tensors and known inert records is refused, and so is a
TorchScript archive.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import InputError, UnsafeFileError, WeightsError

# Keys under which upstreams store the weights in a training checkpoint, in search order.
STATE_DICT_KEYS = ("state_dict", "model_state", "model", "module", "state_dict_ema", "params")

# Classes of records that training tools store next to the weights; they are read as empty stubs.
INERT_RECORDS = frozenset(
    {
        "argparse.Namespace",
        "fvcore.common.config.CfgNode",
        "yacs.config.CfgNode",
        "mmengine.config.config.ConfigDict",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "mmcv.utils.config.ConfigDict",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "_codecs.encode",
    }
)


@dataclass
class RawCheckpoint:
    """A checkpoint file's tensors by the names in the file.

    kind: safetensors, pickle, msgpack or npz; wrapper_keys: the keys that lead to the tensors,
    joined by "." ("" for a flat file); metadata: a safetensors file's metadata.
    """

    tensors: dict[str, Tensor]
    kind: str
    wrapper_keys: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Open a checkpoint file of any known format, memory-mapped if the format allows it.

    Raises `InputError` if there is no such file, `UnsafeFileError` if it could only be opened by
    running code, and `WeightsError` if it is damaged or of an unknown format.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; name the checkpoint file inside it")
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint file {path}; check the path")
    head = _first_bytes(path)
    if not head:
        raise WeightsError(f"{path} is empty; download it again")
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _read_pickle(path, mmap=False)
    if head.startswith(b"\x89HDF"):
        raise WeightsError(
            f"{path} is a Keras/HDF5 file; use the PyTorch or Flax file of this model"
        )
    if 0x81 <= head[0] <= 0x8F:
        from vtcli.weights.formats.flax import read_flax

        return RawCheckpoint(read_flax(path), "msgpack")
    raise WeightsError(
        f"{path} is not a checkpoint file (safetensors, PyTorch pickle, Flax msgpack or npz); name "
        "one that is"
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _read_safetensors(path: Path) -> RawCheckpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return RawCheckpoint(tensors, "safetensors", metadata=file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is a damaged safetensors file ({error}); download it again"
        ) from error


def _read_zip(path: Path) -> RawCheckpoint:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or damaged ({error}); download it again"
        ) from error
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive, which contains code; use the same weights as "
            "safetensors "
            "(for CLIP: openai/clip-vit-base-patch16 or openai/clip-vit-large-patch14 on the Hub, "
            "or timm/vit_*_clip_*.openai)"
        )
    if any(name.endswith(".npy") for name in names):
        return _read_npz(path)
    return _read_pickle(path, mmap=True)


def _read_npz(path: Path) -> RawCheckpoint:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} is a damaged NumPy archive ({error}); download it again"
        ) from error
    return RawCheckpoint(tensors, "npz")


class _Stub:
    """Replaces a record whose contents are not needed; runs no code and stores nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _read_pickle(path: Path, mmap: bool) -> RawCheckpoint:
    inert: list[Any] = [(_stub_class(name), name) for name in sorted(INERT_RECORDS)]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is truncated or damaged ({reason}); download it again"
        ) from error
    return _unwrap(path, content)


def _stub_class(name: str) -> type[_Stub]:
    return type(name.rsplit(".", 1)[-1], (_Stub,), {})


def _refusal(path: Path, error: pickle.UnpicklingError) -> WeightsError:
    """The error for a file that PyTorch's restricted unpickler refused."""
    words = str(error).replace("`", " ").split()
    if "GLOBAL" in words:
        name = words[words.index("GLOBAL") + 1]
        return UnsafeFileError(
            f"{path} would run '{name}' while it is read, so it was refused, because a checkpoint "
            "needs tensors only; use the same weights as safetensors"
        )
    return WeightsError(f"{path} is not a readable PyTorch checkpoint; download it again")


def _unwrap(path: Path, content: Any) -> RawCheckpoint:
    """Descend through the known keys to the dict of tensors."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        key = next((k for k in STATE_DICT_KEYS if isinstance(content.get(k), Mapping)), None)
        if tensors and key is None:
            return RawCheckpoint(tensors, "pickle", ".".join(keys))
        if key is None:
            break
        keys.append(key)
        content = content[key]
    raise WeightsError(
        f"{path} holds no tensors, neither at the top nor under {', '.join(STATE_DICT_KEYS)}; name "
        "a file with weights"
    )
