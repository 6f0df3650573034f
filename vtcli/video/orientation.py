"""How stored frames are turned to be shown upright.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def quarter_turns(frame: VideoFrame) -> int:
    """The number of counter-clockwise quarter turns that make a stored frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix of a stored frame has a negative determinant.

    Rows of the matrix are (a, b, u), (c, d, v), (x, y, w), 32 bits each: ISO/IEC 14496-12, 6.2.2.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    return bool(a * d - b * c < 0)


def upright(stored_HWC: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    """A stored frame as it is to be shown."""
    return np.rot90(stored_HWC[::-1] if mirrored else stored_HWC, turns)
