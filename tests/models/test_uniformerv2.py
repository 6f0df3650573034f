"""UniFormerV2: logits equal upstream's, both layouts, and initialization from CLIP."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.goldens import (
    big_golden,
    build_model,
    golden_dir,
    golden_input,
    layout_of,
    load_manifest,
    require_any_prefix,
)
from vtcli.errors import LayoutError, ShapeError
from vtcli.models.layouts import from_vt, to_vt
from vtcli.models.uniformerv2 import ARCHITECTURE, PRESETS, infer_config
from vtcli.models.uniformerv2.configs import UniFormerV2Config

GOLDEN = golden_dir("uniformerv2")
TINY = sorted(p.stem for p in GOLDEN.glob("tiny_*.json"))
FULL = [
    "full_b16_8x224_k400_official",
    "full_b16_8x224_k400_mmaction2",
    "full_b16_16x224_ssv_official",
]


def config_of(upstream: dict[str, Any]) -> UniFormerV2Config:
    """Our configuration for upstream's constructor arguments."""
    local = 0 if upstream["no_lmhra"] else 1 + upstream["double_lmhra"]
    return UniFormerV2Config(
        image_size=upstream["input_resolution"],
        patch_size=upstream["patch_size"],
        width=upstream["width"],
        depth=upstream["layers"],
        num_heads=upstream["heads"],
        local_blocks=local,
        local_reduction=upstream["dw_reduction"],
        temporal_stride=2 if upstream["temporal_downsample"] else 1,
        global_layers=tuple(upstream["return_list"]),
        global_num_heads=upstream["n_head"],
        global_mlp_ratio=upstream["mlp_factor"],
        fuse_class_tokens=not upstream.get("frozen", False),
        num_classes=upstream["num_classes"],
        num_frames=upstream["t_size"],
    )


build = partial(build_model, ARCHITECTURE)


@torch.inference_mode()
def distance(path: Path) -> float:
    """Largest logit difference from upstream for one golden."""
    manifest, upstream = load_manifest(path)
    vt = to_vt(ARCHITECTURE.layouts[manifest["layout"]], upstream).tensors
    logits = build(config_of(manifest["config"]), vt)(golden_input(manifest["input"]["shape"]))
    expected = load_file(path.with_suffix(".safetensors"))["logits"]
    return (logits - expected).abs().max().item()


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_upstream(name: str) -> None:
    assert distance(GOLDEN / f"{name}.json") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_logits_equal_upstream(name: str) -> None:
    assert distance(big_golden("uniformerv2", f"{name}.json")) < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_layouts_are_recognized_and_restored_bit_for_bit(name: str) -> None:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    layout = layout_of(ARCHITECTURE, manifest, upstream)
    mapped = to_vt(layout, upstream)
    assert mapped.unexpected == []
    assert {n for n, _ in mapped.dropped} == {n for n in upstream if n.endswith("batches_tracked")}
    back = from_vt(layout, mapped.tensors, config_of(manifest["config"]))
    assert back.keys() == upstream.keys()
    assert all(torch.equal(back[name], upstream[name]) for name in upstream)


def test_names_are_read_with_and_without_prefixes() -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_global_official.json")
    require_any_prefix(ARCHITECTURE.layouts["official"], upstream, usual="backbone.")


@pytest.mark.parametrize("model", [name for name in PRESETS if not name.endswith("-nano")])
def test_every_published_configuration_is_inferred_from_shapes(model: str) -> None:
    config = PRESETS[model]
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in ARCHITECTURE.build(config).state_dict().items()}
    assert infer_config(shapes, {"num_frames": config.num_frames}) == config


@pytest.mark.parametrize(
    ("model", "num_classes", "millions"),
    [
        ("uniformerv2-b", 400, 114.552),
        ("uniformerv2-b", 600, 114.706),
        ("uniformerv2-b", 700, 114.783),
        ("uniformerv2-b", 710, 114.791),
        ("uniformerv2-b", 339, 114.505),
        ("uniformerv2-l", 400, 354.100),
        ("uniformerv2-l", 710, 354.417),
        ("uniformerv2-l", 200, 353.895),
        ("uniformerv2-l336", 400, 354.427),
        ("uniformerv2-l336-frozen", 400, 354.426),
        ("uniformerv2-b-local", 174, 162.993),
        ("uniformerv2-l-local", 174, 573.950),
    ],
)
def test_parameters_are_as_measured_upstream(model: str, num_classes: int, millions: float) -> None:
    with torch.device("meta"):
        net = ARCHITECTURE.build(_with(PRESETS[model], num_classes=num_classes))
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize(
    "name", ["clip_init_global_openai", "clip_init_full_openai", "clip_init_global_hf"]
)
def test_clip_initialization_equals_upstream(name: str) -> None:
    manifest, tensors = load_manifest(GOLDEN / f"{name}.json")
    config = config_of(manifest["config"])
    source = {n: t for n, t in tensors.items() if n in manifest["source_tensors"]}
    mapped = ARCHITECTURE.init_from_image_model(source, config)
    assert not mapped.unexpected
    assert {n for n, _ in mapped.dropped} == set(manifest["dropped"])
    with torch.device("meta"):
        model = ARCHITECTURE.build(config)
    model.to_empty(device="cpu")
    model.init_weights()
    # Upstream's random values are given; every other new tensor must have its documented value.
    random = {n: tensors[n] for n in manifest["random_new_tensors"]}
    fresh = to_vt(ARCHITECTURE.layouts["official"], random).tensors
    model.load_state_dict({**model.state_dict(), **mapped.tensors, **fresh})
    with torch.inference_mode():
        logits = model.eval()(golden_input(manifest["input"]["shape"]))
    expected = load_file(GOLDEN / f"{name}.safetensors")["logits"]
    assert (logits - expected).abs().max() < 1e-5


def test_the_image_tower_of_a_full_clip_is_used() -> None:
    manifest, source = load_manifest(GOLDEN / "clip_init_global_openai.json")
    source = {n: t for n, t in source.items() if n in manifest["source_tensors"]}
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(8), "logit_scale": torch.ones(())}
    mapped = ARCHITECTURE.init_from_image_model({**source, **text}, config_of(manifest["config"]))
    assert set(text) <= {name for name, _ in mapped.dropped}
    assert mapped.tensors["blocks.0.norm1.weight"].shape == (48,)


def test_tensors_that_are_not_clip_are_refused() -> None:
    with pytest.raises(LayoutError, match="not a CLIP image transformer"):
        ARCHITECTURE.init_from_image_model(
            {"fc.weight": torch.ones(2, 2)}, PRESETS["uniformerv2-b"]
        )


def _tiny(**changes: Any) -> nn.Module:
    manifest = json.loads((GOLDEN / "tiny_full_official.json").read_text())
    with torch.device("meta"):
        model = ARCHITECTURE.build(_with(config_of(manifest["config"]), **changes))
    torch.manual_seed(0)
    model.to_empty(device="cpu")
    model.init_weights()
    return model


def _with(config: UniFormerV2Config, **changes: Any) -> UniFormerV2Config:
    return UniFormerV2Config(**{**vars(config), **changes})


def test_logits_do_not_depend_on_the_other_clips_of_the_batch() -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_full_official.json")
    manifest = json.loads((GOLDEN / "tiny_full_official.json").read_text())
    vt = to_vt(ARCHITECTURE.layouts["official"], upstream).tensors
    model = build(config_of(manifest["config"]), vt)
    clips = golden_input([3, 3, 6, 32, 32])
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
    assert (together - alone).abs().max() < 1e-5


def test_the_error_for_a_wrong_clip_size_names_the_right_one() -> None:
    model = _tiny()
    with pytest.raises(ShapeError, match="32x32"):
        model(torch.zeros(1, 3, 6, 32, 40))
    with pytest.raises(ShapeError, match="even"):
        model(torch.zeros(1, 3, 5, 32, 32))


def test_every_parameter_gets_gradients() -> None:
    model = _tiny(drop_path=0.1, global_drop_path=0.1).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for seed in range(4):
        torch.manual_seed(seed)
        model(torch.randn(4, 3, 6, 32, 32)).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_half_precision_logits_are_close() -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_global_official.json")
    manifest = json.loads((GOLDEN / "tiny_global_official.json").read_text())
    vt = to_vt(ARCHITECTURE.layouts["official"], upstream).tensors
    model = build(config_of(manifest["config"]), vt)
    clip = golden_input(manifest["input"]["shape"])
    with torch.inference_mode():
        exact = model(clip)
        half = model.to(torch.bfloat16)(clip.bfloat16()).float()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_cost_is_as_measured_upstream() -> None:
    """148.1 GMACs per view for B/16 at 8x224; the folded cross-attention executes fewer."""
    with torch.device("meta"):
        model = ARCHITECTURE.build(PRESETS["uniformerv2-b"]).eval().requires_grad_(False)
        clip = torch.empty(1, 3, 8, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    giga_macs = counter.get_total_flops() / 2e9
    assert 0.93 * 148.1 < giga_macs < 1.01 * 148.1
