"""`auto` chooses the precision by the hardware and the size of the network, and by nothing else."""

from __future__ import annotations

import pytest
import torch

import vtcli
from vtcli.runtime import device as device_module
from vtcli.runtime.device import SMALL_PARAMETERS, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "has_bf16", "parameters", "expected"),
    [
        (CPU, True, None, BF16),
        (CPU, True, SMALL_PARAMETERS, BF16),
        (CPU, True, SMALL_PARAMETERS - 1, FP32),
        (CPU, False, 10 * SMALL_PARAMETERS, FP32),
        (CUDA, True, SMALL_PARAMETERS - 1, BF16),
        (CUDA, False, SMALL_PARAMETERS - 1, FP32),
    ],
)
def test_auto_is_the_fast_precision(
    device: torch.device,
    has_bf16: bool,
    parameters: int | None,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_module, "supports_bf16_matmul", lambda _: has_bf16)
    assert resolve_dtype("auto", device, parameters) is expected
    assert resolve_dtype("bf16", device, parameters) is BF16
    assert resolve_dtype("fp32", device, parameters) is FP32


def test_a_bundled_model_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "supports_bf16_matmul", lambda _: True)
    assert vtcli.load_model("vivit-nano", precision="auto").dtype is FP32
    assert vtcli.load_model("vivit-nano", precision="bf16").dtype is BF16
