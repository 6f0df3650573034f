"""X-ViT checkpoints: reading, exporting, and initialization from ViT as upstream does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.goldens import big_golden, golden_input, load_manifest
from tests.models.test_xvit import (
    GOLDEN,
    TINY,
    build,
    config_of,
    fresh_model,
    golden_model,
    largest,
    layout_of,
)
from vtcli.errors import LayoutError
from vtcli.models.layouts import from_vt, to_vt
from vtcli.models.xvit import PRESETS, infer_config
from vtcli.models.xvit.checkpoints import LAYOUTS, init_from_image_model
from vtcli.models.xvit.model import XViT

INITIAL = sorted(p.stem for p in GOLDEN.glob("init_tiny_*.json"))


@pytest.mark.parametrize("name", TINY)
def test_official_files_are_restored_bit_for_bit(name: str) -> None:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    layout = layout_of(upstream)
    mapped = to_vt(layout, upstream)
    assert mapped.unexpected == []
    assert [name for name, _ in mapped.dropped] == manifest["unused_keys"]
    back = from_vt(layout, mapped.tensors, config_of(manifest))
    assert back.keys() == upstream.keys()
    for name, tensor in upstream.items():
        unused = name in manifest["unused_keys"]
        assert torch.equal(back[name], torch.zeros_like(tensor) if unused else tensor)


def test_exported_files_have_the_wrapper_key_that_upstream_reads() -> None:
    assert all(layout.wrapper_keys == ("model_state",) for layout in LAYOUTS.values())


def test_a_model_is_not_exported_with_a_head_it_does_not_have() -> None:
    averages, attends = golden_model("tiny_avg_8f"), golden_model("tiny_noshift_8f")
    with pytest.raises(LayoutError, match="official-avg"):
        from_vt(LAYOUTS["official"], averages.state_dict(), averages.config)
    with pytest.raises(LayoutError, match="temporal"):
        from_vt(LAYOUTS["official-avg"], attends.state_dict(), attends.config)


def test_files_of_time_is_matter_are_the_same_network_with_other_names() -> None:
    """Their classifier is named `consensus.head`; other tensors are for training losses."""
    _, official = load_manifest(GOLDEN / "tiny_noshift_8f.json")
    upstream = {
        name.replace("consensus.mlp_head.4", "consensus.head"): tensor
        for name, tensor in official.items()
        if not name.startswith("new_fc")
    }
    vt = to_vt(LAYOUTS["official"], official).tensors
    layout = layout_of(upstream)
    assert layout.name == "time"
    back = from_vt(layout, vt, None)
    assert back.keys() == upstream.keys()
    extra = {"flow_head.weight": torch.ones(9, 48), "mlp_q.bias": torch.ones(48)}
    mapped = to_vt(layout, upstream | extra)
    assert {name for name, _ in mapped.dropped} == extra.keys()
    assert mapped.tensors.keys() == vt.keys()
    assert all(torch.equal(mapped.tensors[name], vt[name]) for name in vt)


def released_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """The 171 tensors of a released B/16 file."""
    C = 768

    def module(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def block(name: str) -> dict[str, tuple[int, ...]]:
        return (
            module(f"{name}.norm1", C)
            | module(f"{name}.attn.qkv", 3 * C, C)
            | module(f"{name}.attn.proj", C, C)
            | module(f"{name}.norm2", C)
            | module(f"{name}.mlp.fc1", 4 * C, C)
            | module(f"{name}.mlp.fc2", C, 4 * C)
        )

    shapes: dict[str, tuple[int, ...]] = {
        "base_model.cls_token": (1, 1, C),
        "base_model.pos_embed": (1, 197, C),
        "base_model.temp_embed": (1, 8, 1, C),
        "consensus.cls_token": (1, 1, C),
        **module("base_model.patch_embed.proj", C, 3, 16, 16),
        **module("base_model.norm", C),
        **module("new_fc", num_classes, C),
        **block("consensus.temporal_encoder.0"),
        **module("consensus.mlp_head.0", C),
        **module("consensus.mlp_head.1", C, C),
        **module("consensus.mlp_head.4", num_classes, C),
    }
    for layer in range(12):
        shapes |= block(f"base_model.blocks.{layer}")
    del shapes["consensus.temporal_encoder.0.attn.qkv.bias"]
    return shapes


@pytest.mark.parametrize(
    ("num_classes", "parameters", "model"),
    [
        (600, 94_406_064, "xvit-b"),
        (400, 94_098_464, "xvit-b"),
        (174, 93_750_876, "xvit-b-something"),
    ],
)
def test_the_configuration_is_inferred_from_the_shapes_of_a_released_file(
    num_classes: int, parameters: int, model: str
) -> None:
    upstream = {n: torch.empty(s, device="meta") for n, s in released_shapes(num_classes).items()}
    assert len(upstream) == 171
    assert sum(tensor.numel() for tensor in upstream.values()) == parameters
    mapped = to_vt(layout_of(upstream), upstream)
    config = infer_config({n: tuple(t.shape) for n, t in mapped.tensors.items()}, {})
    assert config == replace(PRESETS[model], num_classes=num_classes)
    with torch.device("meta"):
        expected = XViT(config).state_dict()
    assert {n: t.shape for n, t in expected.items()} == {
        n: t.shape for n, t in mapped.tensors.items()
    }


@pytest.mark.parametrize("name", TINY)
def test_the_configuration_is_inferred_from_shapes_and_hints(name: str) -> None:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    config = config_of(manifest)
    shapes = {n: tuple(t.shape) for n, t in to_vt(layout_of(upstream), upstream).tensors.items()}
    not_in_shapes = ("num_heads", "shift_segments", "shift_div", "shift_layers", "num_frames")
    hints = {field: getattr(config, field) for field in (*not_in_shapes, "temporal_heads")}
    assert infer_config(shapes, hints) == config


def test_tensors_that_are_not_an_xvit_are_refused() -> None:
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in XViT(PRESETS["xvit-b"]).state_dict().items()}
    with pytest.raises(LayoutError, match="temporal_embed"):
        infer_config({n: s for n, s in shapes.items() if n != "temporal_embed"}, {})
    with pytest.raises(LayoutError, match="positions"):
        infer_config(shapes | {"pos_embed": (1, 577, 768)}, {})


@pytest.mark.parametrize("name", INITIAL)
def test_initialization_from_an_image_model_equals_upstream(name: str) -> None:
    manifest, source = load_manifest(GOLDEN / f"{name}.json")
    mapped = init_from_image_model(source, config_of(manifest))
    assert mapped.unexpected == []
    assert [name for name, _ in mapped.dropped] == manifest["unused_keys"]
    model = fresh_model(depth=3).eval()
    model = build(config_of(manifest), {**model.state_dict(), **mapped.tensors})
    expected = load_file(GOLDEN / f"{name}.safetensors")
    with torch.inference_mode():
        features = model.frame_features(golden_input(manifest["input"]["shape"]))
    assert largest(features.flatten(0, 1), expected["features"]) < 1e-5
    assert largest(model.pos_embed.flatten(), expected["pos_embed_sub"]) < 1e-6
    fresh = to_vt(LAYOUTS["official"], dict.fromkeys(manifest["fresh_parameters"], torch.empty(0)))
    assert fresh.tensors.keys() == model.state_dict().keys() - mapped.tensors.keys()


@pytest.mark.slow
def test_full_size_initialization_equals_upstream() -> None:
    path = big_golden("xvit", "init_full_b16_in21k.json")
    manifest, source = load_manifest(path)
    with torch.device("meta"):
        model = XViT(config_of(manifest))
    model.to_empty(device="cpu")
    model.init_weights()
    mapped = init_from_image_model(source, config_of(manifest))
    model.load_state_dict({**model.state_dict(), **mapped.tensors})
    with torch.inference_mode():
        features = model.eval().frame_features(golden_input(manifest["input"]["shape"]))
    expected = load_file(path.with_suffix(".safetensors"))["features"]
    assert largest(features.flatten(0, 1), expected) < 1e-5


def test_a_patch_embedding_stored_as_a_linear_layer_is_read() -> None:
    manifest, source = load_manifest(GOLDEN / "init_tiny_in21k.json")
    kernel = source["patch_embed.proj.weight"]
    old = source | {"patch_embed.proj.weight": kernel.flatten(1)}
    mapped = init_from_image_model(old, config_of(manifest))
    assert torch.equal(mapped.tensors["patch_embed.weight"], kernel)


def test_tensors_that_are_not_a_vit_are_refused() -> None:
    with pytest.raises(LayoutError, match="not a vision transformer"):
        init_from_image_model({"fc.weight": torch.ones(2, 2)}, PRESETS["xvit-b"])
