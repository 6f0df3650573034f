"""A pipeline gives the clips a checkpoint was tested with, in order, and upstream's scores.

Goldens come from tests/golden, or in full from $VT_GOLDEN where it is set; the named pipelines are
the registry's own, only frame counts, sizes and protocols are those of the golden.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import big_golden, golden_dir
from vtcli.video.pipeline import Pipeline, View, plan_views
from vtcli.video.transforms import (
    RESIZE_RULES,
    crop_corners,
)
from vtcli.video.views import clip_tensors, fuse_views, probabilities, views_from_frames
from vtcli.weights.registry import load_registry

ARCHITECTURES = ("uniformerv2", "videoswin", "vivit", "xvit")


def pipeline(name: str, **changes: Any) -> Pipeline:
    return replace(load_registry().pipelines[name], **changes)


def hugging_face_pipeline(**changes: Any) -> Pipeline:
    """The transforms of the Hugging Face processor, for frames that its caller samples."""
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
    """The planned views and their tensors, from shuffled frames that are each decoded once."""
    views = plan_views(pipe, len(video), fps)
    used = np.array(sorted({i for view in views for i in view.frame_indices}))
    shuffled = np.random.RandomState(0).permutation(used)
    row_of = {int(index): row for row, index in enumerate(shuffled)}
    return views, torch.stack(list(views_from_frames(video[shuffled], row_of, pipe, views)))


def sliced(tensor: Tensor, text: str) -> Tensor:
    """The slice that a golden contains, written as `x[:, ::4, ..]`."""
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
    """Equal up to float32 rounding: not every CPU fuses products and sums."""
    assert ours.shape == golden.shape
    assert (ours - golden).abs().max().item() <= tolerance


# --- goldens --------------------------------------------------------------------------------------


# Upstream resizes normalized frames. Without fused products a CPU rounds the source position, which
# is below 128, by another 2**-17; neighboring pixels of the noise differ by up to 1 / 0.225.
POSITION_ROUNDING = 2**-17 / 0.225


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
        rounding = POSITION_ROUNDING if golden["layout"] == "official" else 0.0
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
    """All frames of the clip of the end-to-end goldens, which is next to the goldens' folder."""
    av = pytest.importorskip("av")
    path = Path(os.environ.get("VT_GOLDEN", ".")).parent / "clips" / "arm_wrestling_340x256.mp4"
    if not os.environ.get("VT_GOLDEN") or not path.exists():
        pytest.skip("needs $VT_GOLDEN with the folder 'clips' next to it")
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
