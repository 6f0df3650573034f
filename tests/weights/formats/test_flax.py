"""Flax checkpoints are read without flax, bit for bit, and broken files are refused."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.goldens import big_golden, golden_dir, load_manifest
from vtcli.errors import DataError, WeightsError
from vtcli.weights.convert import convert
from vtcli.weights.formats.flax import read_flax, write_flax

FEATURES = golden_dir("vivit") / "flax_features.checkpoint"  # written by flax 0.12.8


class Ext:
    """A msgpack extension value."""

    def __init__(self, code: int, content: Any) -> None:
        self.code = code
        self.data = pack(content)


def pack(value: Any) -> bytes:
    """Enough of msgpack to build files with every kind of damage."""
    match value:
        case Ext():
            return b"\xc9" + struct.pack(">IB", len(value.data), value.code) + value.data
        case bool() | None:
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case int():
            return b"\xd3" + struct.pack(">q", value)
        case str():
            return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()
        case bytes():
            return b"\xc5" + struct.pack(">H", len(value)) + value
        case list():
            return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))
        case dict():
            items = b"".join(pack(key) + pack(item) for key, item in value.items())
            return b"\xde" + struct.pack(">H", len(value)) + items
    raise TypeError(value)


def array(*shape: int, data: bytes | None = None, dtype: str = "float32") -> Ext:
    return Ext(1, [list(shape), dtype, bytes(4 * math.prod(shape)) if data is None else data])


def chunked(shape: list[int], chunks: dict[str, Any]) -> dict[str, Any]:
    sizes = {str(i): size for i, size in enumerate(shape)}
    return {"__msgpack_chunked_array__": True, "shape": sizes, "chunks": chunks}


def saved(folder: Path, value: Any) -> Path:
    path = folder / "checkpoint"
    path.write_bytes(value if isinstance(value, bytes) else pack(value))
    return path


def ramp(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).view(shape)


def test_every_kind_of_value_that_flax_writes_is_read() -> None:
    expected = {
        "dense/kernel": ramp(3, 4),
        "dense/bias": ramp(4).half(),
        "chunked": ramp(5, 2, 7) / 4,
        "bfloat16": (ramp(2, 3) / 2).bfloat16(),
        "empty": torch.zeros(0, 3),
        "integers": ramp(2, 2).double(),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "count": torch.tensor(7),
        "complex": torch.tensor(1.5 - 2j),
        "layers/0": ramp(2),
        "layers/1": ramp(2) + 1,
    }
    found = read_flax(FEATURES)
    assert {n.removeprefix("optimizer/target/") for n in found} == set(expected)
    for name, tensor in expected.items():
        read = found[f"optimizer/target/{name}"]
        assert read.dtype == tensor.dtype
        assert read.shape == tensor.shape
        assert torch.equal(read, tensor)


@pytest.mark.parametrize("name", ["tiny_scenic_m1_token", "tiny_scenic_m2_token"])
def test_files_in_the_released_form_are_read_bit_for_bit(name: str) -> None:
    tensors = read_flax(big_golden("vivit", f"{name}.checkpoint"))
    _, expected = load_manifest(golden_dir("vivit") / f"{name}.json")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ({"params": {"a": array(2)}, "opt_state": {"a": array(2)}, "step": 1}, {"params/a"}),
        ({"optimizer": {"target": {"a": array(2)}, "state": {}}}, {"optimizer/target/a"}),
        ({"opt": {"target": {"a": array(2)}}, "extra": "text"}, {"opt/target/a"}),
        ({"a": {"b": array(2)}, "c": [array(1), array(1)]}, {"a/b", "c/0", "c/1"}),
    ],
)
def test_only_the_weights_of_a_training_state_are_read(
    tmp_path: Path, state: dict[str, Any], names: set[str]
) -> None:
    assert read_flax(saved(tmp_path, state)).keys() == names


def test_a_written_file_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        **{f"optimizer/target/block_{i}/kernel": torch.randn(3, i, 2) for i in range(20)},
        "optimizer/target/half": torch.randn(5).half(),
        "optimizer/target/bfloat16": torch.randn(2, 2).bfloat16(),
        "optimizer/target/scalar": torch.tensor(3),
        "optimizer/target/transposed": torch.randn(4, 6).t(),
    }
    write_flax(tmp_path / "checkpoint", tensors)
    again = read_flax(tmp_path / "checkpoint")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[n], tensors[n]) for n in tensors)
    assert all(again[n].dtype == tensors[n].dtype for n in tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_file_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    whole = FEATURES.read_bytes()
    for length in (0, 1, 7, len(whole) // 2, len(whole) - 1):
        with pytest.raises(WeightsError, match="is truncated"):
            read_flax(saved(tmp_path, whole[:length]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02}q\x00.", "not a Flax checkpoint"),
        (b"PK\x03\x04 no msgpack", "not a Flax checkpoint"),
        (b"\xc1", "not a Flax checkpoint"),
        (b"\x91" * 5000, "nested too deeply"),
        (pack({"a": array(2)}) + b"more", "not a Flax checkpoint"),
        (pack([array(2)]), "not a Flax checkpoint"),
        ({"a": array(3, data=bytes(8))}, "'a' whose bytes do not fit"),
        ({"a": array(-1, data=bytes(4))}, "'a' whose bytes do not fit"),
        ({"a": array(2, dtype="float8")}, "'a' whose bytes do not fit"),
        ({"a": Ext(1, [[2], "float32"])}, "damaged array"),
        ({"a": Ext(1, {})}, "damaged array"),
        ({"a": "text"}, "text or bytes instead of a tensor at 'a'"),
        ({"a": Ext(9, 1)}, "text or bytes instead of a tensor at 'a'"),
        ({"a": chunked([4], {"0": array(2)})}, "lacks a chunk of the array 'a'"),
        ({"a": chunked([4], {"0": array(2), "2": array(2)})}, "lacks a chunk of the array 'a'"),
        ({"a": chunked([4], {})}, "lacks a chunk of the array 'a'"),
        ({"a": {"__msgpack_chunked_array__": True}}, "lacks a chunk of the array 'a'"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path, content: Any, words: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(WeightsError, match=words) as error:
        read_flax(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no dtype"):
        write_flax(tmp_path / "checkpoint", {"a": torch.zeros(2, dtype=torch.float8_e4m3fn)})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_flax(tmp_path / "file" / "checkpoint", {"a": torch.zeros(2)})


MEASURE = """
import sys
from pathlib import Path
from vtcli.weights.formats.flax import read_flax

def kilobytes(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])

Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
tensors = read_flax(Path(sys.argv[1]))
peak = kilobytes("VmHWM")
assert all(bool((tensor == 1).all()) for tensor in tensors.values())
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_optimizer_state_is_never_read_into_memory(tmp_path: Path) -> None:
    weights = {f"layer_{i}": torch.ones(4, 1024, 1024) for i in range(4)}
    file = tmp_path / "checkpoint"
    roots = ("optimizer/state/param_states", "optimizer/target")
    write_flax(file, {f"{root}/{name}": t for root in roots for name, t in weights.items()})
    size = sum(t.numel() * 4 for t in weights.values())
    assert file.stat().st_size > 2 * size
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, check=True
    )
    assert 1024 * int(run.stdout) < 1.3 * size


def test_a_numpy_archive_of_something_else_is_refused_for_that_reason(tmp_path: Path) -> None:
    np.savez(tmp_path / "index.npz", path=np.array(["a.mp4"]), embedding=np.zeros((1, 4)))
    with pytest.raises(WeightsError, match="'path' is not an array of numbers"):
        convert(tmp_path / "index.npz", tmp_path / "o.safetensors")
