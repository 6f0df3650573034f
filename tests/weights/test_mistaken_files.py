"""A file of one architecture given as another's, or of a wrong size: refused, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vtcli.errors import ShapeError, VtError
from vtcli.models import Architecture, get_architecture, with_overrides
from vtcli.models.build import build_on_meta
from vtcli.models.layouts import from_vt
from vtcli.weights.convert import convert
from vtcli.weights.formats.flax import write_flax

# Small networks that keep each published model's names, by their default checkpoint's id.
SMALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "uniformerv2-b.k400-8f": ("uniformerv2", "uniformerv2-b", {"depth": 4}),
    "videoswin-t.k400-in1k-32f": ("videoswin", "videoswin-t", {}),
    "vivit-b.k400-in21k-32f": ("vivit", "vivit-b", {"depth": 2}),
    "xvit-b.k600-16f": ("xvit", "xvit-b", {"depth": 2, "num_classes": 600}),
}


def checkpoint(folder: Path, model: str, layout: str | None = None, **changes: Any) -> Path:
    """A file of zeros with an upstream's tensor names: the first layout or a given one."""
    arch, preset, small = SMALL[model]
    architecture = get_architecture(arch)
    config = with_overrides(architecture.presets[preset], {**small, **changes})
    name = layout or next(iter(architecture.layouts))
    tensors = from_vt(architecture.layouts[name], weights(architecture, config), config)
    path = folder / f"{model}.{name}"
    if name == "scenic":
        write_flax(path, tensors)
    else:
        torch.save(tensors, path)
    return path


def weights(architecture: Architecture, config: Any) -> dict[str, Tensor]:
    return {
        n: torch.zeros(t.shape) for n, t in build_on_meta(architecture, config).state_dict().items()
    }


def refused(src: Path, folder: Path, model: str, layout: str = "auto") -> str:
    """The error message of `convert`."""
    out = folder / "out"
    with pytest.raises(VtError) as caught:
        convert(src, out / "vt.safetensors", model=model, layout=layout)
    assert not out.exists() or not list(out.iterdir())
    assert caught.value.exit_code == 5
    return str(caught.value)


@pytest.mark.parametrize("asked", SMALL)
@pytest.mark.parametrize("given", SMALL)
def test_the_error_for_another_architectures_file_names_that_architecture(
    given: str, asked: str, tmp_path: Path
) -> None:
    if given == asked:
        pytest.skip("the file is what was asked for")
    title = get_architecture(SMALL[given][0]).title
    assert f"is a {title} checkpoint" in refused(checkpoint(tmp_path, given), tmp_path, asked)


def test_a_torchvision_file_is_not_read_as_official(tmp_path: Path) -> None:
    model = "videoswin-t.k400-in1k-32f"
    src = checkpoint(tmp_path, model, "torchvision")
    assert "in the torchvision layout" in refused(src, tmp_path, model, "official")


def test_a_bias_table_of_another_window_size_is_refused(tmp_path: Path) -> None:
    src = checkpoint(tmp_path, "videoswin-t.k400-in1k-32f", window_size=(16, 7, 7))
    sentence = refused(src, tmp_path, "videoswin-t.k400-in1k-32f")
    assert "window" in sentence or "bias_table" in sentence


def test_a_head_with_other_classes_is_refused(tmp_path: Path) -> None:
    src = checkpoint(tmp_path, "vivit-b.k400-in21k-32f", num_classes=397)
    sentence = refused(src, tmp_path, "vivit-b.k400-in21k-32f")
    assert "its depth is 2" in sentence or "397" in sentence


@pytest.mark.parametrize("damage", ["half", "chunk"])
def test_a_damaged_msgpack_file_is_refused(damage: str, tmp_path: Path) -> None:
    src = checkpoint(tmp_path, "vivit-b.k400-in21k-32f", "scenic")
    content = src.read_bytes()
    if damage == "half":
        src.write_bytes(content[: len(content) // 2])
    else:
        # One part of a tensor gets another name.
        src.write_bytes(content.replace(b"query", b"quexx", 1))
    refused(src, tmp_path, "vivit-b.k400-in21k-32f")


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("uniformerv2-b.k400-8f", (1, 3, 8, 200, 200)),
        ("vivit-b.k400-in21k-32f", (1, 3, 16, 224, 224)),
        ("xvit-b.k600-16f", (1, 3, 12, 224, 224)),
        ("xvit-b.k600-16f", (1, 3, 16, 208, 224)),
    ],
)
def test_the_error_for_a_clip_of_the_wrong_size_names_the_right_one(
    model: str, shape: tuple[int, ...]
) -> None:
    arch, preset, small = SMALL[model]
    architecture = get_architecture(arch)
    net = build_on_meta(architecture, with_overrides(architecture.presets[preset], small))
    with pytest.raises(ShapeError, match=r"\d"):
        net(torch.zeros(shape, device="meta"))


def test_no_layout_recognizes_the_file_of_another(tmp_path: Path) -> None:
    for model, (arch, preset, small) in SMALL.items():
        own = get_architecture(arch)
        config = with_overrides(own.presets[preset], small)
        names = from_vt(own.layouts[next(iter(own.layouts))], weights(own, config), config)
        found = [
            (a.name, layout.name)
            for a in map(get_architecture, ("uniformerv2", "videoswin", "vivit", "xvit"))
            for layout in a.layouts.values()
            if layout.recognizes(names)
        ]
        assert found == [(arch, next(iter(own.layouts)))], model
