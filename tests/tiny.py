"""A tiny UniFormerV2 in the official file format, a registry file with it, and a tiny video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from vtcli.models import with_overrides
from vtcli.models.layouts import from_vt
from vtcli.models.uniformerv2 import ARCHITECTURE, PRESETS
from vtcli.models.uniformerv2.configs import UniFormerV2Config

OVERRIDES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "width": 64,
    "depth": 2,
    "num_heads": 1,
    "global_layers": [0, 1],
    "global_num_heads": 1,
}
CONFIG: UniFormerV2Config = with_overrides(PRESETS["uniformerv2-b"], OVERRIDES)

REGISTRY = """
[[checkpoint]]
id = "tiny.k400-8f"
arch = "uniformerv2"
model = "uniformerv2-b"
dataset = "k400"
num_classes = 400
labels = "k400"
labels_confidence = "verified"
frames = 8
resolution = 32
pipeline = "uniformerv2-kinetics"
pipeline_changes = {{ short_side = 32, crop_size = 32 }}
views = "4x3"
license = "Apache-2.0"

[checkpoint.config]
image_size = 32
patch_size = 8
width = 64
depth = 2
num_heads = 1
global_layers = [0, 1]
global_num_heads = 1

{sources}
"""

SOURCE = """
[[checkpoint.source]]
kind = "{kind}"
{where}
layout = "official"
serialization = "pickle"
link_status = "alive"
labels = "k400.uniformerv2"
permutation = "uniformerv2_to_alpha_k400"
sha256 = "{sha256}"
"""


def tensors(seed: int = 0, config: UniFormerV2Config = CONFIG) -> dict[str, Tensor]:
    """Weights by our names; no parameter is near zero, so that each one affects the output."""
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in ARCHITECTURE.build(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def official(seed: int = 0, config: UniFormerV2Config = CONFIG) -> dict[str, Tensor]:
    """The same weights by the official names."""
    return from_vt(ARCHITECTURE.layouts["official"], tensors(seed, config), config)


def official_file(path: Path, seed: int = 0) -> Path:
    """An official `.pyth` file."""
    torch.save(official(seed), path)
    return path


def registry_file(path: Path, *sources: str) -> Path:
    """A registry file with one entry, `tiny.k400-8f`, with these sources."""
    path.write_text(REGISTRY.format(sources="\n".join(sources)))
    return path


def local_source(checkpoint: Path, sha256: str = "") -> str:
    return SOURCE.format(kind="local", where=f'file = "{checkpoint}"', sha256=sha256)


def video(path: Path, frames: int = 20, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A small h264 clip of noise: width x height, 25 frames per second."""
    noise = np.random.RandomState(seed).randint(0, 255, (frames, size[1], size[0], 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
