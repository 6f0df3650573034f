"""The check of a clip before it enters a network; the same for every architecture.

Without it a clip of another shape fails deep inside with a message about matrix sizes, or, worse,
gives logits. Shapes: B clips, T frames, H height, W width.
"""

from __future__ import annotations

from torch import Tensor

from vtcli.errors import ShapeError


def check_clip(clip: Tensor) -> tuple[int, int, int]:
    """The frames, height and width of a clip [B,3,T,H,W].

    Raises `ShapeError` if it has another number of dimensions or channels, a dimension of size 0,
    or values that are not floating-point.
    """
    shape = clip.shape
    if len(shape) != 5:
        hint = "; add the batch dimension with clip.unsqueeze(0)" if len(shape) == 4 else ""
        raise ShapeError(f"{_expected(clip)}{hint}")
    if shape[1] != 3:
        axis = next((axis for axis in (2, 4) if shape[axis] == 3), None)
        hint = f"; move the channels with clip.movedim({axis}, 1)" if axis is not None else ""
        raise ShapeError(f"{_expected(clip)}{hint}")
    if 0 in shape:
        raise ShapeError(f"{_expected(clip)}; every dimension must be at least 1")
    if not clip.is_floating_point():
        raise ShapeError(
            f"a clip holds normalized floating-point values, not {clip.dtype}; convert it to float "
            "and normalize it first"
        )
    return shape[2], shape[3], shape[4]


def _expected(clip: Tensor) -> str:
    return f"a clip is [batch, 3, frames, height, width], not {list(clip.shape)}"
