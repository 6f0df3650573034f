"""A fifth architecture needs one folder and its registry rows: here a toy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtcli
from tests import tiny
from tests.models import outside
from vtcli import models
from vtcli.cli import run
from vtcli.errors import UsageError
from vtcli.models import Architecture, register_architecture
from vtcli.models.layouts import Layout, pairs


@dataclass(frozen=True)
class ToyConfig:
    image_size: int = 16
    num_frames: int = 4
    num_classes: int = 51


class Toy(nn.Module):
    """The mean color of a clip, classified."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(3, config.num_classes)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.head(clip_BCTHW.mean((2, 3, 4)))
        return logits

    def init_weights(self) -> None:
        self.head.reset_parameters()


def infer_config(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> ToyConfig:
    return replace(ToyConfig(num_classes=shapes["head.weight"][0]), **hints)


TOY = Architecture(
    name="toy",
    title="Toy",
    presets={"toy-xs": ToyConfig()},
    build=Toy,
    infer_config=infer_config,
    layouts={"theirs": Layout("theirs", tuple(pairs("fc", "head")), signature=("fc.weight",))},
    published_macs=lambda config: 3 * config.num_classes,
)

ROWS = """
[default.model]
toy-xs = "toy-xs.hmdb51-4f"
toy = "toy-xs.hmdb51-4f"

[[checkpoint]]
id = "toy-xs.hmdb51-4f"
arch = "toy"
model = "toy-xs"
dataset = "hmdb51"
num_classes = 51
labels = "hmdb51"
frames = 4
resolution = 16
pipeline = "uniformerv2-kinetics"
pipeline_changes = { short_side = 16, crop_size = 16 }
views = "2x3"

[[checkpoint.source]]
kind = "local"
file = "toy.pth"
layout = "theirs"
serialization = "pickle"
link_status = "alive"
labels = "hmdb51"
"""


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_registered", {})
    register_architecture(TOY)
    (tmp_path / "toy.toml").write_text(ROWS)
    monkeypatch.setenv("VT_REGISTRY", str(tmp_path / "toy.toml"))
    torch.save({"fc.weight": torch.randn(51, 3), "fc.bias": torch.randn(51)}, tmp_path / "toy.pth")


def test_it_is_found_built_and_loaded(tmp_path: Path) -> None:
    assert "toy-xs.hmdb51-4f" in vtcli.list_models("toy*")
    assert vtcli.create_model("toy-xs", num_classes=7)(torch.zeros(1, 3, 4, 16, 16)).shape == (1, 7)
    assert vtcli.load_model("toy").labels[0] == "brush_hair"


def test_every_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tiny.video(tmp_path / "clip.mp4")
    assert run(["predict", str(clip), "-m", "toy-xs", "--views", "paper"]) == 0
    assert "2 clips x 3 crops" in capsys.readouterr().out
    ours = tmp_path / "ours.safetensors"
    assert run(["convert", str(tmp_path / "toy.pth"), "-o", str(ours), "--verify"]) == 0
    assert run(["convert", str(ours), "--to", "theirs", "-o", str(tmp_path / "back.pth")]) == 0
    assert run(["models", "list", "--arch", "toy"]) == 0


def test_an_installed_package_adds_an_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(outside.install(tmp_path / "site"))
    assert "outside" in models.list_architectures()
    assert models.get_architecture("outside") is outside.OUTSIDE
    assert vtcli.create_model("outside-xs", num_classes=7).head.out_features == 7


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("tests.models.nowhere:OUTSIDE", "ModuleNotFoundError"),
        ("tests.models.outside:BLOCKS", "BLOCKS is not an Architecture"),
        ("tests.models.outside:BARE", "BARE has the name 'bare'"),
    ],
)
def test_a_broken_entry_point_names_its_package(
    value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(outside.install(tmp_path / "site", "broken", value))
    assert "broken" in models.list_architectures()  # which loads nothing
    with pytest.raises(UsageError, match=f"of the package vt-broken .*{reason}.* uninstall it"):
        models.get_architecture("broken")
    assert models.get_architecture("vivit").title == "ViViT"
