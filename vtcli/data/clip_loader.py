"""Loads the clips (views) of samples for evaluation: worker threads decode while the model runs.

A sample that cannot be read is returned as its error, in its place; nothing is substituted for it.

Shape legend: N frames, H height, W width, T frames of a clip, S crop size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vtcli.data.samples import Sample
from vtcli.errors import InputError, VideoDecodeError
from vtcli.runtime.prefetch import prefetch
from vtcli.video.decode import Backend
from vtcli.video.frame_source import FrameSource, open_frame_source
from vtcli.video.pipeline import Pipeline, View, plan_views

if TYPE_CHECKING:
    from torch import Tensor


MOST_WORKERS = 16


def workers_of(asked: int | None, processes_here: int) -> int:
    """Decoding threads of one of `processes_here` processes on this machine.

    `asked` where it is given, else an equal part of the cores, at most `MOST_WORKERS`.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return asked or max(1, min((cores or 1) // processes_here, MOST_WORKERS))


def open_sample(sample: Sample, frame_rate: float | None, decoder: Backend) -> FrameSource:
    """The frames of a sample by number; `frame_rate` as in `open_frame_source`.

    Raises `VideoDecodeError`.
    """
    return open_frame_source(
        sample.path,
        (sample.start, sample.end),
        (sample.first_frame, sample.last_frame),
        frame_rate,
        decoder,
    )


@dataclass(frozen=True)
class ClipReader:
    """Turns samples into clips, by a pipeline, a number of views per video and a decoder.

    `frame_rate` is that of folders of frames, whose images do not state it.
    """

    pipeline: Pipeline
    clips: int
    crops: int
    frame_rate: float | None = None
    decoder: Backend = "auto"

    def open(self, sample: Sample) -> tuple[FrameSource, list[View]]:
        """The frames of a sample and its views, in upstream's order; raises `VideoDecodeError`."""
        source = open_sample(sample, self.frame_rate, self.decoder)
        try:
            views = plan_views(self.pipeline, source.frames, source.fps, self.clips, self.crops)
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        return source, views

    def read(self, sample: Sample, wanted: Sequence[int]) -> Iterator[Tensor]:
        """The views with the numbers `wanted`, in that order: float32 [3,T,S,S] each.

        Frames are decoded and resized before this returns, each once however many views show it;
        views are cropped one by one. Raises `VideoDecodeError`.
        """
        from vtcli.video.views import views_from_frames

        source, views = self.open(sample)
        chosen = [views[number] for number in wanted]
        numbers = sorted({index for view in chosen for index in view.frame_indices})
        frames_NHWC = source.read(numbers)
        row_of = {index: row for row, index in enumerate(numbers)}
        return views_from_frames(frames_NHWC, row_of, self.pipeline, chosen)


@dataclass(frozen=True)
class Request:
    """The views of a sample to load, by their numbers."""

    sample: Sample
    views: tuple[int, ...]


Loaded: TypeAlias = "Iterator[Tensor] | VideoDecodeError"
"""The views of a request one by one, or why they cannot be read."""


class Loader:
    """Iterates over groups of requests, each with what was loaded for it, in order.

    `workers` threads decode: two samples per thread, and at least the next group, are prefetched.
    `waited` is the time in seconds that the consumer waited for them.
    """

    def __init__(
        self, reader: ClipReader, groups: Iterable[Sequence[Request]], workers: int
    ) -> None:
        self.reader, self.groups, self.workers = reader, groups, workers
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[Sequence[Request], list[Loaded]]]:
        with closing(prefetch(self._load, self.groups, self.workers, 2 * self.workers)) as groups:
            while True:
                start = time.perf_counter()
                group = next(groups, None)
                self.waited += time.perf_counter() - start
                if group is None:
                    return
                yield group

    def _load(self, request: Request) -> Loaded:
        try:
            return self.reader.read(request.sample, request.views)
        except VideoDecodeError as error:
            return error
