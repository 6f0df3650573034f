"""Thumbnails of the frames that the model saw of a video: its middle clip, center-cropped."""

from __future__ import annotations

import io
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Sample
from vtcli.errors import VideoDecodeError
from vtcli.runtime.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)

HEIGHT = 112  # pixels
MAX_FRAMES = 8
JPEG_QUALITY = 80


class FrameStrip(NamedTuple):
    """JPEG files in temporal order, and the time of each as text ("1.2 s", "" if unknown)."""

    frames: tuple[bytes, ...] = ()
    times: tuple[str, ...] = ()


def frame_strips(
    reader: ClipReader, samples: Mapping[Key, Sample], on_video: ProgressCallback = no_progress
) -> dict[Key, FrameStrip]:
    """The strips of many samples, by the same keys."""
    strips = {}
    for number, (key, sample) in enumerate(samples.items(), 1):
        strips[key] = frame_strip(reader, sample)
        on_video("reading the frames to show", number, len(samples))
    return strips


def frame_strip(reader: ClipReader, sample: Sample) -> FrameStrip:
    """At most eight frames of the middle view of a sample; none if the video cannot be read."""
    try:
        source, views = reader.open(sample)
        middle = views[len(views) // 2].frame_indices
        shown = _evenly_spaced(sorted(set(middle)))
        images = source.read(shown)
    except VideoDecodeError:
        return FrameStrip()
    fraction = reader.pipeline.crop_size / reader.pipeline.short_side
    frames = tuple(_jpeg(image, fraction) for image in images)
    known = source.times
    times = tuple(f"{known[index]:.1f} s" if len(known) else "" for index in shown)
    return FrameStrip(frames, times)


def _evenly_spaced(indices: Sequence[int]) -> list[int]:
    count = min(len(indices), MAX_FRAMES)
    return [indices[(2 * i + 1) * len(indices) // (2 * count)] for i in range(count)]


def _jpeg(image_HWC: NDArray[np.uint8], fraction: float) -> bytes:
    """The center square whose side is `fraction` of the short side, resized to `HEIGHT`."""
    from PIL import Image

    image = Image.fromarray(image_HWC)
    side = round(min(image.size) * fraction)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((HEIGHT, HEIGHT))
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
