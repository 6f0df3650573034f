"""Each architecture is fine-tuned from its image model, inflated as upstream inflates it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.evaluation.harness import class_folders
from tests.goldens import golden_dir, golden_input, load_manifest, synthetic_tensors
from tests.models import test_uniformerv2, test_videoswin, test_vivit_init, test_xvit, vivit_goldens
from tests.training.harness import file_of, plan_for, recipe_of, trainer, weights
from vtcli.errors import LayoutError, UnknownModelError
from vtcli.models import get_architecture
from vtcli.models.layouts import to_vt
from vtcli.training.init import build_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 3, ["a", "b"])


def first_weights(arch: str, config: Any, image: dict[str, Tensor], data: Path, run: Path) -> Any:
    """The weights that a training of `config` from `image` starts with: those after an epoch with
    learning rate zero.
    """
    run.mkdir()
    save_file({n: t.contiguous() for n, t in image.items()}, run / "image.safetensors")
    model = file_of(run / "model.safetensors", arch, config)
    still = {"lr": 0.0, "warmup_lr": 0.0, "min_lr": 0.0, "freeze_bn": True, "batch_size": 2}
    recipe = recipe_of(arch, **still, mixup=0.0)
    plan = plan_for(data, model, recipe, init=str(run / "image.safetensors"))
    assert trainer(run, plan).fit() == "done"
    return weights(run / "last.safetensors")


def logits_of(arch: str, config: Any, tensors: dict[str, Tensor], clip: Tensor) -> Tensor:
    """The logits of a network with these weights."""
    network = get_architecture(arch).build(config)
    network.load_state_dict(tensors)
    with torch.inference_mode():
        return vivit_goldens.together(network.eval()(clip))


def test_uniformerv2_starts_from_clip(data: Path, tmp_path: Path) -> None:
    name = "clip_init_full_openai"
    manifest, tensors = load_manifest(golden_dir("uniformerv2") / f"{name}.json")
    config = test_uniformerv2.config_of(manifest["config"])
    image = {n: t for n, t in tensors.items() if n in manifest["source_tensors"]}
    found = first_weights("uniformerv2", config, image, data, tmp_path / "run")
    drawn = {n: tensors[n] for n in manifest["random_new_tensors"]}
    layout = get_architecture("uniformerv2").layouts["official"]
    found |= to_vt(layout, drawn).tensors
    logits = logits_of("uniformerv2", config, found, golden_input(manifest["input"]["shape"]))
    expected = load_file(golden_dir("uniformerv2") / f"{name}.safetensors")["logits"]
    assert (logits - expected).abs().max() < 1e-5


def test_video_swin_starts_from_image_swin(data: Path, tmp_path: Path) -> None:
    name = "inflate_same_window"
    manifest, image = load_manifest(golden_dir("videoswin") / f"{name}.json")
    clip = golden_input(manifest["input"]["shape"])
    config = replace(test_videoswin.config_of(manifest), image_size=48, num_frames=8)
    found = first_weights("videoswin", config, image, data, tmp_path / "run")
    layout = get_architecture("videoswin").layouts["official"]
    found |= to_vt(layout, synthetic_tensors(manifest["head_tensors"])).tensors
    expected = load_file(golden_dir("videoswin") / f"{name}.safetensors")["logits"]
    assert (logits_of("videoswin", config, found, clip) - expected).abs().max() < 1e-5


def test_vivit_starts_from_an_image_vit(data: Path, tmp_path: Path) -> None:
    name = "init_m1_central_tile"
    folder = golden_dir("vivit")
    manifest = json.loads((folder / f"{name}.json").read_text())
    config = replace(vivit_goldens.config_of(manifest), image_size=12)
    image = test_vivit_init.as_timm(test_vivit_init.image_model(manifest))
    found = first_weights("vivit", config, image, data, tmp_path / "run")
    fresh = synthetic_tensors(manifest["fresh_tensors"])
    named = {n.replace("fresh/", vivit_goldens.ROOT): t for n, t in fresh.items()}
    drawn = to_vt(get_architecture("vivit").layouts["scenic"], named).tensors
    found |= {name: drawn[name] for name in ("head.weight", "head.bias")}
    logits = logits_of("vivit", config, found, vivit_goldens.clip_of(manifest))
    assert (logits - load_file(folder / f"{name}.safetensors")["logits"]).abs().max() < 1e-5


def test_xvit_starts_from_an_image_vit(data: Path, tmp_path: Path) -> None:
    name = "init_tiny_in21k"
    manifest, image = load_manifest(golden_dir("xvit") / f"{name}.json")
    config = replace(test_xvit.config_of(manifest), num_classes=2)
    found = first_weights("xvit", config, image, data, tmp_path / "run")
    network: Any = get_architecture("xvit").build(config)
    network.load_state_dict(found)
    with torch.inference_mode():
        features = network.eval().frame_features(golden_input(manifest["input"]["shape"]))
    expected = load_file(golden_dir("xvit") / f"{name}.safetensors")["features"]
    assert (features.flatten(0, 1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [{"depth": 4}, {"patch_size": 28}], ids=str)
def test_an_image_vit_of_another_size_is_refused(
    changes: dict[str, int], data: Path, tmp_path: Path
) -> None:
    manifest, image = load_manifest(golden_dir("xvit") / "init_tiny_in21k.json")
    config = replace(test_xvit.config_of(manifest), num_classes=2, **changes)
    with pytest.raises(LayoutError, match=r"\(width, layers, patch\) = .*, the model"):
        first_weights("xvit", config, image, data, tmp_path / "run")


def test_an_image_swin_of_another_depth_is_refused(data: Path, tmp_path: Path) -> None:
    manifest, image = load_manifest(golden_dir("videoswin") / "inflate_same_window.json")
    config = replace(test_videoswin.config_of(manifest), image_size=48, num_frames=8)
    deeper = replace(config, depths=(*config.depths[:-1], config.depths[-1] + 1))
    with pytest.raises(LayoutError, match="blocks in its stages, the model"):
        first_weights("videoswin", deeper, image, data, tmp_path / "run")


def test_a_file_that_is_not_an_image_model_is_refused(data: Path, tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    config = test_uniformerv2.config_of(
        load_manifest(golden_dir("uniformerv2") / "clip_init_full_openai.json")[0]["config"]
    )
    model = file_of(tmp_path / "model.safetensors", "uniformerv2", config)
    recipe = recipe_of("uniformerv2")
    plan = plan_for(data, model, recipe, init=str(tmp_path / "other.safetensors"))
    with pytest.raises(LayoutError, match="not a CLIP image transformer"):
        build_model(plan.model_init, plan.labels)
    plan = plan_for(data, model, recipe, init="openai/clip")
    with pytest.raises(UnknownModelError, match="write hf://openai/clip"):
        build_model(plan.model_init, plan.labels)
