"""X-ViT: logits equal upstream's, for every clip length and batch size, and training.

Shapes as in the network: B clips, T frames, N tokens of a frame, C channels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.goldens import big_golden, golden_dir, golden_input, load_manifest
from vtcli.errors import ShapeError, UsageError
from vtcli.models.layouts import to_vt
from vtcli.models.xvit import PRESETS, infer_config, published_macs
from vtcli.models.xvit.checkpoints import LAYOUTS
from vtcli.models.xvit.configs import XViTConfig
from vtcli.models.xvit.model import Block, Mixing, XViT

GOLDEN = golden_dir("xvit")
TINY = sorted(p.stem for p in GOLDEN.glob("tiny_*.json"))
FULL = ["full_k600_b16_16f", "full_ssv2_b16_16f"]
EPIC = (("verb", 97), ("noun", 300))


def config_of(manifest: dict[str, Any]) -> XViTConfig:
    """Our configuration for a golden."""
    upstream = manifest["config"]
    width = upstream["embed_dim"]
    return XViTConfig(
        image_size=upstream["img_size"],
        patch_size=upstream["patch_size"][0],
        width=width,
        depth=upstream["depth"],
        num_heads=upstream["num_heads"],
        temporal_positions=upstream["temp_embed_len"],
        shift_segments=upstream["shift_segments"],
        shift_div=upstream["shift_div"],
        shift_layers=tuple(upstream["shift_blocks"]),
        consensus="attention" if upstream["consensus"] == "vit" else "avg",
        temporal_layers=upstream.get("temporal_layers", 0),
        temporal_heads=upstream.get("temporal_heads", 1),
        head_hidden=upstream.get("mlp_head_dim", width),
        num_classes=manifest.get("num_classes", 11),
        num_frames=upstream["frames"],
    )


def build(config: XViTConfig, tensors: dict[str, Tensor]) -> XViT:
    with torch.device("meta"):
        model = XViT(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def golden_model(name: str, **changes: Any) -> XViT:
    """The network of a tiny golden, with changes to settings that do not affect its tensors."""
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    return build(
        replace(config_of(manifest), **changes), to_vt(layout_of(upstream), upstream).tensors
    )


def layout_of(upstream: dict[str, Tensor]) -> Any:
    found = [layout for layout in LAYOUTS.values() if layout.recognizes(upstream)]
    assert len(found) == 1
    return found[0]


def fresh_model(**changes: Any) -> XViT:
    config = XViTConfig(
        patch_size=32, width=48, depth=2, num_heads=6, temporal_heads=4, head_hidden=40
    )
    with torch.device("meta"):
        model = XViT(replace(config, image_size=64, num_classes=11, **changes))
    torch.manual_seed(0)
    model.to_empty(device="cpu")
    model.init_weights()
    return model


@torch.inference_mode()
def distances(path: Path) -> tuple[float, float]:
    """Largest difference from upstream for one golden: of logits, and of frame features."""
    manifest, upstream = load_manifest(path)
    model = build(config_of(manifest), to_vt(layout_of(upstream), upstream).tensors)
    clip = golden_input(manifest["input"]["shape"])
    expected = load_file(path.with_suffix(".safetensors"))
    features = model.frame_features(clip).flatten()
    # The golden has every n-th value, with the smallest n that gives at most 4096.
    features = features[:: -(-features.numel() // expected["features"].numel())]
    return largest(model(clip), expected["logits"]), largest(features, expected["features"])


def largest(actual: Tensor, golden: Tensor) -> float:
    return (actual - golden).abs().max().item()


@pytest.mark.parametrize("name", TINY)
def test_logits_and_features_equal_upstream(name: str) -> None:
    assert max(distances(GOLDEN / f"{name}.json")) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_logits_equal_upstream(name: str) -> None:
    assert max(distances(big_golden("xvit", f"{name}.json"))) < 1e-5


@pytest.mark.parametrize(
    ("model", "num_classes", "parameters"),
    [
        ("xvit-b", 600, 93_944_664),
        ("xvit-b", 400, 93_790_864),
        ("xvit-b-something", 174, 93_617_070),
    ],
)
def test_parameters_are_as_measured_upstream(model: str, num_classes: int, parameters: int) -> None:
    with torch.device("meta"):
        net = XViT(replace(PRESETS[model], num_classes=num_classes))
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("model", PRESETS)
def test_every_preset_can_be_built(model: str) -> None:
    with torch.device("meta"):
        state = XViT(PRESETS[model]).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    names = ["shift_segments", "shift_div", "num_frames", "num_heads", "temporal_heads"]
    not_in_shapes = {f: getattr(PRESETS[model], f) for f in (*names, "image_size", "dropout")}
    assert infer_config(shapes, not_in_shapes) == PRESETS[model]


@pytest.mark.parametrize(("frames", "giga_macs"), [(8, 140.57), (16, 281.13), (32, 562.25)])
def test_cost_is_as_measured_upstream_and_linear_in_frames(frames: int, giga_macs: float) -> None:
    """Upstream computes unused tokens in the last layers: about 7 %, which we skip."""
    config = replace(PRESETS["xvit-b"], num_frames=frames, num_classes=600)
    assert published_macs(config) == pytest.approx(giga_macs * 1e9, rel=1e-4)
    with torch.device("meta"):
        model = XViT(config).eval().requires_grad_(False)
        clip = torch.empty(1, 3, frames, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    skipped = 1 - counter.get_total_flops() / 2 / published_macs(config)
    assert 0.06 < skipped < 0.08


def test_fresh_networks_have_upstreams_initial_values() -> None:
    state = fresh_model().state_dict()
    assert not state["temporal_embed"].any()
    assert not state["temporal.class_token"].any()
    assert all(tensor.isfinite().all() for tensor in state.values())
    bound = 48**-0.5  # of PyTorch's default initialization for a layer with 48 inputs
    assert 0.9 * bound < state["temporal.fc.weight"].abs().max() <= bound


def test_fresh_attention_attends_to_its_own_position_and_subtracts() -> None:
    attend = fresh_model().blocks[0].attn
    x_NC = torch.randn(10, 48)
    with torch.inference_mode():
        query_NC, key_NC, value_NC = attend.qkv(x_NC).chunk(3, dim=-1)
        read_NC = attend.proj(value_NC)
    assert (query_NC @ key_NC.T).argmax(1).tolist() == list(range(10))
    assert torch.cosine_similarity(read_NC, -x_NC).min() > 0.7


@pytest.mark.parametrize("image_size", [208, 256, 352])
def test_positions_are_resized_bicubically_by_the_ratio_of_sizes(image_size: int) -> None:
    model = golden_model("tiny_avg_8f", image_size=image_size)
    table = model.pos_embed.detach().double()
    grid = image_size // 32
    weights = torch.from_numpy(cubic_weights(7, grid, image_size / 224))
    spatial = table[0, 1:].unflatten(0, (7, 7))
    resized = torch.einsum("yh,xw,hwc->yxc", weights, weights, spatial).flatten(0, 1)
    expected = torch.cat([table[0, :1], resized])
    assert (model._positions()[0] - expected).abs().max() < 1e-6
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 8, image_size, image_size)).shape == (1, 11)


def cubic_weights(source: int, target: int, ratio: float) -> np.ndarray[Any, Any]:
    """Cubic convolution (Keys, a = -0.75) between pixel centers, clamped edges: [target,source]."""
    a = -0.75
    weights = np.zeros((target, source))
    for row in range(target):
        center = (row + 0.5) / ratio - 0.5
        for column in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            x = abs(center - column)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[row, min(max(column, 0), source - 1)] += near if x <= 1 else far
    return weights


def test_the_error_for_a_wrong_frame_size_names_the_right_one() -> None:
    model = fresh_model()
    with pytest.raises(ShapeError, match="64x64, not 64x96"):
        model(torch.zeros(1, 3, 8, 64, 96))
    with pytest.raises(ShapeError, match="another multiple of 16"), torch.device("meta"):
        XViT(replace(PRESETS["xvit-b"], image_size=976))


@pytest.mark.parametrize(
    ("changes", "clips", "frames", "allowed"),
    [
        ({}, 1, 12, "8, 16, 24"),
        # Upstream only checks the number of frames of the batch, and would mix different clips.
        ({}, 2, 4, "8, 16, 24"),
        ({"shift_segments": 16, "shift_div": 4}, 2, 8, "16, 32, 48"),
        ({"shift_segments": 16, "shift_layers": ()}, 1, 4, "8, 16, 24"),
    ],
)
def test_the_error_for_a_wrong_clip_length_names_the_right_ones(
    changes: dict[str, Any], clips: int, frames: int, allowed: str
) -> None:
    with pytest.raises(ShapeError, match=f"clips of {allowed} .* not {frames}"):
        fresh_model(**changes)(torch.zeros(clips, 3, frames, 64, 64))


@pytest.mark.parametrize("frames", [8, 16, 24, 32])
def test_clips_of_every_valid_length_are_accepted(frames: int) -> None:
    with torch.inference_mode():
        assert fresh_model()(torch.zeros(1, 3, frames, 64, 64)).isfinite().all()


def test_frames_of_different_groups_are_not_mixed_before_the_temporal_transformer() -> None:
    clip = golden_input([1, 3, 16, 224, 224])
    with torch.inference_mode():
        model = golden_model("tiny_k_16f_seg8")
        full, half = model.frame_features(clip), model.frame_features(clip[:, :, :8])
        assert (full[:, :8] - half).abs().max() < 1e-5
        model = golden_model("tiny_k_16f_seg8", shift_segments=16)
        assert (model.frame_features(clip)[:, 7] - half[:, 7]).abs().max() > 1e-3


def test_mixing_takes_channels_of_the_next_and_the_previous_frame() -> None:
    z = torch.arange(1.0, 9.0).view(1, 8, 1, 1).repeat(1, 1, 2, 4)
    Mixing(segments=4, fold=1)(z)
    assert z[0, :, 1, 0].tolist() == [2, 3, 4, 0, 6, 7, 8, 0]
    assert z[0, :, 1, 1].tolist() == [0, 1, 2, 3, 0, 5, 6, 7]
    assert z[0, :, 1, 2:].unique(dim=1).flatten().tolist() == list(range(1, 9))


def test_mixing_in_a_traced_graph_is_that_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    mixing = Mixing(segments=4, fold=3)
    z = torch.randn(2, 8, 5, 2, 12)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    kept = z.clone()
    mixed = mixing(z)
    assert torch.equal(z, kept)
    monkeypatch.undo()
    assert torch.equal(mixed, mixing(z))


@pytest.mark.parametrize("summary_tokens", [False, True])
def test_a_layer_for_the_first_token_only_gives_the_same_output(
    summary_tokens: bool,
) -> None:
    torch.manual_seed(0)
    mixing = Mixing(segments=4, fold=6)
    block = Block(48, 6, eps=1e-6, qkv_bias=True, mixing=mixing, summary_tokens=summary_tokens)
    x = torch.randn(2, 8, 5, 48)
    assert (block(x)[:, :, :1] - block(x, first_only=True)).abs().max() < 1e-5


def test_summary_tokens_let_every_frame_attend_to_the_mean_of_all_frames() -> None:
    """The paper's text as a formula: keys and values of the frame's tokens and of T mean tokens."""
    torch.manual_seed(0)
    B, T, N, C, H = 2, 8, 5, 48, 6
    block = Block(C, H, eps=1e-6, qkv_bias=True, summary_tokens=True)
    x = torch.randn(B, T, N, C)
    w_q, w_k, w_v = block.attn.qkv.weight.chunk(3)
    b_q, b_k, b_v = block.attn.qkv.bias.chunk(3)
    frames = []
    for frame in x.unbind(1):
        sources = torch.cat([frame, x[:, :, 1:].mean(2)], dim=1)
        q, k, v = (
            nnf.linear(z, w, b).unflatten(-1, (H, C // H)).transpose(1, 2)
            for z, w, b in ((frame, w_q, b_q), (sources, w_k, b_k), (sources, w_v, b_v))
        )
        weights = (q @ k.transpose(2, 3) / (C // H) ** 0.5).softmax(-1)
        frames.append(block.attn.proj((weights @ v).transpose(1, 2).flatten(2)))
    assert (block.attn(x) - torch.stack(frames, dim=1)).abs().max() < 1e-5


def test_several_classifiers_return_logits_by_name() -> None:
    model = fresh_model().eval()
    one = replace(model.config, num_classes=397)
    state = model.state_dict() | {
        "head.weight": torch.randn(397, 40),
        "head.bias": torch.randn(397),
    }
    clip = golden_input([2, 3, 8, 64, 64])
    with torch.inference_mode():
        together = build(one, state)(clip)
        logits = build(replace(one, heads=EPIC), state)(clip)
    assert isinstance(logits, dict)
    assert torch.equal(logits["verb"], together[:, :97])
    assert torch.equal(logits["noun"], together[:, 97:])
    with pytest.raises(UsageError, match="do not add up to 400 classes"):
        replace(PRESETS["xvit-b"], heads=EPIC)


@pytest.mark.parametrize("name", ["tiny_ssv2_16f_seg16", "tiny_avg_8f"])
def test_logits_do_not_depend_on_the_other_clips_of_the_batch(name: str) -> None:
    model = golden_model(name, image_size=64, summary_tokens=True)
    clips = golden_input([3, 3, 16, 64, 64])
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [{}, {"consensus": "avg"}, {"summary_tokens": True}])
def test_every_parameter_gets_gradients(changes: dict[str, Any]) -> None:
    model = fresh_model(drop_path=0.1, **changes).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    for seed in range(4):
        torch.manual_seed(seed)
        model(torch.randn(4, 3, 8, 64, 64)).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_gradients_equal_finite_differences() -> None:
    """Keys and values are mixed in place, which must not affect gradients."""
    model = fresh_model(depth=1).double().eval()
    clip = torch.randn(1, 3, 8, 64, 64, dtype=torch.float64)
    weight = model.get_parameter("blocks.0.attn.qkv.weight")
    model(clip).square().sum().backward()
    assert weight.grad is not None
    direction = torch.randn_like(weight)
    step = 1e-5
    with torch.no_grad():
        ends = []
        for sign in (1, -2):
            weight.add_(direction, alpha=sign * step)
            ends.append(model(clip).square().sum())
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert torch.isclose((weight.grad * direction).sum(), numeric, rtol=1e-5)


@pytest.mark.parametrize("image_size", [224, 256])
def test_half_precision_logits_are_close(image_size: int) -> None:
    model = golden_model("tiny_k_16f_seg8", image_size=image_size)
    clip = golden_input([1, 3, 16, image_size, image_size])
    with torch.inference_mode():
        exact = model(clip)
        half = model.to(torch.bfloat16)(clip.bfloat16()).float()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()
