"""Weights that are packed for oneDNN: the same results, and the same state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import vtcli
from vtcli.inference.predictor import Predictor
from vtcli.models import layers, packing
from vtcli.models.build import clip_shape, prepare_for_inference
from vtcli.models.layers import Linear
from vtcli.models.opaque import plain
from vtcli.models.packing import packed_is_faster

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN"
)
TYPES = [torch.float32]
if layers._has_avx512():  # oneDNN computes bf16 with it alone
    TYPES.append(torch.bfloat16)


@pytest.fixture
def packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_WEIGHT", 0)
    monkeypatch.setattr(packing, "packed_is_faster", lambda weight: True)


def network(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = vtcli.create_model(name, num_classes=4)
    return prepare_for_inference(model, None, torch.device("cpu"), dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> None:
    prepare_for_inference(model, None, torch.device("cpu"), dtype, packed=True)


def packed_layers(model: nn.Module) -> int:
    return sum(isinstance(m, Linear) and m.weight.is_mkldnn for m in model.modules())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("arch", ["uniformerv2", "videoswin", "vivit", "xvit"])
def test_a_packed_network_computes_the_same(arch: str, dtype: torch.dtype, packs_all: None) -> None:
    model = network(f"{arch}-nano", dtype)
    clip = torch.randn(2, *clip_shape(model.config), dtype=dtype)
    with torch.inference_mode():
        expected = model(clip)
        pack(model, dtype)
        assert packed_layers(model)
        found = model(clip)
    # Without packing, small products are left to another library.
    step = 2.0**-6 if dtype == torch.bfloat16 else 1e-5
    assert (found - expected).abs().max() <= step * expected.abs().max()


@pytest.mark.parametrize("dtype", TYPES)
@torch.inference_mode()
def test_a_packed_product_is_the_same_bit_for_bit(dtype: torch.dtype, packs_all: None) -> None:
    layer = Linear(80, 144).to(dtype)
    x = torch.randn(3, 50, 80, dtype=dtype)
    expected = layers.onednn_linear(x, layer.weight, layer.bias)
    pack(layer, dtype)
    assert torch.equal(layer(x), expected)


def test_the_state_of_a_packed_network_is_plain(packs_all: None) -> None:
    model = network("videoswin-nano", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    pack(model, torch.float32)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes


def test_gradients_of_the_clip_do_not_depend_on_packing(packs_all: None) -> None:
    model = network("uniformerv2-nano", torch.float32)
    clip = torch.randn(1, *clip_shape(model.config), requires_grad=True)
    (expected,) = torch.autograd.grad(model(clip)[0, 0], clip)
    pack(model, torch.float32)
    (found,) = torch.autograd.grad(model(clip)[0, 0], clip)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_weight_is_plain_whether_it_is_packed_or_not() -> None:
    weight = torch.randn(48, 32)
    assert plain(weight) is weight
    assert torch.equal(plain(torch.ops.mkldnn._reorder_linear_weight(weight)), weight)


@pytest.mark.parametrize(
    ("amx", "intel", "avx512", "expected"),
    [
        (False, False, True, (True, True)),
        (False, True, True, (False, True)),
        (True, True, True, (False, False)),
        (False, False, False, (False, False)),
    ],
)
def test_weights_are_packed_where_onednn_multiplies_them_by_avx512(
    amx: bool,
    intel: bool,
    avx512: bool,
    expected: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("_has_amx", amx), ("_is_intel", intel), ("_has_avx512", avx512)):
        monkeypatch.setattr(layers, name, lambda value=value: value)
    weight = torch.ones(4, 8)
    assert (packed_is_faster(weight), packed_is_faster(weight.bfloat16())) == expected
    assert not packed_is_faster(weight.half())
    assert not packed_is_faster(weight.to("meta"))


def test_a_network_of_the_caller_is_not_packed(packs_all: None) -> None:
    model = vtcli.load_model("xvit-nano")
    with Predictor(model) as given, Predictor("xvit-nano") as named:
        assert not packed_layers(given.net)
        assert packed_layers(named.net)


def test_the_network_of_a_predictor_can_be_saved(packs_all: None, tmp_path: Path) -> None:
    with Predictor("xvit-nano", precision="fp32") as predictor:
        assert packed_layers(predictor.net)
        predictor.net.save(tmp_path / "again.safetensors")
    saved = vtcli.load_model(tmp_path / "again.safetensors").state_dict()
    for name, tensor in vtcli.load_model("xvit-nano").state_dict().items():
        assert torch.equal(saved[name], tensor)
