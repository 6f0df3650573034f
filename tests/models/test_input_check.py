"""A clip of the wrong shape or dtype is refused in one sentence by every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vtcli.errors import ShapeError
from vtcli.models import find_preset, list_architectures
from vtcli.models.build import build_on_meta, clip_shape

ARCHITECTURES = list_architectures()
every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def nano(arch: str, device: str = "cpu") -> tuple[Any, Tensor]:
    """A small fresh model and a clip that it accepts."""
    architecture, config = find_preset(f"{arch}-nano")
    model: Any = build_on_meta(architecture, config).eval().requires_grad_(False)
    if device == "meta":
        return model, torch.empty(2, *clip_shape(config), device="meta")
    torch.manual_seed(0)
    model.to_empty(device=device)
    model.init_weights()
    return model, torch.randn(2, *clip_shape(config))


def error_of(model: nn.Module, clip: Tensor) -> str:
    """The error of a clip: the same for logits and features, and one sentence."""
    with torch.inference_mode():
        with pytest.raises(ShapeError) as caught:
            model(clip)
        with pytest.raises(ShapeError) as of_features:
            model.features(clip)  # type: ignore[operator]
    message = str(caught.value)
    assert message == str(of_features.value)
    assert "\n" not in message
    assert ". " not in message
    return message


@every_architecture
def test_a_clip_that_fits_is_accepted(arch: str) -> None:
    model, clip = nano(arch)
    with torch.inference_mode():
        assert model(clip).shape[0] == len(clip)


@every_architecture
@pytest.mark.parametrize("axis", [2, 4])
def test_misplaced_channels_are_refused_with_the_fix(arch: str, axis: int) -> None:
    model, clip = nano(arch)
    message = error_of(model, clip.movedim(1, axis))
    assert f"clip.movedim({axis}, 1)" in message
    assert "a clip is [batch, 3, frames, height, width]" in message


@every_architecture
def test_a_clip_without_batch_dimension_is_refused_with_the_fix(arch: str) -> None:
    model, clip = nano(arch)
    assert "clip.unsqueeze(0)" in error_of(model, clip[0])
    assert "not [3]" in error_of(model, torch.zeros(3))


@every_architecture
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_values_that_are_not_floating_point_are_refused(arch: str, dtype: torch.dtype) -> None:
    model, clip = nano(arch)
    message = error_of(model, clip.to(dtype))
    assert str(dtype) in message
    assert "normalize" in message


@every_architecture
@pytest.mark.parametrize("axis", [0, 2, 3, 4])
def test_an_empty_dimension_is_refused(arch: str, axis: int) -> None:
    model, clip = nano(arch)
    message = error_of(model, clip.narrow(axis, 0, 0))
    assert str([*clip.shape[:axis], 0, *clip.shape[axis + 1 :]]) in message
    assert "at least 1" in message


@every_architecture
def test_another_number_of_channels_is_refused(arch: str) -> None:
    model, clip = nano(arch)
    assert "a clip is [batch, 3, frames" in error_of(model, clip[:, :1])
    assert "a clip is [batch, 3, frames" in error_of(model, torch.cat([clip, clip], dim=1))


# Video Swin accepts any number of frames and any size, UniFormerV2-nano any number of frames.
@pytest.mark.parametrize("arch", ["vivit", "xvit"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_frames_is_refused(arch: str, change: int) -> None:
    model, clip = nano(arch)
    frames = clip.shape[2] + change
    wrong = torch.cat([clip, clip], dim=2)[:, :, :frames]
    assert f"not {frames}" in error_of(model, wrong)


def test_an_odd_number_of_frames_is_refused_with_a_temporal_stride() -> None:
    architecture, config = find_preset("uniformerv2-b-local")
    model = build_on_meta(architecture, config).eval()
    clip = torch.empty(1, *clip_shape(config), device="meta")
    assert "must be even, not 15" in error_of(model, clip[:, :, :15])


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "videoswin"])
@pytest.mark.parametrize("axis", [3, 4])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_frame_size_is_refused(arch: str, axis: int, change: int) -> None:
    model, clip = nano(arch)
    size = list(clip.shape)
    size[axis] += change
    message = error_of(model, torch.zeros(size))
    assert "32x32" in message
    assert f"{size[3]}x{size[4]}" in message


def test_vivit_does_not_ignore_frames_or_pixels_of_a_clip_that_is_too_large() -> None:
    model, clip = nano("vivit")
    for wrong in (
        torch.cat([clip, clip[:, :, :1]], dim=2),
        torch.cat([clip, clip[:, :, :3]], dim=2),
        torch.cat([clip, clip[:, :, :, :7]], dim=3),
    ):
        error_of(model, wrong)


@every_architecture
def test_the_check_allows_counting_flops_on_the_meta_device(arch: str) -> None:
    model, clip = nano(arch, "meta")
    with FlopCounterMode(display=False) as counter:
        model(clip)
    assert counter.get_total_flops() > 0


@pytest.mark.slow
@every_architecture
def test_the_check_allows_compiling_in_one_graph(arch: str) -> None:
    model, clip = nano(arch)
    torch.compiler.reset()  # a second shape would be compiled as a dynamic one, which takes minutes
    with torch.inference_mode():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert (compiled(clip) - model(clip)).abs().max() < 1e-5


@pytest.mark.slow
@every_architecture
def test_the_check_allows_exporting_with_a_dynamic_batch_size(arch: str) -> None:
    model, clip = nano(arch)
    with torch.no_grad():
        batch = {0: torch.export.Dim("batch")}
        exported = torch.export.export(model, (clip,), dynamic_shapes=(batch,)).module()
        for size in (1, 3):
            other = torch.cat([clip, clip])[:size]
            assert (exported(other) - model(other)).abs().max() < 1e-5
