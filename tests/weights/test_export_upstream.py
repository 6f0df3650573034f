"""Upstream projects load exported files strictly and give the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vtcli.errors import UsageError
from vtcli.models import get_architecture, with_overrides
from vtcli.models.build import build_on_meta
from vtcli.models.layouts import from_vt
from vtcli.weights.convert import convert
from vtcli.weights.export_upstream import export
from vtcli.weights.load import load_model

VIVIT = {"width": 64, "depth": 1, "num_heads": 1}
SWIN = {"width": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def vt_file(folder: Path, arch: str, preset: str, layout: str, changes: dict[str, Any]) -> Path:
    """A file with random weights, converted from an upstream file."""
    architecture = get_architecture(arch)
    config = with_overrides(architecture.presets[preset], {**changes, "num_classes": 7})
    torch.manual_seed(0)
    model = build_on_meta(architecture, config)
    model.to_empty(device="cpu")
    model.init_weights()  # type: ignore[operator]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tensors = from_vt(architecture.layouts[layout], model.state_dict(), config)
    torch.save(tensors, folder / "upstream.pth")
    # What a ViViT's tensors do not show has to be said.
    stated = {f: getattr(config, f) for f in ("num_frames", "image_size", "num_heads")}
    given = stated if arch == "vivit" else {}
    convert(folder / "upstream.pth", folder / "vt.safetensors", **given)
    return folder / "vt.safetensors"


def test_transformers_loads_a_vivit(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vt = vt_file(tmp_path, "vivit", "vivit-b", "hf", VIVIT)
    folder = tmp_path / "hf"
    export(vt, folder / "model.safetensors", "hf", verify=True)
    peer = transformers.VivitForVideoClassification.from_pretrained(folder)
    clip = torch.randn(1, 3, 32, 224, 224)
    with torch.inference_mode():
        expected = peer.eval()(clip.transpose(1, 2)).logits
        got = load_model(vt)(clip)
    assert (got - expected).abs().max() < 1e-4
    (folder / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json would be overwritten"):
        export(vt, folder / "other.safetensors", "hf")


def test_torchvision_loads_a_video_swin(tmp_path: Path) -> None:
    from torchvision.models.video import SwinTransformer3d

    vt = vt_file(tmp_path, "videoswin", "videoswin-t", "torchvision", SWIN)
    export(vt, tmp_path / "tv.pth", "torchvision", verify=True)
    peer = SwinTransformer3d([2, 4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [8, 7, 7], num_classes=7)
    peer.load_state_dict(torch.load(tmp_path / "tv.pth", weights_only=True))
    clip = torch.randn(2, 3, 16, 60, 64)
    with torch.inference_mode():
        expected, got = peer.eval()(clip), load_model(vt)(clip)
    assert (got - expected).abs().max() < 1e-4
