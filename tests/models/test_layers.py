"""Shared layers: every form that a device or processor takes gives the same result."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

import vtcli
from vtcli.models import layers
from vtcli.models.activations import GELU_ELEMENTS, Activation, gelu_
from vtcli.models.layers import (
    DropPath,
    LayerNorm,
    Mlp,
    add_branch,
    add_mlp,
    attends_by_onednn,
    attends_fused,
    attention,
    attention_weights,
    depthwise_conv3d,
    onednn_attention,
    onednn_computes,
    patches,
    softmax,
)
from vtcli.models.opaque import dense_view, has_views


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
@torch.inference_mode()
def test_bf16_by_onednn_needs_avx512(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    x, has_onednn = torch.ones(4, 8), torch.backends.mkldnn.is_available()
    assert onednn_computes(x) is has_onednn
    assert onednn_computes(x.bfloat16()) is (has_onednn and capability == "AVX512")


@torch.inference_mode()
def test_a_convolution_in_bf16_runs_on_every_processor() -> None:
    x = torch.rand(1, 4, 6, 6, 8, dtype=torch.bfloat16)
    weight = torch.rand(8, 1, 3, 3, 3, dtype=torch.bfloat16)
    expected = depthwise_conv3d(x.float(), weight.float(), None)
    assert torch.allclose(depthwise_conv3d(x, weight, None).float(), expected, rtol=0.02)


@torch.inference_mode()
def test_softmax_in_bf16_runs_on_every_processor() -> None:
    """oneDNN has one only with AVX-512; the tensor is large enough for it."""
    scores = torch.randn(2, 256, 256, dtype=torch.bfloat16)
    assert scores.numel() >= layers.MIN_SOFTMAX
    expected = scores.float().softmax(-1)
    assert (softmax(scores).float() - expected).abs().max() < 1e-2 * expected.max()


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@torch.inference_mode()
def test_attention_weights_are_the_softmax_of_scaled_products(
    views: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 oneDNN computes the softmax; older PyTorch copies the scores to it and back."""
    monkeypatch.setattr(layers, "has_views", lambda: views and has_views())
    q, k = torch.randn(2, 3, 200, 16).bfloat16()
    bias = torch.randn(3, 200, 200).bfloat16() if with_bias else None
    assert bias is None or bias.numel() >= layers.MIN_SOFTMAX
    scores = torch.baddbmm(
        torch.zeros(1, 1, 1).bfloat16() if bias is None else bias, q, k.mT, alpha=0.25
    )
    weights = attention_weights(q, k, 0.25, bias)
    assert torch.equal(weights, softmax(scores))
    assert (weights.float() - scores.float().softmax(-1)).abs().max() < 1e-2


def test_a_view_of_memory_of_onednn_outlives_its_tensor() -> None:
    if not (torch.backends.mkldnn.is_available() and has_views()):
        pytest.skip("this PyTorch does not tell where oneDNN's tensors lie")
    views = [dense_view(torch.full((64, 64), float(n)).to_mkldnn()) for n in range(50)]
    gc.collect()
    assert all(torch.equal(view, torch.full((64, 64), float(n))) for n, view in enumerate(views))


@pytest.mark.parametrize("avx512", [True, False])
@torch.inference_mode()
def test_attention_over_many_keys_is_that_of_pytorch(
    avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_has_avx512", lambda: avx512)
    monkeypatch.setattr(layers, "MAX_SCORES", 100 * layers.MIN_KEYS)
    q, k, v = torch.randn(3, 1, 2, layers.MIN_KEYS, 16)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert (attention(q, k, v) - expected).abs().max() < 1e-5


@torch.inference_mode()
def test_attention_of_one_head_adds_its_bias() -> None:
    q, k, v = torch.randn(3, 1, 1, 49, 16)
    bias = torch.randn(49, 49)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found = onednn_attention(q[0, 0] / 4, k[0, 0], v[0, 0], bias)
    assert (found - expected[0, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_a_branch_is_added_in_place_without_gradients_only(training: bool) -> None:
    x, drop_path = torch.randn(2, 5, 8), DropPath(0.0).train(training)
    before, expected = x.clone(), x + x.square()
    added = add_branch(x, torch.square, drop_path, tokens=3)
    assert torch.equal(added, expected)
    assert torch.equal(x, before)
    with torch.inference_mode():
        added = add_branch(x.clone(), torch.square, drop_path, tokens=3)
    assert torch.equal(added, expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_mlp_is_added_as_it_is_in_training(activation: Activation, dtype: torch.dtype) -> None:
    """Without gradients its activations are computed in other forms, in place."""
    norm, mlp, drop_path = LayerNorm(8), Mlp(8, 32, activation).to(dtype), DropPath(0.0)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 3 * torch.randn(2, 50, 8, dtype=dtype)
    expected = add_mlp(x, norm.float(), mlp, drop_path.eval())
    with torch.inference_mode():
        added = add_mlp(x.clone(), norm, mlp, drop_path, tokens=7)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert (added - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_tanh_form_of_gelu_is_that_of_pytorch(dtype: torch.dtype) -> None:
    x = torch.linspace(-12, 12, GELU_ELEMENTS + 5).to(dtype)
    expected = F.gelu(x.double(), approximate="tanh")
    found = gelu_(x.clone(), "gelu_tanh").double()
    step = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert ((found - expected).abs() <= step * expected.abs().clamp(min=0.1)).all()


@pytest.mark.parametrize(
    ("name", "amx", "intel"),
    [
        ("AMD EPYC", False, False),
        ("Intel Xeon", False, True),
        ("Intel Xeon", True, True),
        ("", True, True),
        ("", False, False),
    ],
)
@torch.inference_mode()
def test_attention_is_fused_in_bf16_with_amx_and_in_fp32_on_intel(
    name: str, amx: bool, intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "cpu_name", lambda: name)
    monkeypatch.setattr(layers, "_is_intel", layers._is_intel.__wrapped__)
    monkeypatch.setattr(layers, "_has_avx512", lambda: True)
    monkeypatch.setattr(layers, "_has_amx", lambda: amx)
    has_onednn = torch.backends.mkldnn.is_available()
    x = torch.ones(4, 8)
    assert attends_fused(x.bfloat16()) is (has_onednn and amx)
    assert attends_by_onednn(x) is (has_onednn and not intel)
    assert attends_fused(x) is (has_onednn and intel)
    with torch.enable_grad():
        assert not attends_fused(x.bfloat16())


@pytest.mark.parametrize("amx", [False, True])
@torch.inference_mode()
def test_attention_in_bf16_is_that_in_fp32(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_has_amx", lambda: amx)
    q, k, v = torch.randn(3, 2, 2, 200, 16).bfloat16()
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert (attention(q, k, v).float() - expected).abs().max() < 0.02


@pytest.mark.parametrize("width", [16, 12, 6])
@torch.inference_mode()
def test_patches_in_bf16_are_moved_unchanged(width: int) -> None:
    clip = torch.randn(2, 3, 4, 8, 2 * width, dtype=torch.bfloat16)
    for part in (
        clip,
        clip[:, :, :, :, :width],
        clip.flatten()[1:][: clip[0].numel()].view(1, 3, 4, 8, -1),
    ):
        expected = patches(part.float(), (2, 4, width)).bfloat16()
        assert torch.equal(patches(part, (2, 4, width)), expected)


@pytest.mark.parametrize("arch", ["uniformerv2", "videoswin", "vivit", "xvit"])
def test_autocast_computes_what_fp32_does_whatever_the_size(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = vtcli.create_model(f"{arch}-nano", num_classes=4).eval()
    side = model.config.image_size
    clip = torch.randn(1, 3, model.config.num_frames, side, side)
    with torch.no_grad():
        expected = model.features(clip)
        for name, value in (("MIN_MACS", 0), ("MIN_ROWS", dict.fromkeys(layers.MIN_ROWS, 0))):
            monkeypatch.setattr(layers, name, value)  # as for a full-size network
        with torch.autocast("cpu", torch.bfloat16):
            found = model.features(clip)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
