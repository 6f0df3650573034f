"""Overlapping windows share what the network computes for a step alone; scores stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.evaluation.harness import model_file
from vtcli.inference.predictor import Predictor
from vtcli.inference.shared_steps import SharedSteps, align_steps, frame_step
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline
from vtcli.labels.heads import HeadSpec
from vtcli.models import get_architecture, with_overrides
from vtcli.video.sampling import SAMPLERS

SMALL_VIVIT: dict[str, Any] = {
    "image_size": 32,
    "num_frames": 8,
    "tubelet_size": [2, 16, 16],
    "width": 16,
    "depth": 2,
    "temporal_depth": 1,
    "num_heads": 2,
    "num_classes": 5,
}
SMALL_UNIFORMER = {**tiny.OVERRIDES, "num_classes": 5}


class Card:
    heads = (HeadSpec("action", 5, tuple("abcde")),)


def network(arch: str, preset: str, **changes: Any) -> Any:
    architecture = get_architecture(arch)
    small = SMALL_VIVIT if arch == "vivit" else SMALL_UNIFORMER
    config = with_overrides(architecture.presets[preset], {**small, **changes})
    net: Any = architecture.build(config).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    net.card, net.dtype = Card(), torch.float32
    return net


NETWORKS = [
    ("uniformerv2", "uniformerv2-b", {}),
    ("uniformerv2", "uniformerv2-b", {"fuse_class_tokens": False, "global_layers": [1]}),
    ("vivit", "vivit-b-fe", {}),
    ("vivit", "vivit-b-fe", {"temporal_depth": 0}),
    ("vivit", "vivit-b-fe", {"class_token": False}),
]


@pytest.mark.parametrize(("arch", "preset", "changes"), NETWORKS)
@pytest.mark.parametrize("max_bytes", [1 << 30, 0])
def test_scores_equal_those_of_separate_windows(
    arch: str, preset: str, changes: dict[str, Any], max_bytes: int
) -> None:
    net = network(arch, preset, **changes)
    frames_3NHW = torch.randn(3, 20, 32, 32, generator=torch.Generator().manual_seed(1))
    frames_of = [list(range(first, first + 8)) for first in (0, 2, 4, 6, 12)]
    clips = [frames_3NHW[:, row] for row in frames_of]
    shared = SharedSteps(net, frames_of, max_bytes)
    found = shared.score(iter(clips), 2)["action"]
    with torch.inference_mode():
        expected = torch.cat([net(clip[None]) for clip in clips])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Frames 0 to 19 in steps: each once, unless nothing is kept from one batch to the next.
    steps = 20 // (frame_step(net) or 1)
    assert shared.computed == steps if max_bytes else shared.computed > steps
    assert not shared.kept


@pytest.mark.parametrize(
    ("arch", "preset", "changes"),
    [
        ("uniformerv2", "uniformerv2-b", {"local_blocks": 1}),
        ("uniformerv2", "uniformerv2-b", {"temporal_stride": 2}),
        ("vivit", "vivit-b", {}),
        ("vivit", "vivit-b-fe", {"sampled_frames": 4}),
    ],
)
def test_a_network_that_mixes_frames_shares_nothing(
    arch: str, preset: str, changes: dict[str, Any]
) -> None:
    assert frame_step(network(arch, preset, **changes)) is None


def test_a_network_in_training_shares_nothing() -> None:
    assert frame_step(network("uniformerv2", "uniformerv2-b").train()) is None
    assert frame_step(torch.nn.Linear(1, 1)) is None


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 60.0])
@pytest.mark.parametrize(
    ("rule", "length", "size", "ratio"),
    [("uniform_segments", 8, 1, 3.5), ("dense_loop_linspace", 32, 2, 3.0)],
)
def test_windows_of_two_seconds_every_half_share_most_steps(
    fps: float, rule: str, length: int, size: int, ratio: float
) -> None:
    starts = np.ceil(np.arange(40) * fps / 2).astype(int)
    (own,) = SAMPLERS[rule](int(2 * fps), length, 2, 1, fps)
    rows = [[int(start + index) for index in own] for start in starts]
    aligned = align_steps(rows, size)
    reach = max(1, (own[size] - own[0]) // 2)
    assert np.abs(np.array(aligned) - np.array(rows)).max() <= reach
    assert aligned[0] == rows[0]
    steps = [tuple(row[i : i + size]) for row in aligned for i in range(0, length, size)]
    # A clip that is shorter than its window shares only what its own frames overlap: at 60 frames
    # per second, 64 of which every 30 are new.
    span = own[-1] - own[0] + 2 if rule == "dense_loop_linspace" else 2 * fps
    possible = span / (fps / 2) if span < 2 * fps else ratio
    assert len(steps) / len(set(steps)) >= min(ratio, 0.95 * possible)


def test_a_timeline_computes_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_file(tmp_path / "tiny.safetensors")
    clip = tiny.video(tmp_path / "clip.mp4", 100)
    counts: list[int] = []
    with Predictor(model, precision="fp32", topk=8) as predictor:
        net: Any = predictor.net
        original = net.step_features
        monkeypatch.setattr(net, "step_features", lambda x: (counts.append(len(x)), original(x))[1])
        timeline = TimelinePredictor(predictor, 2.0, 0.25)
        (shared,) = timeline.predict([clip])
        computed = sum(counts)
        timeline.share_steps = False
        (separate,) = timeline.predict([clip])
    assert isinstance(shared, Timeline)
    assert isinstance(separate, Timeline)
    assert sum(counts) == computed < len(shared.windows) * 8 / 3
    for one, other in zip(shared.windows, separate.windows, strict=True):
        assert one.window == other.window
        scores = {c.index: c.score for c in other.heads["action"]}
        for found in one.heads["action"]:
            assert found.score == pytest.approx(scores[found.index], abs=1e-5)
