"""Read a foreign checkpoint file safely: safetensors, PyTorch pickles (weights_only), flax msgpack,
NumPy archives.

The kind is told by the file's first bytes, never by its name. Nothing a file carries is ever
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

# Where upstreams keep the weights inside a training checkpoint, in the order they are looked for.
STATE_DICT_KEYS = ("state_dict", "model_state", "model", "module", "state_dict_ema", "params")

# Records of training tools that checkpoints carry beside their weights; they are read as empty
# shells.
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
    """A checkpoint file's tensors by their own names, and what lay around them.

    kind: safetensors, pickle, msgpack or npz; container: the keys that lead to the tensors (""
    where the file is flat); metadata: a safetensors file's metadata; texts: strings beside the
    weights, such as a training configuration.
    """

    tensors: dict[str, Tensor]
    kind: str
    container: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Open a checkpoint file of any known kind; tensors stay mapped from the file where the kind
    allows it.

    Raises `InputError` where there is no such file, `UnsafeFileError` where only running code would
    open it, `WeightsError` where it is broken or of no known kind.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; name the checkpoint file inside it")
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint file {path}; check the path")
    head = _first_bytes(path)
    if not head:
        raise WeightsError(f"{path} is empty; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _read_pickle(path, mmap=False)
    if head.startswith(b"\x89HDF"):
        raise WeightsError(
            f"{path} is a Keras/HDF5 file; take the PyTorch or flax file of this model"
        )
    if 0x81 <= head[0] <= 0x8F:
        from vtcli.weights.formats.flax import read_flax

        return RawCheckpoint(read_flax(path), "msgpack")
    raise WeightsError(
        f"{path} is no checkpoint file (neither safetensors, PyTorch pickle, flax msgpack nor npz)"
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
            f"{path} is a broken safetensors file ({error}); fetch it again"
        ) from error


def _read_zip(path: Path) -> RawCheckpoint:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path} is cut off or damaged ({error}); fetch it again") from error
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive, which holds code; take the same weights as "
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
        raise WeightsError(f"{path} is a broken NumPy archive ({error}); fetch it again") from error
    return RawCheckpoint(tensors, "npz")


class _Stub:
    """Stands for a record whose contents nobody asks for; makes, calls and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _read_pickle(path: Path, mmap: bool) -> RawCheckpoint:
    inert: list[Any] = [(_stand_in(name), name) for name in sorted(INERT_RECORDS)]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is cut off or damaged ({reason}); fetch it again") from error
    return _unwrap(path, content)


def _stand_in(name: str) -> type[_Stub]:
    return type(name.rsplit(".", 1)[-1], (_Stub,), {})


def _refusal(path: Path, error: pickle.UnpicklingError) -> WeightsError:
    """An honest sentence for what PyTorch's restricted reader would not read."""
    words = str(error).replace("`", " ").split()
    if "GLOBAL" in words:
        wanted = words[words.index("GLOBAL") + 1]
        return UnsafeFileError(
            f"{path} wants to run '{wanted}' while it is read; a checkpoint holds tensors only, "
            "so it was "
            "refused: take the same weights as safetensors or from a source you trust"
        )
    return WeightsError(f"{path} is no readable PyTorch checkpoint; fetch it again")


def _unwrap(path: Path, content: Any) -> RawCheckpoint:
    """Go down to the dict of tensors."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        nest = next((n for n in STATE_DICT_KEYS if isinstance(content.get(n), Mapping)), None)
        if tensors and nest is None:
            return RawCheckpoint(tensors, "pickle", ".".join(keys))
        if nest is None:
            break
        keys.append(nest)
        content = content[nest]
    raise WeightsError(
        f"{path} holds no tensors where checkpoints keep them ({', '.join(STATE_DICT_KEYS)})"
    )
