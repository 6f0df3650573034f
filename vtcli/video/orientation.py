"""How stored frames are turned to be shown upright.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def quarter_turns(frame: VideoFrame) -> int:
    """The number of counter-clockwise quarter turns that make a stored frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix of a stored frame has a negative determinant."""
    (a, b), (c, d) = _display_matrix(frame)
    return a * d - b * c < 0


def askew_degrees(frame: VideoFrame) -> int | None:
    """The counter-clockwise turn that a display matrix asks for, if it is not a multiple of 90
    degrees; else None.
    """
    (a, b), (c, d) = _display_matrix(frame)
    straight, crosswise = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crosswise) <= 0.01 * max(straight, crosswise):
        return None
    return round(math.degrees(-math.atan2(b, a)))


def _display_matrix(frame: VideoFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """((a, b), (c, d)) of the rows (a, b, u), (c, d, v), (x, y, w) of 32 bits each.

    Source: ISO/IEC 14496-12, 6.2.2.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return (1.0, 0.0), (0.0, 1.0)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return (a, b), (c, d)


def upright(stored_HWC: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    """A stored frame as it is to be shown."""
    return np.rot90(stored_HWC[::-1] if mirrored else stored_HWC, turns)
