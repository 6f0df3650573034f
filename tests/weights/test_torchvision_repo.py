"""A Video Swin repository with torchvision's network gives torchvision's logits, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.hub import Hub
from tests.weights.hf_models import torchvision_swin
from vtcli.errors import LayoutError
from vtcli.weights.load import load_model
from vtcli.weights.resolve import resolve

REPO = "someone/swin3d-signs"
NAMED: dict[str, Any] = {"architectures": ["Swin3DForVideoClassification"], "num_frames": 8}
LABELS = ("a", "b", "c")


def make_swin(folder: Path, config: dict[str, Any] | None, prefix: str = "") -> Any:
    """A small network of torchvision in a folder, its names under a prefix."""
    network = torchvision_swin(num_classes=3)
    folder.mkdir(exist_ok=True)
    tensors = {prefix + n: t.contiguous() for n, t in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return network


def test_the_hub_names_a_video_swin_in_torchvisions_form(hub: Hub, tmp_path: Path) -> None:
    table = {**NAMED, "image_size": 64, "id2label": dict(enumerate(LABELS))}
    for prefix in ("", "model."):
        network = make_swin(tmp_path / "swin", table, prefix)
        hub.add_repo(REPO, {p.name: p.read_bytes() for p in (tmp_path / "swin").iterdir()})
        ours = load_model(REPO)
        assert ours.labels == LABELS
        clip = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert (ours(clip) - network(clip)).abs().max() < 1e-4
        facts = resolve(REPO).card
        assert (facts.pipeline.frames, facts.pipeline.crop_size) == (8, 64)


@pytest.mark.parametrize(
    "config", [{"model_type": "swin3d_t"}, {"architecture": "Swin3DForVideoClassification"}, None]
)
def test_frames_that_nothing_states_are_asked_for(
    tmp_path: Path, config: dict[str, Any] | None
) -> None:
    make_swin(tmp_path / "swin", config, "model.")
    with pytest.raises(LayoutError, match=r"how many frames.*vt convert .* --num-frames"):
        resolve(tmp_path / "swin")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_frames": "16"}, "num_frames is '16'"),
        ({"num_frames": 10**9}, "num_frames is 1000000000"),
        ({"clip_len": 16}, "contradict each other"),
        ({"architectures": ["SwinForImageClassification"]}, "is a SwinForImageClassification"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    make_swin(tmp_path / "swin", {**NAMED, **changes})
    with pytest.raises(LayoutError, match=words):
        resolve(tmp_path / "swin")
