"""Goldens, the outputs of upstream code: their files, and the synthetic weights behind them.

A manifest lists every tensor of one upstream checkpoint with shape, kind, mean and std; its values
are sampled with NumPy's legacy generator, seeded by the crc32 of the tensor's name. Small goldens
are in tests/golden; big ones in the folder $VT_GOLDEN, without which tests that need them skip.
"""

from __future__ import annotations

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vtcli.models import Architecture
from vtcli.models.layouts import Layout, to_vt

ROOT = Path(__file__).parent / "golden"
# Set by conftest: a folder for the weights of big goldens, which take seconds to generate.
weights_folder: Path | None = None


def synthetic(name: str, shape: list[int], kind: str, mean: float, std: float) -> Tensor:
    """One tensor of a golden's checkpoint."""
    if kind == "index":
        return torch.zeros(shape, dtype=torch.int64)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=tuple(shape))
    values = np.asarray(noise.astype(np.float32) * np.float32(std) + np.float32(mean))
    if kind == "abs":
        values = np.abs(values) + np.float32(0.5)
    return torch.from_numpy(np.array(values, dtype=np.float32))


def synthetic_tensors(listing: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """All tensors of one listing, by name; generated on all cores, as NumPy releases the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        values = pool.map(lambda name: synthetic(name, **listing[name]), listing)
        return dict(zip(listing, values, strict=True))


def load_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the checkpoint's tensors by upstream's names.

    Several tests need the weights of each big golden, so they are generated once per session.
    """
    manifest = json.loads(path.read_text())
    listing = manifest["tensors"]
    if weights_folder is None or path.is_relative_to(ROOT):
        return manifest, synthetic_tensors(listing)
    cached = weights_folder / f"{path.parent.name}-{path.stem}.safetensors"
    if not cached.exists():
        save_file(synthetic_tensors(listing), cached)
    tensors = load_file(cached)
    # Copies, because all tensors share one block of memory, which torch.save would write.
    return manifest, {name: tensors[name].clone() for name in listing}


def golden_input(shape: list[int], seed: int = 0) -> Tensor:
    """The clip a golden was computed on: N(0, 1) of the manifest's input shape."""
    noise = np.random.RandomState(seed).standard_normal(size=tuple(shape))
    return torch.from_numpy(noise.astype(np.float32))


def golden_dir(arch: str) -> Path:
    """The goldens that come with the tests."""
    return ROOT / arch


def big_golden(arch: str, name: str) -> Path:
    """A golden that is too big for tests/golden; skips the test if $VT_GOLDEN does not have it."""
    root = os.environ.get("VT_GOLDEN", "")
    path = Path(root) / arch / name
    if not root or not path.exists():
        pytest.skip(f"needs {arch}/{name} in the folder $VT_GOLDEN")
    return path


def build_model(architecture: Architecture, config: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """A network in evaluation mode with exactly these weights, by our names."""
    with torch.device("meta"):
        model = architecture.build(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def layout_of(
    architecture: Architecture, manifest: dict[str, Any], upstream: dict[str, Tensor]
) -> Layout:
    """The layout of a golden, the only one that recognizes its tensors."""
    found = [layout for layout in architecture.layouts.values() if layout.recognizes(upstream)]
    assert [layout.name for layout in found] == [manifest["layout"]]
    return found[0]


def require_any_prefix(layout: Layout, upstream: dict[str, Tensor], usual: str) -> None:
    """Names are read without the usual prefix, and with the one of a parallel training too."""
    plain = to_vt(layout, upstream).tensors
    for wrapped in (
        {name.removeprefix(usual): tensor for name, tensor in upstream.items()},
        {f"module.{name}": tensor for name, tensor in upstream.items()},
    ):
        assert layout.recognizes(wrapped)
        assert to_vt(layout, wrapped).tensors.keys() == plain.keys()
