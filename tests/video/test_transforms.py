"""Resizing, cropping and normalization are those of each upstream."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from vtcli.video import interpolation
from vtcli.video.transforms import (
    CROP_RULES,
    NORMALIZE_RULES,
    RESIZE_RULES,
    crop_corners,
    normalize_clip,
    normalize_frames,
)

# Up, down, odd, portrait, tiny, exact halves: source height and width, new short side.
SIZES = [
    (256, 340, 224),
    (340, 256, 224),
    (240, 426, 224),
    (96, 128, 224),
    (101, 140, 56),
    (448, 596, 224),
    (112, 112, 224),
    (225, 300, 224),
    (37, 61, 64),
    (3, 5, 56),
    (2, 2, 16),
    (540, 960, 336),
]


def noise(height: int, width: int, frames: int = 2) -> Tensor:
    pixels = np.random.RandomState(0).randint(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def resized(rule: str, frames: Tensor, short_side: int) -> Tensor:
    size = RESIZE_RULES[rule].size(frames.shape[1], frames.shape[2], short_side)
    return RESIZE_RULES[rule].pixels(frames, *size)


@pytest.fixture(params=["by OpenCV", "without it"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without it":
        monkeypatch.setattr(interpolation, "_opencv_agrees", lambda sizes: False)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_opencv_rule_is_bit_equal_to_opencv(height: int, width: int, short_side: int) -> None:
    cv2 = pytest.importorskip("cv2")
    frames = noise(height, width)
    ours = resized("opencv_bilinear", frames, short_side).numpy()
    reference = [cv2.resize(frame, (ours.shape[2], ours.shape[1])) for frame in frames.numpy()]
    assert np.array_equal(ours, np.stack(reference))


@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_pillow_rule_is_bit_equal_to_pillow(height: int, width: int, short_side: int) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = noise(height, width)
    ours = resized("pillow_bilinear", frames, short_side).numpy()
    for frame, expected in zip(frames.numpy(), ours, strict=True):
        size = (ours.shape[2], ours.shape[1])
        reference = np.asarray(image.fromarray(frame).resize(size, image.Resampling.BILINEAR))
        assert np.array_equal(reference, expected)


@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_torchvision_rule_is_torchvision(height: int, width: int, short_side: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    frames = noise(height, width)
    ours = resized("torchvision_bilinear", frames, short_side)
    reference = functional.resize(frames.permute(0, 3, 1, 2), [short_side], antialias=False)
    assert torch.equal(ours.permute(0, 3, 1, 2), reference)


def opencv_pixel(rows: list[list[int]], y: float, x: float) -> int:
    """One output pixel by OpenCV's published fixed-point formula, in plain integers."""

    def taps(position: float, length: int) -> list[tuple[int, int]]:
        first = int(np.floor(np.float32(position)))
        fraction = np.float32(position) - np.float32(first)
        weights = [int(np.rint((np.float32(1) - fraction) * 2048)), int(np.rint(fraction * 2048))]
        places = [min(max(first + i, 0), length - 1) for i in (0, 1)]
        return list(zip(places, weights, strict=True))

    total = 0
    for row, row_weight in taps(y, len(rows)):
        across = sum(rows[row][column] * weight for column, weight in taps(x, len(rows[0])))
        total += ((across >> 4) * row_weight) >> 16
    return (total + 2) >> 2


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("height", "width", "short_side"), [(7, 11, 5), (5, 3, 8), (4, 6, 2)])
def test_opencv_rule_follows_the_fixed_point_formula(
    height: int, width: int, short_side: int
) -> None:
    frames = noise(height, width, 1)
    ours = resized("opencv_bilinear", frames, short_side)[0]
    scale_y, scale_x = (
        1.0 / (new / old) for new, old in zip(ours.shape[:2], (height, width), strict=True)
    )
    for channel in range(3):
        rows = frames[0, :, :, channel].tolist()
        expected = [
            [
                opencv_pixel(rows, (y + 0.5) * scale_y - 0.5, (x + 0.5) * scale_x - 0.5)
                for x in range(ours.shape[1])
            ]
            for y in range(ours.shape[0])
        ]
        assert ours[:, :, channel].tolist() == expected


@pytest.mark.parametrize("fault", ["another result", "no package"])
def test_opencv_is_not_used_where_it_is_missing_or_disagrees(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    frames = noise(96, 128)
    expected = resized("opencv_bilinear", frames, 56)
    agrees = interpolation._opencv_agrees.__wrapped__
    assert agrees((96, 128, 56, 75))
    if fault == "another result":
        resize = cv2.resize
        monkeypatch.setattr(cv2, "resize", lambda *args, **kwargs: resize(*args, **kwargs) ^ 1)
    else:
        monkeypatch.setitem(sys.modules, "cv2", None)
    assert not agrees((96, 128, 56, 75))
    monkeypatch.setattr(interpolation, "_opencv_agrees", agrees)
    assert torch.equal(resized("opencv_bilinear", frames, 56), expected)


@pytest.mark.parametrize("name", [n for n, rule in RESIZE_RULES.items() if rule.on_devices])
@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_frames_of_a_device_are_resized_at_once_with_the_same_result(
    name: str, height: int, width: int, short_side: int
) -> None:
    rule, frames = RESIZE_RULES[name], noise(height, width, 3)
    if rule.normalized_first:
        frames = frames.float()
    size = rule.size(height, width, short_side)
    box = slice(1, size[0] - 1), slice(0, size[1] - 2)
    for part in (None, box):
        on_device = rule.pixels(frames, *size, part, device="cpu")
        assert torch.equal(on_device, rule.pixels(frames, *size, part))


@pytest.mark.parametrize("rule", RESIZE_RULES)
@pytest.mark.parametrize(("height", "width", "short_side"), SIZES)
def test_frames_are_resized_independently(
    rule: str, height: int, width: int, short_side: int
) -> None:
    frames = noise(height, width, 3)
    if RESIZE_RULES[rule].normalized_first:
        frames = frames.float()
    together = resized(rule, frames, short_side)
    apart = torch.cat([resized(rule, frame[None], short_side) for frame in frames])
    assert torch.equal(together, apart)
    assert min(together.shape[1:3]) == short_side
    assert together.dtype == frames.dtype


@pytest.mark.parametrize(
    ("rule", "size", "short_side", "expected"),
    [
        ("normalized_bilinear", (256, 340), 224, (224, 297)),
        ("normalized_bilinear", (96, 128), 224, (224, 298)),
        ("normalized_bilinear", (128, 96), 64, (85, 64)),
        ("normalized_bilinear", (224, 230), 224, (224, 230)),
        ("opencv_bilinear", (256, 340), 224, (224, 298)),
        ("opencv_bilinear", (96, 128), 224, (224, 299)),
        ("opencv_bilinear", (128, 96), 64, (85, 64)),
        ("torchvision_bilinear", (256, 340), 256, (256, 340)),
        ("tensorflow_bilinear", (96, 128), 256, (256, 341)),
        ("tensorflow_bilinear", (1080, 1920), 256, (256, 455)),
        ("pillow_bilinear", (1920, 1080), 256, (455, 256)),
    ],
)
def test_the_long_side_is_rounded_as_in_upstream(
    rule: str, size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert RESIZE_RULES[rule].size(*size, short_side) == expected


@pytest.mark.parametrize("rule", RESIZE_RULES)
@pytest.mark.parametrize("short_side", [224, 256, 336])
def test_frames_of_the_right_size_are_unchanged(rule: str, short_side: int) -> None:
    for long_side in range(short_side, 1200):
        assert RESIZE_RULES[rule].size(short_side, long_side, short_side)[1] == long_side
        assert RESIZE_RULES[rule].size(long_side, short_side, short_side)[0] == long_side


@pytest.mark.parametrize(
    ("rule", "order", "size", "expected"),
    [
        ("ceil", "first_middle_last", (224, 297), [(0, 0), (0, 37), (0, 73)]),
        ("ceil", "first_middle_last", (297, 224), [(0, 0), (37, 0), (73, 0)]),
        ("ceil", "first_middle_last", (224, 224), [(0, 0)] * 3),
        ("floor", "first_last_middle", (224, 298), [(0, 0), (0, 74), (0, 37)]),
        ("floor", "first_last_middle", (224, 299), [(0, 0), (0, 74), (0, 37)]),
        ("floor", "first_last_middle", (299, 224), [(0, 0), (74, 0), (37, 0)]),
        ("ceil_of_three", "first_middle_last", (256, 340), [(16, 0), (16, 58), (16, 116)]),
        ("ceil_of_three", "first_middle_last", (341, 256), [(0, 16), (59, 16), (117, 16)]),
    ],
)
def test_three_crops_are_where_upstream_has_them(
    rule: str, order: str, size: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    assert crop_corners(size, 224, rule, order, 3) == expected


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("ceil", (224, 297), (0, 37)),
        ("floor", (256, 341), (16, 58)),
        ("round", (256, 341), (16, 58)),
        ("round", (256, 343), (16, 60)),
        ("ceil_of_three", (256, 341), (16, 58)),
    ],
)
def test_a_single_crop_is_in_the_center(
    rule: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert crop_corners(size, 224, rule, "first_middle_last", 1) == [expected]


@pytest.mark.parametrize("rule", CROP_RULES)
def test_crops_are_inside_the_frame(rule: str) -> None:
    for slack in range(50):
        three, single = CROP_RULES[rule].three(slack), CROP_RULES[rule].single(slack)
        assert all(0 <= offset <= slack for offset in (*three, single))


def by_hand(rule: str, mean: float, std: float) -> np.ndarray:
    """All 256 gray levels through one rule, in NumPy's float32."""
    levels, mean32, std32 = np.arange(256, dtype=np.float32), np.float32(mean), np.float32(std)
    if rule == "raw_reciprocal":
        return ((levels - mean32) * (1 / np.float64(std32))).astype(np.float32)
    if rule == "scaled":
        levels = levels / np.float32(255)
    elif rule == "signed":
        levels = levels * np.float32(2 / 255) - np.float32(1)
    return (levels - mean32) / std32


@pytest.mark.parametrize("rule", NORMALIZE_RULES)
def test_every_gray_level_is_normalized_in_upstreams_order_of_operations(rule: str) -> None:
    mean, std = (0.485, 0.456, 0.406), (58.395, 0.224, 57.375)
    levels = torch.arange(256, dtype=torch.uint8).view(4, 8, 8, 1).repeat(1, 1, 1, 3)
    clip = normalize_clip(levels, rule, mean, std)
    frames = normalize_frames(levels, rule, mean, std)
    assert torch.equal(clip, frames.permute(3, 0, 1, 2))
    for channel in range(3):
        expected = by_hand(rule, mean[channel], std[channel])
        assert np.array_equal(clip[channel].flatten().numpy(), expected)
