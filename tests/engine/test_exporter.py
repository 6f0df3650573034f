"""A file of ours becomes a graph that gives the same logits for any batch and has its labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import tiny
from vtcli.engine.converter import convert
from vtcli.engine.exporter import SUFFIXES, export_graph
from vtcli.errors import UsageError


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    src = tiny.official_file(tmp_path / "tiny.pyth")
    own = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(src))
    monkeypatch.setenv("VT_REGISTRY", str(own))
    convert(src, tmp_path / "ours.safetensors", model="tiny.k400-8f")
    return tmp_path / "ours.safetensors"


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_graph_gives_our_logits_for_any_batch(kind: str, ours: Path, capsys: object) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    dst = ours.with_suffix(SUFFIXES[kind])
    difference = export_graph(ours, dst, kind, verify=True)
    assert difference is not None
    assert difference < 1e-4
    assert not list(ours.parent.glob(".*part*"))


def test_an_onnx_file_carries_its_card(ours: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    dst = ours.with_suffix(".onnx")
    export_graph(ours, dst, "onnx")
    props = {p.key: p.value for p in onnx.load(dst).metadata_props}
    assert json.loads(props["vt"])["id"] == "tiny.k400-8f"


def test_an_archive_carries_its_card(ours: Path) -> None:
    dst = ours.with_suffix(".pt2")
    export_graph(ours, dst, "torch-export")
    extra = {"vt": ""}
    torch.export.load(dst, extra_files=extra)
    assert json.loads(extra["vt"])["id"] == "tiny.k400-8f"


def test_missing_packages_are_named(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match=r"vtcli\[export\]"):
        export_graph(ours, ours.with_suffix(".onnx"), "onnx")
