"""A picture of what a live source shows: the newest scored frame, with its best class drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtcli.runtime.files import atomic_write

_MOST_PIXELS = 1280
_QUALITY = 85


def write_preview(frame_HW3: NDArray[np.uint8], label: str, score: float, path: Path) -> None:
    """Replace the JPEG file by this frame, at most 1280 pixels wide or high; raises `DataError`."""
    from PIL import Image

    from vtcli.video.overlay import draw_caption

    picture = Image.fromarray(frame_HW3)
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    drawn = draw_caption(picture, label, score)
    with atomic_write(path) as part:
        drawn.save(part, format="jpeg", quality=_QUALITY)
