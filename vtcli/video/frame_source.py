"""One sample's frames by number, however they are stored: a video, a segment of one, or a folder
with one image per frame.

Shape legend: N frames asked for, H height, W width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.decode import DEFAULT_LIMITS, Backend, VideoInfo, probe, read_frames
from vtcli.video.extensions import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image

# What frames were extracted at where nobody says: the rate of Something-Something v1 and Jester.
FOLDER_RATE = 12.0


class FrameSource(Protocol):
    """Frames 0 to `frames` - 1, `fps` a second (0.0 where nobody says)."""

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def frame_bytes(self) -> int:
        """Memory that one frame takes."""
        ...

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB frames [N, H, W, 3] in the order asked for; raises `VideoDecodeError`."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """A video file, by PyAV or decord."""

    info: VideoInfo
    decoder: Backend = "auto"

    @property
    def frames(self) -> int:
        return self.info.frames

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def frame_bytes(self) -> int:
        return self.info.width * self.info.height * 3

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return read_frames(self.info.path, indices, backend=self.decoder, info=self.info)


@dataclass(frozen=True)
class FrameFolder:
    """A folder of images, in the order of the numbers in their names."""

    folder: Path
    images: tuple[Path, ...]
    fps: float

    @property
    def frames(self) -> int:
        return len(self.images)

    @property
    def frame_bytes(self) -> int:
        with _opened(self.images[0]) as image:
            return image.width * image.height * 3

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        wanted = {index: _read_image(self.images[index]) for index in sorted(set(indices))}
        shapes = {image.shape for image in wanted.values()}
        if len(shapes) > 1:
            raise VideoDecodeError(
                self.folder, "corrupt", "holds frames of different sizes; extract them again"
            )
        height, width = next(iter(shapes))[:2] if shapes else (0, 0)
        size = len(indices) * height * width * 3
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                self.folder,
                "limit",
                f"{len(indices)} frames of {width}x{height} need {size / 2**30:.1f} GiB, more than "
                f"{DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; take fewer views",
            )
        return np.stack([wanted[index] for index in indices])


@dataclass(frozen=True)
class FrameRange:
    """Some frames in a row of something longer, numbered from 0."""

    whole: FrameSource
    first: int
    frames: int

    @property
    def fps(self) -> float:
        return self.whole.fps

    @property
    def frame_bytes(self) -> int:
        return self.whole.frame_bytes

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self.whole.read([self.first + index for index in indices])


def open_footage(
    path: str | os.PathLike[str],
    seconds: tuple[float | None, float | None] = (None, None),
    numbers: tuple[int | None, int | None] = (None, None),
    frame_rate: float | None = None,
    decoder: Backend = "auto",
) -> FrameSource:
    """A video file or a folder of images, or a part of it.

    The part is given in `seconds` from the beginning (turned into frames by the average rate) or by
    the `numbers` of its first and last frame; None is the beginning or the end. `frame_rate` is a
    folder's, whose images do not say it. Raises `VideoDecodeError` (see `probe`); `missing_frames`
    where the part lies beyond the end.
    """
    whole: FrameSource
    if os.path.isdir(path):
        whole = FrameFolder(Path(path), _images(Path(path)), frame_rate or FOLDER_RATE)
    else:
        whole = VideoFile(probe(path), decoder)
    first, last = numbers
    if seconds != (None, None):
        if not whole.fps:
            raise VideoDecodeError(
                Path(path),
                "unsupported",
                "does not say its frame rate, so a segment in seconds cannot be found in it; write "
                "it anew with one",
            )
        start, end = seconds
        first = None if start is None else round(start * whole.fps)
        last = None if end is None else round(end * whole.fps) - 1
    if first is None and last is None:
        return whole
    return _part(Path(path), whole, first or 0, last)


def _part(path: Path, whole: FrameSource, first: int, last: int | None) -> FrameRange:
    """An end at most a second beyond the video's is cut to it: annotations round up."""
    end = whole.frames if last is None else min(last + 1, whole.frames)
    begins_inside = 0 <= first < whole.frames
    ends_inside = last is None or first - 1 <= last < whole.frames + whole.fps
    if not (begins_inside and ends_inside):
        raise VideoDecodeError(
            path,
            "missing_frames",
            f"has {whole.frames} frames, and its segment is {first} to "
            f"{'the end' if last is None else last}; correct the annotation",
        )
    return FrameRange(whole, first, max(1, end - first))


def _images(folder: Path) -> tuple[Path, ...]:
    """Images by the last number in their names, whatever its digits."""
    try:
        images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise VideoDecodeError(
            folder, "not_found", f"cannot be opened ({error.strerror}); check its permissions"
        ) from error
    if not images:
        raise VideoDecodeError(folder, "not_video", "is a folder without images; extract it again")

    def number(image: Path) -> tuple[int, str]:
        digits = re.findall(r"\d+", image.stem)
        return (int(digits[-1]) if digits else 0, image.name)

    return tuple(sorted(images, key=number))


def _read_image(path: Path) -> NDArray[np.uint8]:
    """RGB [H, W, 3]."""
    with _opened(path) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """An image whose pixels are not decoded yet; whatever is wrong is a `VideoDecodeError`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(
            path, "corrupt", f"is an image that cannot be read ({error}); extract it again"
        ) from error
