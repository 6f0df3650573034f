"""Decoded frames kept in memory, for datasets that fit: a video is decoded once, not every epoch.

Videos are kept whole, first come, until the room is used up; under random order no other choice
serves more reads. What a clip is made of is the same with and without.
Shape legend: N frames, H height, W width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtcli.data.samples import Sample
from vtcli.errors import VideoDecodeError
from vtcli.video.frame_source import FrameSource


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """The frames of one sample, `pixels` [N, H, W, 3]."""

    pixels: NDArray[np.uint8]
    fps: float

    @property
    def frames(self) -> int:
        return len(self.pixels)

    @property
    def frame_bytes(self) -> int:
        return self.pixels[0].nbytes

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self.pixels[list(indices)]


class FrameCache:
    """Frames of samples, `room` bytes at most; for any number of threads."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[Sample, CachedFrames] = {}
        self._reading: set[Sample] = set()
        self._lock = threading.Lock()

    def get(self, sample: Sample) -> FrameSource | None:
        """The frames of a sample that is kept."""
        return self._kept.get(sample)

    def keep(self, sample: Sample, footage: FrameSource) -> FrameSource:
        """The footage from memory, if all of it fits and can be read, else as it is."""
        try:
            size = footage.frames * footage.frame_bytes
        except VideoDecodeError:
            return footage
        with self._lock:
            if sample in self._kept:
                return self._kept[sample]
            if sample in self._reading or size > self.room:
                return footage
            self._reading.add(sample)
            self.room -= size
        kept = None
        try:
            kept = CachedFrames(footage.read(range(footage.frames)), footage.fps)
        except VideoDecodeError:
            return footage  # a clip may do without the frames that are damaged
        finally:
            with self._lock:
                self._reading.discard(sample)
                if kept is None:
                    self.room += size
                else:
                    self._kept[sample] = kept
        return kept
