"""An exported graph gives the same logits for any batch size and has the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vtcli.errors import UsageError
from vtcli.models import get_architecture, with_overrides
from vtcli.models.build import build_on_meta
from vtcli.models.layouts import from_vt
from vtcli.weights.convert import convert
from vtcli.weights.export_graph import SUFFIXES, export_graph
from vtcli.weights.formats.flax import write_flax


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_graph_gives_the_same_logits_for_any_batch_size_and_has_the_model_card(
    kind: str, vt_file: Path
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    dst = vt_file.with_suffix(SUFFIXES[kind])
    difference = export_graph(vt_file, dst, kind, verify=True)
    assert difference is not None
    assert difference < 1e-4
    assert not list(vt_file.parent.glob(".*part*"))
    assert json.loads(CARDS[kind](dst))["id"] == "tiny.k400-8f"


def onnx_card(path: Path) -> str:
    onnx = pytest.importorskip("onnx")
    return next(p.value for p in onnx.load(path).metadata_props if p.key == "vt")


def archive_card(path: Path) -> str:
    extra = {"vt": ""}
    torch.export.load(path, extra_files=extra)
    return extra["vt"]


CARDS = {"onnx": onnx_card, "torch-export": archive_card}


def test_missing_packages_are_named(vt_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match=r"vtcli\[export\]"):
        export_graph(vt_file, vt_file.with_suffix(".onnx"), "onnx")


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "videoswin": ("videoswin-t", {"width": 24, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)}),
    "vivit": ("vivit-b-fe", {"width": 64, "depth": 1, "num_heads": 1, "temporal_depth": 1}),
    "xvit": ("xvit-b", {"width": 64, "depth": 1, "num_heads": 1, "temporal_heads": 1}),
}


def small_file(folder: Path, arch: str) -> Path:
    """A converted file of a small network with the structure of a published one."""
    preset, changes = SMALL[arch]
    architecture = get_architecture(arch)
    config = with_overrides(architecture.presets[preset], changes)
    torch.manual_seed(0)
    net = build_on_meta(architecture, config)
    net.to_empty(device="cpu")
    for tensor in net.state_dict().values():
        tensor.normal_(std=0.1)
    layout = next(iter(architecture.layouts.values()))
    upstream = from_vt(layout, net.state_dict(), config)
    if layout.suffix == ".msgpack":
        write_flax(folder / "upstream", upstream)
    else:
        torch.save(upstream, folder / "upstream")
    convert(folder / "upstream", folder / "vt.safetensors")
    return folder / "vt.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("arch", SMALL)
def test_every_architecture_can_be_exported(arch: str, kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    vt_file = small_file(tmp_path, arch)
    difference = export_graph(vt_file, vt_file.with_suffix(SUFFIXES[kind]), kind, verify=True)
    assert difference is not None
    assert difference < 1e-4
