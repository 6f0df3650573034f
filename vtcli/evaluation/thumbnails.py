"""Small pictures of what the model saw of a video: the frames of its middle clip, in its crop."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Sample
from vtcli.errors import VideoDecodeError

HEIGHT = 112
MOST_FRAMES = 8
QUALITY = 80


def frame_strip(reader: ClipReader, sample: Sample) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """At most eight JPEG files of frames that the model saw, and their times ("1.2 s").

    Nothing where the video cannot be read any more.
    """
    try:
        footage, views = reader.open(sample)
        middle = views[len(views) // 2].frame_indices
        shown = _spread(sorted(set(middle)))
        pictures = footage.read(shown)
    except VideoDecodeError:
        return (), ()
    share = reader.pipeline.crop_size / reader.pipeline.short_side
    frames = tuple(_jpeg(picture, share) for picture in pictures)
    return frames, tuple(f"{index / footage.fps:.1f} s" if footage.fps else "" for index in shown)


def _spread(indices: Sequence[int]) -> list[int]:
    count = min(len(indices), MOST_FRAMES)
    return [indices[(2 * i + 1) * len(indices) // (2 * count)] for i in range(count)]


def _jpeg(picture_HWC: Any, share: float) -> bytes:
    """The center square of a frame that `share` of its short side leaves, at a fixed height."""
    from PIL import Image

    image = Image.fromarray(picture_HWC)
    side = round(min(image.size) * share)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((HEIGHT, HEIGHT))
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
