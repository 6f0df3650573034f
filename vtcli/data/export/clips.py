"""The samples of a dataset as an export needs them: class names, and segments both in seconds and
in frames of the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vtcli.data.samples import Dataset, Sample
from vtcli.errors import DataError
from vtcli.video.frame_source import FrameSource, open_frame_source
from vtcli.video.times import continued, segment_in_seconds


@dataclass(frozen=True)
class Video:
    """A video file or folder of frames, opened when its frames or times are asked for."""

    path: Path
    frame_rate: float | None

    @cached_property
    def source(self) -> FrameSource:
        return open_frame_source(self.path, frame_rate=self.frame_rate)


@dataclass(frozen=True)
class Clip:
    """One sample: its video, the names of its classes and its segment."""

    sample: Sample
    video: Video
    labels: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        s = self.sample
        return (s.start, s.end, s.first_frame, s.last_frame) == (None, None, None, None)

    @property
    def frames(self) -> tuple[int, int]:
        """The first and last frame of the segment, from 0; all frames of a whole video."""
        sample, source = self.sample, self.video.source
        if (sample.start, sample.end) != (None, None):
            times = source.times
            first, past = segment_in_seconds(sample.path, times, (sample.start, sample.end))
            return first, past - 1
        last = source.frames - 1 if sample.last_frame is None else sample.last_frame
        return sample.first_frame or 0, last

    @property
    def seconds(self) -> tuple[float | None, float | None]:
        """The start and end of the segment in seconds after the first frame; None: unlimited."""
        sample = self.sample
        if sample.first_frame is None and sample.last_frame is None:
            return sample.start, sample.end
        source = self.video.source
        first, last = self.frames
        times = continued(source.times, last + 1, source.fps)
        if last + 1 >= len(times):
            raise DataError(
                f"{sample.path} does not state its frame rate, so its segment has no times; "
                "re-encode it with a frame rate"
            )
        return float(times[first]), float(times[last + 1])

    @property
    def bounds(self) -> tuple[float, float]:
        """`seconds`, with the beginning and end of the video where the segment is unlimited."""
        start, end = self.seconds
        return start or 0.0, float(self.video.source.times[-1]) if end is None else end


def clips_of(dataset: Dataset) -> list[Clip]:
    """The samples with the names of their classes, or their numbers where they have no names."""
    names = next(iter(dataset.classes.values()))
    videos: dict[Path, Video] = {}
    return [
        Clip(
            sample,
            videos.setdefault(sample.path, Video(sample.path, dataset.frame_rate)),
            tuple(names[label] if names else str(label) for label in sample.labels),
        )
        for sample in dataset.samples
    ]


def by_video(clips: Sequence[Clip]) -> dict[Path, list[Clip]]:
    """The clips of each video, in order."""
    found: dict[Path, list[Clip]] = {}
    for clip in clips:
        found.setdefault(clip.sample.path, []).append(clip)
    return found


def class_names(clips: Sequence[Clip], dataset: Dataset) -> list[str]:
    """The classes in index order; those without names are called by their numbers, from 0."""
    names = next(iter(dataset.classes.values()))
    numbers = (label for clip in clips for label in clip.sample.labels)
    return list(names) or [str(number) for number in range(max(numbers) + 1)]


def listed_path(video: Path, folder: Path) -> str:
    """The path of a video in a list: relative if it is below the list's folder."""
    absolute, base = video.absolute(), folder.absolute()
    return str(absolute.relative_to(base) if absolute.is_relative_to(base) else absolute)


def require_file(video: Path, format: str) -> None:
    """Raise `DataError` for what cannot be copied as one video file."""
    if video.is_dir():
        raise DataError(
            f"{video} is a folder of frames, and {format} holds video files; use --to manifest"
        )
    if not video.is_file():
        raise DataError(f"{video} does not exist; check the dataset with `vt datasets check`")
