"""Read and write Flax checkpoints (one msgpack file) without flax or jax.

Follows the format of `flax.serialization`: nested maps whose leaves are msgpack extension types: 1
an array, 2 a complex number, 3 a NumPy scalar. Arrays and scalars hold (shape, dtype name, bytes in
C order). The file is indexed first, then only the weights are read: an optimizer state is skipped.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import torch
from torch import Tensor

from vtcli.errors import WeightsError
from vtcli.runtime.files import atomic_write
from vtcli.runtime.progress import CountedFile, ProgressCallback, no_progress

# Keys of the weights in a training state, in search order; without them, all of it is weights.
ROOTS = (("params",), ("optimizer", "target"), ("opt", "target"))
CHUNK_MARK = "__msgpack_chunked_array__"
MAX_DEPTH = 64
ARRAY, COMPLEX, SCALAR = 1, 2, 3

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    )
}
_NUMBERS = {  # leading byte -> struct format of the number after it
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZED = {  # leading byte -> what follows, and the struct format of its length
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _BrokenError(Exception):
    """What is wrong with the file; the message follows the file's name."""


class _Skipped(NamedTuple):
    """Bytes of the file that were skipped."""

    offset: int
    size: int


@dataclass(frozen=True)
class _Stored:
    """An array in the file: its shape, its dtype and where its bytes are."""

    shape: tuple[int, ...]
    dtype: str
    data: _Skipped

    @property
    def fits(self) -> bool:
        """Whether the bytes fill the shape."""
        known = self.dtype in _DTYPES and all(size >= 0 for size in self.shape)
        return known and self.data.size == math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def read_flax(path: Path) -> dict[str, Tensor]:
    """The weights of a Flax checkpoint; names are the keys from the outermost on, joined by "/".

    Of a training state only `params`, `optimizer/target` or `opt/target` is read.
    Raises `WeightsError` for a file that is truncated or not a Flax checkpoint.
    """
    try:
        with path.open("rb") as file:
            leaves: dict[str, Any] = {}
            _flatten(*_weights(_Index(file).read()), leaves)
            return {name: _load(file, leaf, name) for name, leaf in leaves.items()}
    except _BrokenError as error:
        raise WeightsError(f"{path} {error}; download it again") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


class _Index:
    """Parses the file's msgpack value; bytes and arrays are replaced by their position."""

    def __init__(self, file: BufferedReader) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self) -> dict[str, Any]:
        """The file's nested maps. Raises `_BrokenError` if it is not exactly one complete map."""
        value = self._value(0)
        if self.file.tell() != self.size or not isinstance(value, dict):
            raise _BrokenError("is not a Flax checkpoint")
        return value

    def _skip(self, size: int) -> _Skipped:
        here = self.file.tell()
        if here + size > self.size:
            raise _BrokenError("is truncated")
        self.file.seek(size, os.SEEK_CUR)
        return _Skipped(here, size)

    def _take(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise _BrokenError("is truncated")
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _BrokenError("is not a Flax checkpoint: it is nested too deeply")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:  # small integers, 0xFF is -1
            return first if first < 0x80 else first - 0x100
        if first < 0xC0:
            kind = "map" if first < 0x90 else "array" if first < 0xA0 else "str"
            return self._sized(kind, first & (0x1F if kind == "str" else 0x0F), depth)
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if 0xD4 <= first <= 0xD8:
            return self._sized("ext", 1 << (first - 0xD4), depth)
        if first in _SIZED:
            kind, form = _SIZED[first]
            return self._sized(kind, self._number(form), depth)
        if first not in _CONSTANTS:
            raise _BrokenError("is not a Flax checkpoint")
        return _CONSTANTS[first]

    def _sized(self, kind: str, size: int, depth: int) -> Any:
        if kind == "map":
            return {self._key(depth): self._value(depth + 1) for _ in range(size)}
        if kind == "array":
            return [self._value(depth + 1) for _ in range(size)]
        if kind == "ext":
            return self._extension(size, depth)
        data = self._skip(size)
        if kind == "bin":
            return data
        self.file.seek(data.offset)
        return self._take(size).decode(errors="replace")

    def _key(self, depth: int) -> str:
        key = self._value(depth + 1)
        if not isinstance(key, (str, int)):
            raise _BrokenError("is not a Flax checkpoint")
        return str(key)

    def _extension(self, size: int, depth: int) -> Any:
        code = self._take(1)[0]
        if code not in (ARRAY, COMPLEX, SCALAR):
            return self._skip(size)
        end = self.file.tell() + size
        match self._value(depth + 1):
            case [float(real), float(imaginary)] if code == COMPLEX:
                value: Any = complex(real, imaginary)
            case [[*shape], str(dtype), _Skipped() as data] if _are_sizes(shape):
                value = _Stored(tuple(shape), dtype, data)
            case _:
                raise _BrokenError("has a damaged array")
        if self.file.tell() != end:
            raise _BrokenError("has a damaged array")
        return value


def _are_sizes(values: list[Any]) -> TypeGuard[list[int]]:
    return all(isinstance(value, int) for value in values)


def _weights(index: dict[str, Any]) -> tuple[Any, str]:
    """The part of a training state that holds the weights, and its name."""
    for root in ROOTS:
        part: Any = index
        for key in root:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and part:
            return part, "/".join(root)
    return index, ""


def _flatten(part: Any, name: str, leaves: dict[str, Any]) -> None:
    """Fill `leaves` with the leaves under `part`; a chunked array is one leaf."""
    if isinstance(part, list):
        part = {str(i): value for i, value in enumerate(part)}
    if isinstance(part, dict) and CHUNK_MARK not in part:
        for key, value in part.items():
            _flatten(value, f"{name}/{key}" if name else key, leaves)
    elif isinstance(part, (str, _Skipped)):
        raise _BrokenError(f"has text or bytes instead of a tensor at '{name}'")
    elif part is not None:
        leaves[name] = part


def _load(file: BufferedReader, leaf: Any, name: str) -> Tensor:
    """One tensor, read from the file directly into its memory."""
    if isinstance(leaf, (bool, int, float, complex)):
        return torch.tensor(leaf)
    shape, chunks = _unchunked(leaf, name) if isinstance(leaf, dict) else (leaf.shape, [leaf])
    if not all(chunk.fits for chunk in chunks):
        raise _BrokenError(f"has an array '{name}' whose bytes do not fit its shape and dtype")
    tensor = torch.empty(shape, dtype=_DTYPES[chunks[0].dtype])
    if tensor.numel():
        memory = tensor.view(-1).view(torch.uint8).numpy().data
        start = 0
        for chunk in chunks:
            file.seek(chunk.data.offset)
            start += file.readinto(memory[start : start + chunk.data.size])
        if start != memory.nbytes:
            raise _BrokenError("is truncated")
    return tensor


def _unchunked(leaf: dict[str, Any], name: str) -> tuple[tuple[int, ...], list[_Stored]]:
    """The shape and the 1-D chunks, in order, of an array that was too big to store in one."""
    parts, sizes = leaf.get("chunks"), leaf.get("shape")
    if isinstance(parts, dict) and isinstance(sizes, dict):
        chunks = [parts.get(str(i)) for i in range(len(parts))]
        shape = [sizes.get(str(i)) for i in range(len(sizes))]
        stored = [chunk for chunk in chunks if isinstance(chunk, _Stored)]
        same = len(stored) == len(chunks) and len({chunk.dtype for chunk in stored}) == 1
        if same and _are_sizes(shape) and math.prod(shape) == _count(stored):
            return tuple(shape), stored
    raise _BrokenError(f"lacks a chunk of the array '{name}'")


def _count(chunks: Sequence[_Stored]) -> int:
    return sum(math.prod(chunk.shape) for chunk in chunks)


def write_flax(
    path: Path, tensors: Mapping[str, Tensor], on_bytes: ProgressCallback = no_progress
) -> None:
    """Write tensors as a Flax checkpoint, nested by the "/" in their names.

    The file appears under its name only when it is complete. Raises `WeightsError` for a dtype that
    Flax does not have, and `DataError` if the disk is full or the folder cannot be written.
    """
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tensor
    size = sum(tensor.nbytes for tensor in tensors.values())
    with atomic_write(path) as part, part.open("wb") as file:
        _write(CountedFile(file, f"writing {path.name}", size, on_bytes), tree)


def _write(file: BinaryIO | CountedFile, node: Any) -> None:
    if isinstance(node, Tensor):
        _write_array(file, node)
        return
    # The short form where it fits, like every msgpack writer: readers detect the format by it.
    size = len(node)
    file.write(bytes([0x80 | size]) if size < 16 else b"\xdf" + struct.pack(">I", size))
    for key, value in node.items():
        file.write(_text(key))
        _write(file, value)


def _write_array(file: BinaryIO | CountedFile, tensor: Tensor) -> None:
    values = tensor.detach().cpu().contiguous()
    name = str(values.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise WeightsError(f"Flax has no dtype {name}; convert the tensors to float32 first")
    size = values.numel() * values.itemsize
    shape = b"".join(b"\xce" + struct.pack(">I", length) for length in values.shape)
    head = b"\x93" + bytes([0x90 | values.ndim]) + shape + _text(name)
    head += b"\xc6" + struct.pack(">I", size)
    file.write(b"\xc9" + struct.pack(">I", len(head) + size) + bytes([ARRAY]) + head)
    if size:
        file.write(values.view(-1).view(torch.uint8).numpy().data)


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\xdb" + struct.pack(">I", len(data)) + data
