"""ViViT for clips of another length: positions over time are interpolated, the rest is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.ndimage import zoom

from tests.evaluation.harness import class_folders, vt_here
from tests.training.harness import model_file
from vtcli.models.vivit import ARCHITECTURE, PRESETS
from vtcli.models.vivit.configs import ViViTConfig
from vtcli.models.vivit.positions import resize_over_time
from vtcli.weights.checkpoint import open_tensors, read_card

SMALL: dict[str, Any] = {"image_size": 32, "num_frames": 8, "width": 32, "depth": 1, "num_heads": 2}
MODELS = {"vivit-b": 4, "vivit-b-fe": 1, "vivit-b-fsa": 4, "vivit-b-fdp": 4}


def network(config: ViViTConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURE.build(config).eval()


@pytest.mark.parametrize("frames", [4, 8, 12, 13])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_positions_are_interpolated_as_scipy_does(name: str, frames: int) -> None:
    before = replace(PRESETS[name], **SMALL, temporal_depth=1)
    after = replace(before, num_frames=frames)
    model = network(before)
    model.init_weights()  # type: ignore[operator]
    tensors = model.state_dict()
    resized = resize_over_time(tensors, before, after)
    wanted = network(after)
    wanted.load_state_dict(resized)
    assert wanted(torch.randn(1, 3, frames, 32, 32)).shape == (1, 400)
    changed = [n for n in tensors if not torch.equal(tensors[n], resized[n])]
    table = "temporal.pos_embed" if name == "vivit-b-fe" else "encoder.pos_embed"
    assert changed == ([] if frames == 8 else [table])
    old, new = (
        values[table][0, before.class_token :].unflatten(0, (-1, MODELS[name]))
        for values in (tensors, resized)
    )
    expected = zoom(old.numpy(), (len(new) / len(old), 1, 1), order=1, grid_mode=False)
    assert torch.allclose(new, torch.from_numpy(expected), atol=1e-6)
    tokens = [values[table][0, : before.class_token] for values in (tensors, resized)]
    assert torch.equal(*tokens)


def test_a_finetuned_model_takes_clips_of_the_new_length(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", 3, ["a", "b"])
    start = model_file(tmp_path / "v.safetensors", "vivit")
    run = tmp_path / "run"
    words = ["finetune", "--dataset", data, "-m", start, "-j", "1", "--epochs", "1"]
    words += ["--recipe", "nano", "--num-frames"]
    done = vt_here(*words, "6", "-o", run)
    assert done.returncode == 0, done.stderr
    assert "positions over time are interpolated, from 4 frames to 6" in done.stderr
    card = read_card(run / "best.safetensors")
    assert card.config["num_frames"] == card.pipeline.frames == 6
    assert open_tensors(run / "best.safetensors")["encoder.pos_embed"].shape[1] == 1 + 3 * 4
    video = next(data.rglob("*.mp4"))
    assert vt_here("predict", video, "-m", run / "best.safetensors").returncode == 0
    refused = vt_here(*words, "1", "-o", tmp_path / "short")
    assert refused.returncode == 2
    assert "does not fill a tubelet" in refused.stderr
