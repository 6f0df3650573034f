"""Reference answers: rebuild the synthetic weights a golden was made with, and find its files.

A manifest lists every tensor of one upstream checkpoint with shape, kind, mean and std; its values
are drawn from NumPy's legacy generator, seeded by the crc32 of the tensor's name. Small goldens lie
in tests/golden; big ones are read from the folder $VT_GOLDEN, and tests that need them skip where
it is not set.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vtcli.models import Architecture

ROOT = Path(__file__).parent / "golden"


def synthetic(name: str, shape: list[int], kind: str, mean: float, std: float) -> Tensor:
    """One tensor of a golden's checkpoint."""
    if kind == "index":
        return torch.zeros(shape, dtype=torch.int64)
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=tuple(shape))
    values = np.asarray(draw.astype(np.float32) * np.float32(std) + np.float32(mean))
    if kind == "abs":
        values = np.abs(values) + np.float32(0.5)
    return torch.from_numpy(np.array(values, dtype=np.float32))


def synthetic_tensors(listing: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """All tensors of one listing, by name."""
    return {name: synthetic(name, **facts) for name, facts in listing.items()}


def load_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the checkpoint's tensors under upstream's names."""
    manifest = json.loads(path.read_text())
    return manifest, synthetic_tensors(manifest["tensors"])


def golden_input(shape: list[int], seed: int = 0) -> Tensor:
    """The clip a golden was computed on: N(0, 1) of the manifest's input shape."""
    draw = np.random.RandomState(seed).standard_normal(size=tuple(shape))
    return torch.from_numpy(draw.astype(np.float32))


def golden_dir(arch: str) -> Path:
    """The goldens that come with the tests."""
    return ROOT / arch


def big_golden(arch: str, name: str) -> Path:
    """A golden that is too big to come with the tests; skips where $VT_GOLDEN does not hold it."""
    root = os.environ.get("VT_GOLDEN", "")
    path = Path(root) / arch / name
    if not root or not path.exists():
        pytest.skip(f"needs {arch}/{name} in the folder $VT_GOLDEN")
    return path


def build_model(architecture: Architecture, config: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """A network in evaluation mode with exactly these weights, under our names."""
    with torch.device("meta"):
        model = architecture.build(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()
