"""A pipeline is validated data; views, channels and the fusion of scores follow it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.video.test_pipeline_goldens import all_views, noise
from vtcli.errors import DataError, InputError, UsageError
from vtcli.video import views as views_module
from vtcli.video.pipeline import CHOICES, MULTI_LABEL, Pipeline, View, ViewFusion, plan_views
from vtcli.video.transforms import (
    CROP_ORDERS,
    CROP_RULES,
    NORMALIZE_RULES,
    RESIZE_RULES,
)
from vtcli.video.views import clip_tensors, fuse_views, probabilities, views_from_frames

TABLE: dict[str, Any] = {
    "sampling": "dense_loop_endpoints",
    "frames": 4,
    "stride": 2,
    "clips": 2,
    "crops": 3,
    "resize": "opencv_bilinear",
    "short_side": 16,
    "crop_size": 16,
    "crop_offset": "floor",
    "crop_order": "first_last_middle",
    "normalize": "raw",
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "channel_order": "rgb",
    "view_order": "crop_major",
    "view_fusion": "mean_prob",
}


def test_a_table_is_read_and_written_back_unchanged() -> None:
    pipe = Pipeline.from_dict(TABLE)
    assert pipe.to_dict() == TABLE
    assert json.loads(json.dumps(pipe.to_dict())) == TABLE
    assert hash(pipe) == hash(Pipeline.from_dict(pipe.to_dict()))
    assert replace(pipe, mean=[0, 0, 0]).mean == (0.0, 0.0, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": "every_frame"}, "every_frame"),
        ({"resize": "bicubic"}, "bicubic"),
        ({"view_fusion": "max"}, "max"),
        ({"view_order": ["crop_major"]}, "view_order"),
        ({"frames": 0}, "frames"),
        ({"frames": "8"}, "frames"),
        ({"stride": True}, "stride"),
        ({"crops": 2}, "crops"),
        ({"crop_size": 17}, "crop_size"),
        ({"mean": [1.0, 2.0]}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"std": [1.0, 0.0, 1.0]}, "std"),
        ({"std": ["a", "b", "c"]}, "std"),
        ({"color": "gray"}, "color"),
    ],
)
def test_an_invalid_field_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=re.escape(named)):
        Pipeline.from_dict(TABLE | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="mean"):
        Pipeline.from_dict({k: v for k, v in TABLE.items() if k != "mean"})


def test_every_choice_of_a_field_has_a_rule() -> None:
    tables = {
        "resize": RESIZE_RULES,
        "crop_offset": CROP_RULES,
        "crop_order": CROP_ORDERS,
        "normalize": NORMALIZE_RULES,
    }
    for field, rules in tables.items():
        assert set(CHOICES[field]) == set(rules)


def test_a_pipeline_is_read_without_torch() -> None:
    code = "import sys, vtcli.video.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- views ----------------------------------------------------------------------------------------


def test_views_are_numbered_in_either_order() -> None:
    pipe = Pipeline.from_dict(TABLE)
    by_crop = [(v.clip, v.crop) for v in plan_views(pipe, 20, 30.0)]
    by_clip = [(v.clip, v.crop) for v in plan_views(replace(pipe, view_order="clip_major"), 20, 30)]
    assert by_crop == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert by_clip == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_a_single_view_is_the_single_clip_of_the_rule_in_the_center() -> None:
    pipe = Pipeline.from_dict(TABLE)
    (view,) = plan_views(pipe, 21, 30.0, clips=1, crops=1)
    assert view == View(0, 0, 1, (7, 9, 11, 13))
    video = noise([21, 16, 27, 3])
    (clip,) = views_from_frames(video, {i: i for i in range(21)}, pipe, [view])
    middle = video[[7, 9, 11, 13], :, 5:21].transpose(3, 0, 1, 2)
    mean, std = (np.float32(TABLE[k]).reshape(3, 1, 1, 1) for k in ("mean", "std"))
    assert np.array_equal(clip.numpy(), (middle - mean) / std)


@pytest.mark.parametrize(("clips", "crops"), [(0, 1), (1, 2), (4, 5), (-1, 3)])
def test_invalid_numbers_of_views_are_refused(clips: int, crops: int) -> None:
    with pytest.raises(UsageError, match=f"{clips}x{crops}"):
        plan_views(Pipeline.from_dict(TABLE), 20, 30.0, clips, crops)


def test_a_video_without_frames_has_no_views() -> None:
    with pytest.raises(InputError, match="no frames"):
        plan_views(Pipeline.from_dict(TABLE), 0, 30.0)


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_channels_are_in_the_order_of_the_pipeline(channel_order: str) -> None:
    pipe = Pipeline.from_dict(TABLE | {"channel_order": channel_order})
    frames = np.full((4, 16, 16, 3), (10, 20, 30), dtype=np.uint8)
    clip = clip_tensors(frames, pipe, [0])[0]
    levels = (10, 20, 30) if channel_order == "rgb" else (30, 20, 10)
    for channel, level in enumerate(levels):
        expected = (level - TABLE["mean"][channel]) / TABLE["std"][channel]
        assert clip[channel].unique().item() == pytest.approx(expected)


@pytest.mark.parametrize("resize", RESIZE_RULES)
def test_a_frame_is_resized_once_however_many_views_show_it(
    resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline.from_dict(TABLE | {"resize": resize, "clips": 4})
    video = noise([9, 20, 30, 3])
    seen: list[int] = []
    rule = RESIZE_RULES[resize]

    def counted(frames: Tensor, *target: Any) -> Tensor:
        seen.append(len(frames))
        return rule.pixels(frames, *target)

    monkeypatch.setitem(views_module.RESIZE_RULES, resize, replace(rule, pixels=counted))
    monkeypatch.setattr(views_module, "CHUNK_BYTES", 4 * video[0].nbytes)
    views, clips = all_views(pipe, video)
    assert sum(seen) == len({i for v in views for i in v.frame_indices})
    assert max(seen) <= 4
    for view, clip in zip(views, clips, strict=True):
        alone = clip_tensors(video[list(view.frame_indices)], pipe, [view.crop])[0]
        assert torch.equal(clip, alone)
        assert clip.is_contiguous()


def test_frames_may_be_read_only_or_reversed() -> None:
    pipe = Pipeline.from_dict(TABLE)
    frames = noise([4, 20, 30, 3])
    expected = clip_tensors(frames, pipe, [0])
    backwards = frames[:, :, ::-1].copy()[:, :, ::-1]
    frames.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(clip_tensors(frames, pipe, [0]), expected)
        assert torch.equal(clip_tensors(backwards, pipe, [0]), expected)


def test_only_the_requested_crops_are_returned_in_that_order() -> None:
    pipe = Pipeline.from_dict(TABLE)
    frames = noise([4, 16, 30, 3])
    every = clip_tensors(frames, pipe, [0, 1, 2])
    assert every.shape == (3, 3, 4, 16, 16)
    assert torch.equal(clip_tensors(frames, pipe, [2, 0]), every[[2, 0]])
    assert torch.equal(clip_tensors(frames, pipe, [0], num_crops=1)[0], every[2])


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", get_args(ViewFusion))
def test_scores_are_fused_by_the_rule_of_the_pipeline(rule: ViewFusion) -> None:
    logits = np.random.RandomState(3).standard_normal((6, 5))
    values = logits
    if rule.endswith("prob"):
        values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if rule == MULTI_LABEL:
        values = 1 / (1 + np.exp(-logits))
    fused = values.mean(0) if rule.startswith("mean") else values.sum(0)
    mean = values.mean(0)
    are_probabilities = rule.endswith("prob") or rule == MULTI_LABEL
    expected = mean if are_probabilities else np.exp(mean) / np.exp(mean).sum()
    found = torch.from_numpy(logits).float()
    assert np.allclose(fuse_views(found, rule), fused, atol=1e-6)
    assert np.allclose(probabilities(found, rule), expected, atol=1e-6)
    if rule != MULTI_LABEL:  # whose classes do not exclude each other
        assert probabilities(found, rule).sum().item() == pytest.approx(1)
    ranking = probabilities(found, rule).argsort().tolist()
    assert ranking == fuse_views(found, rule).argsort().tolist()


def test_half_precision_logits_are_fused_in_full_precision() -> None:
    logits = torch.full((3, 1000), 0.1, dtype=torch.bfloat16)
    assert fuse_views(logits, "sum_prob").dtype == torch.float64
    assert fuse_views(logits, "sum_prob").sum().item() == pytest.approx(3, abs=1e-9)
