"""ViViT: initialization from image models and from scratch as upstream does, and training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import synthetic_tensors
from tests.models.vivit_goldens import (
    GOLDEN,
    ROOT,
    TINY,
    build,
    clip_of,
    config_of,
    fresh,
    mapped,
    old_numbered,
    together,
)
from vtcli.errors import LayoutError
from vtcli.models.layouts import from_vt, to_vt
from vtcli.models.vivit import ARCHITECTURE, PRESETS
from vtcli.models.vivit.image_init import Inflation, inflate, init_from_image_model

INITS = sorted(p.stem for p in GOLDEN.glob("init_*.json"))
EMBEDDING: dict[str, Inflation] = {
    "central_frame_initializer": "central_frame",
    "average_frame_initializer": "average",
}


def image_model(manifest: dict[str, Any]) -> dict[str, Tensor]:
    tensors = synthetic_tensors(manifest["source_vit_tensors"])
    return {name.removeprefix("vit/"): tensor for name, tensor in tensors.items()}


def as_timm(flax: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Flax ViT's tensors by timm's names."""
    patches = flax["embedding/kernel"].permute(3, 2, 0, 1)
    result = {
        "cls_token": flax["cls"],
        "pos_embed": flax["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": patches,
        "patch_embed.proj.bias": flax["embedding/bias"],
        "norm.weight": flax["Transformer/encoder_norm/scale"],
        "norm.bias": flax["Transformer/encoder_norm/bias"],
        "head.weight": flax["output_projection/kernel"].t(),
        "head.bias": flax["output_projection/bias"],
    }
    for i in range(sum(name.endswith("LayerNorm_0/scale") for name in flax)):
        block, vt = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        attention = f"{block}MultiHeadDotProductAttention_0/"
        for upstream, end in (("kernel", "weight"), ("bias", "bias")):
            parts = [flax[f"{attention}{part}/{upstream}"] for part in ("query", "key", "value")]
            result[f"{vt}attn.qkv.{end}"] = torch.cat([p.flatten(-2).t() for p in parts])
            for j, fc in enumerate(("fc1", "fc2")):
                dense = flax[f"{block}MlpBlock_0/Dense_{j}/{upstream}"]
                result[f"{vt}mlp.{fc}.{end}"] = dense.t()
        result[f"{vt}attn.proj.weight"] = flax[f"{attention}out/kernel"].flatten(0, 1).t()
        result[f"{vt}attn.proj.bias"] = flax[f"{attention}out/bias"]
        for j in range(2):
            for upstream, end in (("scale", "weight"), ("bias", "bias")):
                result[f"{vt}norm{j + 1}.{end}"] = flax[f"{block}LayerNorm_{j}/{upstream}"]
    return result


def as_archive(flax: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Flax ViT's tensors by the names of the original NumPy archives."""
    return {old_numbered(n).replace("output_projection", "head"): t for n, t in flax.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "flax": dict,
    "archive": as_archive,
    "timm": as_timm,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", INITS)
def test_initialization_from_an_image_model_equals_upstream(name: str, form: str) -> None:
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    config, layout = config_of(manifest), ARCHITECTURE.layouts["scenic"]
    source = image_model(manifest)
    source = FORMS[form](source)
    method = manifest["config"]["model"]["temporal_encoding_config"]["kernel_init_method"]
    taken = init_from_image_model(source, config, embedding=EMBEDDING[method])
    assert taken.unexpected == []
    rest = synthetic_tensors(manifest["fresh_tensors"])
    start = to_vt(layout, {n.replace("fresh/", ROOT): t for n, t in rest.items()}).tensors
    final = {**start, **taken.tensors}
    origins = manifest["provenance"]
    found = from_vt(layout, taken.tensors, config)
    assert {n.removeprefix(ROOT) for n in found} == {n for n, o in origins.items() if o != "fresh"}
    expected = load_file(GOLDEN / f"{name}.safetensors")
    for key in expected.keys() - {"logits"}:
        vt = found[ROOT + key.replace(".", "/")]
        assert (vt - expected[key]).abs().max() < 1e-5
    with torch.inference_mode():
        logits = together(build(config, final)(clip_of(manifest)))
    assert (logits - expected["logits"]).abs().max() < 1e-5


def test_patch_kernels_are_inflated_as_in_the_paper() -> None:
    kernel = torch.randn(2, 3, 4, 4)
    central = inflate(kernel, 4, "central_frame")
    assert torch.equal(central[:, :, 2], kernel)
    assert not central[:, :, [0, 1, 3]].any()
    assert torch.equal(inflate(kernel, 4, "average"), torch.stack([kernel / 4] * 4, dim=2))
    # 2(T-k+1) - (T+1)(H_T - H_{k-1}) for T = 4: harmonic numbers 0, 1, 3/2, 11/6, 25/12.
    weights = [8 - 125 / 12, 6 - 65 / 12, 4 - 35 / 12, 2 - 15 / 12]
    expected = torch.stack([kernel * (weight / 4) for weight in weights], dim=2)
    assert torch.allclose(inflate(kernel, 4, "arp"), expected, atol=1e-6)


def test_the_class_token_is_fresh_if_the_image_model_has_none() -> None:
    manifest = json.loads((GOLDEN / "init_m1_central_tile.json").read_text())
    source = image_model(manifest)
    del source["cls"]
    key = "Transformer/posembed_input/pos_embedding"
    source[key] = source[key][:, 1:]
    taken = init_from_image_model(source, config_of(manifest))
    assert "encoder.class_token" not in taken.tensors
    assert torch.equal(taken.tensors["encoder.pos_embed"][:, 1:], source[key].repeat(1, 3, 1))


def test_unused_tensors_of_an_image_model_are_reported() -> None:
    manifest = json.loads((GOLDEN / "init_m2_central.json").read_text())
    source = {
        **image_model(manifest),
        "pre_logits/kernel": torch.ones(32, 8),
        "extra": torch.ones(1),
    }
    taken = init_from_image_model(source, config_of(manifest))
    head = {"output_projection/kernel", "output_projection/bias"}
    assert {name for name, _ in taken.dropped} == {"cls", "pre_logits/kernel", *head}
    assert all(why for _, why in taken.dropped)
    assert taken.unexpected == ["extra"]


def test_an_image_model_of_another_size_is_refused() -> None:
    manifest = json.loads((GOLDEN / "init_m1_central_tile.json").read_text())
    with pytest.raises(LayoutError, match="not an image ViT"):
        init_from_image_model({"fc.weight": torch.ones(2, 2)}, config_of(manifest))
    with pytest.raises(LayoutError, match="of the model's size"):
        init_from_image_model(image_model(manifest), replace(config_of(manifest), depth=4))


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith("tiny_scenic")])
def test_every_parameter_gets_gradients(name: str) -> None:
    manifest, found = mapped(name)
    model = build(replace(config_of(manifest), drop_path=0.1), found.tensors).train()
    for seed in range(6):
        torch.manual_seed(seed)
        together(model(clip_of(manifest))).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_stochastic_depth_leaves_kept_branches_as_they_are() -> None:
    manifest, found = mapped("tiny_scenic_m1_token")
    model = build(replace(config_of(manifest), drop_path=1e-9), found.tensors)
    clip = clip_of(manifest)
    with torch.no_grad():
        expected = model(clip)
        assert torch.equal(model.train()(clip), expected)
    dropped = build(replace(config_of(manifest), drop_path=0.9), found.tensors).train()
    rates = [block.drop_path.rate for block in dropped.encoder.blocks]
    assert rates == [0.0, 0.45, 0.9]
    x_BTNC = torch.randn(2000, 1, 1, 1)
    branch = dropped.encoder.blocks[1].drop_path(x_BTNC)
    kept = branch != 0
    assert torch.allclose(branch[kept], x_BTNC[kept])
    assert 0.5 < kept.float().mean() < 0.6


def test_a_fresh_model_starts_as_upstreams() -> None:
    model = fresh(replace(PRESETS["vivit-b-fe"], depth=1, temporal_depth=1, representation_size=64))
    block = model.spatial.blocks[0]
    model.requires_grad_(False)
    xavier = (6 / (768 + 768)) ** 0.5
    for part in (*block.attn.qkv.weight.chunk(3), block.attn.proj.weight):
        assert part.abs().max() == pytest.approx(xavier, rel=1e-3)
    assert block.mlp.fc1.weight.abs().max() == pytest.approx((6 / (768 + 3072)) ** 0.5, rel=1e-3)
    assert block.mlp.fc1.bias.std() == pytest.approx(1e-6, rel=0.1)
    assert model.spatial.pos_embed.std() == pytest.approx(0.02, rel=0.02)
    for weight in (model.patch_embed.weight, model.pre_logits.weight):
        fan_in = weight[0].numel()
        assert weight.std() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert weight.abs().max() <= 2 * fan_in**-0.5 / 0.8796
    zeros = (model.head.weight, model.head.bias, model.patch_embed.bias, block.attn.qkv.bias)
    for tensor in (*zeros, model.spatial.class_token, model.temporal.class_token):
        assert not tensor.any()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert torch.equal(block.norm1.weight, torch.ones(768))
