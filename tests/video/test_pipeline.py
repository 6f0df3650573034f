"""A pipeline gives the clips a checkpoint was tested with, in order, and upstream's scores.

Goldens come from tests/golden, or in full from $VT_GOLDEN where it is set; the named pipelines are
the registry's own, only frame counts, sizes and protocols are those of the golden.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import big_golden, golden_dir
from vtcli.errors import DataError, InputError, UsageError
from vtcli.video import views as views_module
from vtcli.video.pipeline import CHOICES, Pipeline, View, ViewFusion, plan_views
from vtcli.video.transforms import (
    CROP_ORDERS,
    CROP_RULES,
    NORMALIZE_RULES,
    RESIZE_RULES,
    crop_corners,
)
from vtcli.video.views import clip_tensors, fuse_views, probabilities, views_from_frames
from vtcli.weights.registry import load_registry

ARCHITECTURES = ("uniformerv2", "videoswin", "vivit", "xvit")


def pipeline(name: str, **changes: Any) -> Pipeline:
    return replace(load_registry().pipelines[name], **changes)


def hugging_face_pipeline(**changes: Any) -> Pipeline:
    """What the Hugging Face processor does with the frames that its caller picked."""
    return pipeline(
        "vivit-kinetics",
        sampling="uniform_linspace",
        resize="pillow_bilinear",
        crop_offset="floor",
        view_fusion="mean_prob",
        clips=1,
        crops=1,
        **changes,
    )


def goldens(arch: str, pattern: str) -> list[Path]:
    root = os.environ.get("VT_GOLDEN")
    folder = Path(root) / arch if root else golden_dir(arch)
    return sorted(p for p in folder.glob(pattern) if p.with_suffix(".safetensors").exists())


def noise(shape: list[int]) -> np.ndarray:
    return np.random.RandomState(1).randint(0, 256, shape, dtype=np.uint8)


def all_views(pipe: Pipeline, video: np.ndarray, fps: float = 30.0) -> tuple[list[View], Tensor]:
    """The planned views and their tensors, from frames decoded once each and in no order."""
    views = plan_views(pipe, len(video), fps)
    used = np.array(sorted({i for view in views for i in view.frame_indices}))
    shuffled = np.random.RandomState(0).permutation(used)
    row_of = {int(index): row for row, index in enumerate(shuffled)}
    return views, torch.stack(list(views_from_frames(video[shuffled], row_of, pipe, views)))


def sliced(tensor: Tensor, text: str) -> Tensor:
    """The golden's own cut, written `x[:, ::4, ..]`."""
    inside = text[text.index("[") + 1 : text.rindex("]")]
    cuts: list[Any] = []
    for part in inside.split(","):
        if part.strip() == "...":
            cuts.append(...)
        else:
            numbers = [None if n in ("", "None") else int(n) for n in part.strip().split(":")]
            cuts.append(slice(*numbers))
    return tensor[tuple(cuts)]


def clip_indices(views: list[View]) -> list[list[int]]:
    """The frame indices of each clip, once."""
    return [list(v.frame_indices) for v in sorted(views, key=lambda v: v.clip) if v.crop == 0]


def assert_same(ours: Tensor, golden: Tensor, tolerance: float = 1e-6) -> None:
    """Equal but for the last places of float32: not every CPU fuses products and sums alike."""
    assert ours.shape == golden.shape
    assert (ours - golden).abs().max().item() <= tolerance


# --- goldens --------------------------------------------------------------------------------------


# Upstream resizes what is normalized. Without fused products a CPU rounds the place it reads from,
# below 128, by another 2**-17, and from one pixel of the noise to the next is up to 1 / 0.225.
ROUNDED_PLACE = 2**-17 / 0.225


@pytest.mark.parametrize("path", goldens("uniformerv2", "pipeline_*.json"), ids=lambda p: p.stem)
def test_uniformerv2_clips_are_upstreams(path: Path) -> None:
    golden = json.loads(path.read_text())
    config = golden["config"]
    name = {"mmaction2": "mmaction2", "official": "kinetics"}[golden["layout"]]
    pipe = pipeline(
        "uniformerv2-something" if "sth" in path.stem else f"uniformerv2-{name}",
        frames=config["num_frames"],
        short_side=config["crop"],
        crop_size=config["crop"],
        clips=config["clips"],
        crops=config.get("crops", 1 if config.get("crop_kind") == "CenterCrop" else 3),
    )
    views, clips = all_views(pipe, noise(golden["video"]["shape"]))
    expected = golden["frame_indices"]
    found = [list(view.frame_indices) for view in views]
    assert (found if len(expected) == len(views) else clip_indices(views)) == expected
    for key, tensor in load_file(path.with_suffix(".safetensors")).items():
        view = clips[int(key.removeprefix("view"))]
        rounding = ROUNDED_PLACE if golden["layout"] == "official" else 0.0
        assert_same(sliced(view, golden["slice"]), tensor, golden["tolerance"] + rounding)


@pytest.mark.parametrize("layout", ["official", "mmaction2"])
def test_video_swin_clips_are_upstreams(layout: str) -> None:
    (path,) = goldens("videoswin", f"pipeline_{layout}.json")
    items = json.loads(path.read_text())["items"]
    for key, tensor in load_file(path.with_suffix(".safetensors")).items():
        item = items[key.removesuffix(".uint8")]
        name = "something" if "sthv2" in key else {"official": "kinetics"}.get(layout, layout)
        resize = next(step for step in item["pipeline"] if step["type"] == "Resize")
        pipe = pipeline(
            f"videoswin-{name}", short_side=resize["scale"][1], crop_size=item["clip_shape"][-1]
        )
        if "val_pipeline" in key:
            pipe = replace(pipe, clips=1, crops=1)
        if key.endswith(".uint8"):  # before they are normalized
            pipe = replace(pipe, normalize="raw", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        views, clips = all_views(pipe, noise(item["video"]))
        assert np.concatenate(clip_indices(views)).tolist() == item["frame_inds"], key
        assert list(clips.shape) == item["clip_shape"]
        assert_same(sliced(clips, item["slice"]), tensor.float())


def test_torchvision_clips_are_upstreams() -> None:
    (path,) = goldens("videoswin", "pipeline_torchvision.json")
    items = json.loads(path.read_text())["items"]
    for key, tensor in load_file(path.with_suffix(".safetensors")).items():
        item = items[key]
        crop = item["clip_shape"][-1]
        short_side = {224: 256, 56: 64}[crop]
        pipe = pipeline("videoswin-torchvision", short_side=short_side, crop_size=crop)
        clip = clip_tensors(noise(item["video"])[item["frame_inds"]], pipe, [0])[0]
        assert_same(sliced(clip, item["slice"]), tensor)


@pytest.mark.parametrize("path", goldens("vivit", "pipeline_scenic_*.json"), ids=lambda p: p.stem)
def test_scenic_clips_are_upstreams(path: Path) -> None:
    golden = json.loads(path.read_text())
    config = golden["config"]
    pipe = pipeline(
        "vivit-kinetics",
        frames=config["num_frames"],
        stride=config["stride"],
        short_side=config["min_resize"],
        crop_size=config["crop_size"],
        clips=config["num_test_clips"],
        crops=3 if config["do_three_spatial_crops"] else 1,
    )
    views, clips = all_views(pipe, noise([70, 96, 128, 3]))
    assert clip_indices(views) == golden["frame_indices"]
    (tensor,) = load_file(path.with_suffix(".safetensors")).values()
    assert_same(sliced(clips.permute(0, 2, 3, 4, 1), golden["slicing"]), tensor)


@pytest.mark.parametrize("path", goldens("vivit", "pipeline_hf_*.json"), ids=lambda p: p.stem)
def test_hugging_face_clips_are_upstreams(path: Path) -> None:
    golden = json.loads(path.read_text())
    config = golden["config"]
    pipe = hugging_face_pipeline(short_side=config["shortest_edge"], crop_size=config["crop"])
    if config["do_normalize"]:
        pipe = replace(pipe, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    video = noise([70, 96, 128, 3])
    clips = clip_tensors(video[golden["frame_indices"]], pipe, [0]).permute(0, 2, 1, 3, 4)
    (tensor,) = load_file(path.with_suffix(".safetensors")).values()
    assert_same(sliced(clips, golden["slicing"]), tensor)


@pytest.mark.parametrize("path", goldens("xvit", "pipeline_*.json"), ids=lambda p: p.stem)
def test_xvit_clips_are_upstreams(path: Path) -> None:
    golden = json.loads(path.read_text())
    config = golden["config"]
    pipe = pipeline(
        {"kinetics": "xvit-kinetics", "ssv2": "xvit-something"}[config["dataset"]],
        frames=config["num_frames"],
        short_side=config["short_side"],
        crop_size=config["crop"],
        clips=config["temporal_views"],
        crops=config["spatial_crops"],
    )
    tensors = load_file(path.with_suffix(".safetensors"))
    for shape in {tuple(item["video"]["shape"]) for item in golden["items"]}:
        views, clips = all_views(pipe, noise(list(shape)))
        for item in golden["items"]:
            if tuple(item["video"]["shape"]) != shape or item["key"] not in tensors:
                continue
            where = [(view.clip, view.crop) for view in views]
            row = where.index((item["temporal_view"], item["spatial_crop"]))
            assert list(views[row].frame_indices) == item["frame_indices"]
            tolerance = golden["tolerance"]
            assert_same(sliced(clips[row], item["slice"]), tensors[item["key"]], tolerance)


# --- end to end: upstream's own code on a real clip -----------------------------------------------

E2E = [
    (arch, name)
    for arch in ARCHITECTURES
    for name in json.loads((golden_dir(arch) / "sampling_e2e_views.json").read_text())
]
E2E_PIPELINES = {
    "swin_base_window1677_sthv2": "videoswin-something",
    "swin_swin3d_t_torchvision": "videoswin-torchvision",
    "swin_tiny_k400_official": "videoswin-kinetics",
    "uniformerv2_b16_16x224_ssv2": "uniformerv2-something",
    "uniformerv2_b16_8x224_k400_mmaction2": "uniformerv2-mmaction2",
    "uniformerv2_b16_8x224_k400_official": "uniformerv2-kinetics",
    "vivit_b16x2_k400_scenic": "vivit-kinetics",
    "xvit_k600": "xvit-kinetics",
    "xvit_ssv2": "xvit-something",
}


def e2e_pipeline(name: str) -> Pipeline:
    if name.startswith("vivit_hf"):
        pipe = hugging_face_pipeline()
    else:
        pipe = pipeline(next(v for k, v in E2E_PIPELINES.items() if name.startswith(k)))
    if "_rgb_" in name:
        pipe = replace(pipe, channel_order="rgb")
    if "hf_b16x2_k400_default" in name:
        pipe = replace(pipe, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    if "centre" in name:
        pipe = replace(pipe, clips=1)
    return pipe


@pytest.mark.parametrize(("arch", "name"), E2E)
def test_views_of_a_real_clip_are_upstreams(arch: str, name: str) -> None:
    facts = json.loads((golden_dir(arch) / "sampling_e2e_views.json").read_text())[name]
    clip, expected = facts["clip"], facts["views"]
    pipe = e2e_pipeline(name)
    views = plan_views(pipe, clip["frames"], clip["fps"])
    size = RESIZE_RULES[pipe.resize].size(clip["height"], clip["width"], pipe.short_side)
    corners = crop_corners(
        size, pipe.crop_size, pipe.crop_offset, pipe.crop_order, views[0].num_crops
    )
    found = [
        {
            "clip": view.clip,
            "crop": view.crop,
            "frame_indices": list(view.frame_indices),
            "resized_hw": list(size),
            "crop_top_left_yx": list(corners[view.crop]),
        }
        for view in views
    ]
    assert found == expected


@pytest.fixture(scope="module")
def arm_wrestling() -> np.ndarray:
    """All frames of the clip the end-to-end goldens were made with, beside the goldens' folder."""
    av = pytest.importorskip("av")
    path = Path(os.environ.get("VT_GOLDEN", ".")).parent / "clips" / "arm_wrestling_340x256.mp4"
    if not os.environ.get("VT_GOLDEN") or not path.exists():
        pytest.skip("needs $VT_GOLDEN with the folder 'clips' beside it")
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize(("arch", "name"), E2E)
def test_model_inputs_and_scores_of_a_real_clip_are_upstreams(
    arch: str, name: str, arm_wrestling: np.ndarray
) -> None:
    golden = json.loads(big_golden("e2e", f"{name}.json").read_text())
    tensors = load_file(big_golden("e2e", f"{name}.safetensors"))
    pipe = e2e_pipeline(name)
    _, clips_VCTSS = all_views(pipe, arm_wrestling, golden["clip"]["fps"])
    layout = golden["input_layout"].split()[0].strip(",").split(",")
    ours = clips_VCTSS.permute(*("VCTHW".index(axis) for axis in layout))
    assert_same(sliced(ours, golden["input_slice"]), tensors["inputs"])
    scores = fuse_views(tensors["logits"], pipe.view_fusion)
    limit = golden["tolerance"]["same_pixels"]["scores_relative_to_max_score"]
    assert (scores - tensors["scores"]).abs().max() <= limit * tensors["scores"].abs().max() / 100
    for ranking in (scores, probabilities(tensors["logits"], pipe.view_fusion)):
        assert ranking.topk(5).indices.tolist() == golden["top5"]["indices"]


# --- the data structure ---------------------------------------------------------------------------

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
def test_a_table_that_does_not_fit_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=re.escape(named)):
        Pipeline.from_dict(TABLE | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="mean"):
        Pipeline.from_dict({k: v for k, v in TABLE.items() if k != "mean"})


def test_every_name_a_pipeline_may_say_has_its_rule() -> None:
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


def test_one_view_is_the_rules_one_clip_in_the_center() -> None:
    pipe = Pipeline.from_dict(TABLE)
    (view,) = plan_views(pipe, 21, 30.0, clips=1, crops=1)
    assert view == View(0, 0, 1, (7, 9, 11, 13))
    video = noise([21, 16, 27, 3])
    (clip,) = views_from_frames(video, {i: i for i in range(21)}, pipe, [view])
    middle = video[[7, 9, 11, 13], :, 5:21].transpose(3, 0, 1, 2)
    mean, std = (np.float32(TABLE[k]).reshape(3, 1, 1, 1) for k in ("mean", "std"))
    assert np.array_equal(clip.numpy(), (middle - mean) / std)


@pytest.mark.parametrize(("clips", "crops"), [(0, 1), (1, 2), (4, 5), (-1, 3)])
def test_views_that_cannot_be_are_refused(clips: int, crops: int) -> None:
    with pytest.raises(UsageError, match=f"{clips}x{crops}"):
        plan_views(Pipeline.from_dict(TABLE), 20, 30.0, clips, crops)


def test_a_video_without_frames_has_no_views() -> None:
    with pytest.raises(InputError, match="no frames"):
        plan_views(Pipeline.from_dict(TABLE), 0, 30.0)


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_channels_come_in_the_order_asked_for(channel_order: str) -> None:
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

    def counted(frames: Tensor, height: int, width: int) -> Tensor:
        seen.append(len(frames))
        return rule.pixels(frames, height, width)

    monkeypatch.setitem(views_module.RESIZE_RULES, resize, replace(rule, pixels=counted))
    monkeypatch.setattr(views_module, "CHUNK_BYTES", 4 * video[0].nbytes)
    views, clips = all_views(pipe, video)
    assert sum(seen) == len({i for v in views for i in v.frame_indices})
    assert max(seen) <= 4
    for view, clip in zip(views, clips, strict=True):
        alone = clip_tensors(video[list(view.frame_indices)], pipe, [view.crop])[0]
        assert torch.equal(clip, alone)
        assert clip.is_contiguous()


def test_only_the_crops_asked_for_come_back_in_that_order() -> None:
    pipe = Pipeline.from_dict(TABLE)
    frames = noise([4, 16, 30, 3])
    every = clip_tensors(frames, pipe, [0, 1, 2])
    assert every.shape == (3, 3, 4, 16, 16)
    assert torch.equal(clip_tensors(frames, pipe, [2, 0]), every[[2, 0]])
    assert torch.equal(clip_tensors(frames, pipe, [0], num_crops=1)[0], every[2])


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", get_args(ViewFusion))
def test_scores_are_fused_by_the_rows_rule(rule: ViewFusion) -> None:
    logits = np.random.RandomState(3).standard_normal((6, 5))
    values = logits
    if rule.endswith("prob"):
        values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    fused = values.mean(0) if rule.startswith("mean") else values.sum(0)
    mean = values.mean(0)
    answer = mean if rule.endswith("prob") else np.exp(mean) / np.exp(mean).sum()
    found = torch.from_numpy(logits).float()
    assert np.allclose(fuse_views(found, rule), fused, atol=1e-6)
    assert np.allclose(probabilities(found, rule), answer, atol=1e-6)
    assert probabilities(found, rule).sum().item() == pytest.approx(1)
    ranking = probabilities(found, rule).argsort().tolist()
    assert ranking == fuse_views(found, rule).argsort().tolist()


def test_half_precision_logits_are_fused_in_full_precision() -> None:
    logits = torch.full((3, 1000), 0.1, dtype=torch.bfloat16)
    assert fuse_views(logits, "sum_prob").dtype == torch.float64
    assert fuse_views(logits, "sum_prob").sum().item() == pytest.approx(3, abs=1e-9)
