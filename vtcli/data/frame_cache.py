"""Decoded frames in memory, for datasets that fit: a video is decoded once, not once per epoch.

Whole videos are cached, first come, until the memory is used up; under a random order no other
policy has a higher hit rate. Clips are the same with and without the cache.

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
from vtcli.video.decode import FrameParts
from vtcli.video.frame_source import FrameSource


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """A `FrameSource` in memory: `pixels` are uint8 RGB [N, H, W, 3]."""

    pixels: NDArray[np.uint8]
    fps: float
    times: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.pixels)

    @property
    def frame_bytes(self) -> int:
        return self.pixels[0].nbytes

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self.pixels[list(indices)]

    def parts(self, indices: Sequence[int]) -> FrameParts:
        yield range(len(indices)), self.read(indices)


class FrameCache:
    """The frames of samples, at most `free_bytes` in total; may be used by several threads."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self._cached: dict[Sample, CachedFrames] = {}
        self._reading: set[Sample] = set()
        self._lock = threading.Lock()

    def get(self, sample: Sample) -> FrameSource | None:
        """The frames of a cached sample, else None."""
        return self._cached.get(sample)

    def add(self, sample: Sample, source: FrameSource) -> FrameSource:
        """The frames of `source` in memory if all of them fit and can be read, else `source`."""
        try:
            size = source.frames * source.frame_bytes
        except VideoDecodeError:
            return source
        with self._lock:
            if sample in self._cached:
                return self._cached[sample]
            if sample in self._reading or size > self.free_bytes:
                return source
            self._reading.add(sample)
            self.free_bytes -= size
        cached = None
        try:
            pixels = source.read(range(source.frames))
            cached = CachedFrames(pixels, source.fps, source.times)
        except VideoDecodeError:
            return source  # a clip may not need the frames that are damaged
        finally:
            with self._lock:
                self._reading.discard(sample)
                if cached is None:
                    self.free_bytes += size
                else:
                    self._cached[sample] = cached
        return cached
