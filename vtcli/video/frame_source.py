"""The frames of a sample by number, however they are stored: as a video, a segment of one, or a
folder with one image per frame.

Shape legend: N requested frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.runtime.words import plural
from vtcli.video.damage import listen
from vtcli.video.decode import (
    DEFAULT_LIMITS,
    PART_BYTES,
    Backend,
    FrameParts,
    VideoInfo,
    in_turn,
    probe,
    read_frames,
    read_parts,
)
from vtcli.video.frame_folder import list_frames
from vtcli.video.times import even_times, segment_in_seconds

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER_RATE = 12.0
"""Default frame rate of a folder of images: that of Something-Something v1 and Jester."""


class FrameSource(Protocol):
    """Frames 0 to `frames` - 1 at `fps` frames per second (0.0 where that is unknown)."""

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        ...

    @property
    def times(self) -> NDArray[np.float64]:
        """The start of each frame in seconds after the first, and the end of the last: [frames+1];
        empty where they are unknown.
        """
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs of damage in the file, and in what was read of it so far, one sentence each."""
        ...

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Frames `indices` as uint8 RGB [N, H, W, 3]; raises `VideoDecodeError`."""
        ...

    def parts(self, indices: Sequence[int]) -> FrameParts:
        """The same frames in parts of at most `PART_BYTES`, or of one frame, in any order."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """A video file, decoded by PyAV or decord."""

    info: VideoInfo
    decoder: Backend = "auto"
    heard: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def frames(self) -> int:
        return self.info.frames

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def frame_bytes(self) -> int:
        return self.info.width * self.info.height * 3

    @property
    def times(self) -> NDArray[np.float64]:
        return np.empty(0) if self.info.index is None else self.info.index.times

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.info.warnings, *self.heard]))

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        with listen() as damage:
            frames = read_frames(self.info.path, indices, backend=self.decoder, info=self.info)
        self.heard.extend(damage.sentences())
        return frames

    def parts(self, indices: Sequence[int]) -> FrameParts:
        with listen() as damage:
            yield from read_parts(self.info, indices, PART_BYTES, self.decoder)
        self.heard.extend(damage.sentences())


@dataclass(frozen=True)
class FrameFolder:
    """A folder of images, in the order of their numbers; `notes` say what else is in it, and what
    is not.
    """

    folder: Path
    images: tuple[Path, ...]
    fps: float
    frame_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.images)

    @property
    def times(self) -> NDArray[np.float64]:
        return even_times(self.frames, self.fps)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.notes

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        requested = {index: _read_image(self.images[index]) for index in sorted(set(indices))}
        shapes = {image.shape for image in requested.values()}
        if len(shapes) > 1:
            raise self._sizes_differ()
        height, width = next(iter(shapes))[:2] if shapes else (0, 0)
        size = len(indices) * height * width * 3
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                self.folder,
                "limit",
                f"{len(indices)} frames of {width}x{height} need {size / 2**30:.1f} GiB, more than "
                f"{DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; use fewer views",
            )
        return np.stack([requested[index] for index in indices])

    def parts(self, indices: Sequence[int]) -> FrameParts:
        count = max(1, PART_BYTES // self.frame_bytes)
        shape: tuple[int, ...] = ()
        for rows, frames_NHWC in in_turn(indices, count, self.read):
            if shape not in ((), frames_NHWC.shape[1:]):
                raise self._sizes_differ()
            shape = frames_NHWC.shape[1:]
            yield rows, frames_NHWC

    def _sizes_differ(self) -> VideoDecodeError:
        return VideoDecodeError(
            self.folder, "corrupt", "contains frames of different sizes; extract them again"
        )


@dataclass(frozen=True)
class FrameRange:
    """Consecutive frames of another source, numbered from 0."""

    source: FrameSource
    first: int
    frames: int

    @property
    def fps(self) -> float:
        return self.source.fps

    @property
    def frame_bytes(self) -> int:
        return self.source.frame_bytes

    @property
    def times(self) -> NDArray[np.float64]:
        times = self.source.times[self.first : self.first + self.frames + 1]
        return times - times[0] if len(times) else times

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.source.warnings

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self.source.read([self.first + index for index in indices])

    def parts(self, indices: Sequence[int]) -> FrameParts:
        return self.source.parts([self.first + index for index in indices])


ChooseFrames: TypeAlias = Callable[[int, float], list[int]]
"""The frames that will be read first, from the number of frames and their rate; picklable."""

Opener: TypeAlias = Callable[..., FrameSource]
"""`open_frame_source`, or one with its parameters that decodes in another process."""


def open_frame_source(
    path: str | os.PathLike[str],
    seconds: tuple[float | None, float | None] = (None, None),
    frame_range: tuple[int | None, int | None] = (None, None),
    frame_rate: float | None = None,
    decoder: Backend = "auto",
    stated_frames: int | None = None,
    choose: ChooseFrames | None = None,
) -> FrameSource:
    """Open a video file or a folder of images, or a segment of it.

    The segment is given in `seconds` from the first frame (see `frames_between`) or as a
    `frame_range`, the numbers of its first and last frame; None is the beginning or the end.
    `frame_rate` is that of a folder, whose images do not state it, and `stated_frames` how many
    images it should have: a warning says where it has not. `choose` is for openers that read in
    another process: here, frames are read when they are asked for. Raises `VideoDecodeError` (see
    `probe`); `missing_frames` where the segment is beyond the end.
    """
    source: FrameSource
    if os.path.isdir(path):
        found = list_frames(Path(path))
        rate = frame_rate or FOLDER_RATE
        size = _frame_bytes(found.images)
        notes = (*found.skipped, *miscounted(len(found.images), stated_frames))
        source = FrameFolder(Path(path), found.images, rate, size, notes)
    else:
        source = VideoFile(probe(path), decoder)
    if seconds != (None, None):
        start, end = segment_in_seconds(Path(path), source.times, seconds)
        return FrameRange(source, start, end - start)
    first, last = frame_range
    if first is None and last is None:
        return source
    return _segment(Path(path), source, first or 0, last)


def _segment(path: Path, source: FrameSource, first: int, last: int | None) -> FrameRange:
    """An end at most one second beyond the video's is clamped to it: annotations round up."""
    end = source.frames if last is None else min(last + 1, source.frames)
    starts_inside = 0 <= first < source.frames
    ends_inside = last is None or first - 1 <= last < source.frames + source.fps
    if not (starts_inside and ends_inside):
        raise VideoDecodeError(
            path,
            "missing_frames",
            f"has {source.frames} frames, and its segment is {first} to "
            f"{'the end' if last is None else last}; correct the annotation",
        )
    return FrameRange(source, first, max(1, end - first))


def miscounted(frames: int, stated: int | None) -> tuple[str, ...]:
    """A sentence where the folder has not as many images as stated; else nothing."""
    if stated is None or frames == stated:
        return ()
    return (f"the list states {plural(stated, 'frame')}, and the folder has {frames}",)


def _frame_bytes(images: Sequence[Path]) -> int:
    """Bytes of one decoded frame: of the first image that can be opened."""
    for number, path in enumerate(images, 1):
        try:
            with _open_image(path) as image:
                return image.width * image.height * 3  # a rotation does not change it
        except VideoDecodeError:
            if number == len(images):
                raise
    return 0


def _read_image(path: Path) -> NDArray[np.uint8]:
    """RGB [H, W, 3], upright as its EXIF data say, 16 bits scaled to 8."""
    from PIL import ImageOps

    with _open_image(path) as image:
        shown = ImageOps.exif_transpose(image)
        if shown.mode.startswith(("I", "F")):
            gray_HW = np.asarray(shown)
            deep = shown.mode.startswith("I;16") or gray_HW.max(initial=0) > 255
            scaled_HW = np.round(gray_HW / 257 if deep else gray_HW)
            return np.repeat(np.clip(scaled_HW, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(shown.convert("RGB"))


@contextmanager
def _open_image(path: Path) -> Iterator[Image]:
    """An image whose pixels are not decoded yet; every failure is a `VideoDecodeError`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(
            path, "corrupt", f"is an image that cannot be read ({error}); extract it again"
        ) from error
