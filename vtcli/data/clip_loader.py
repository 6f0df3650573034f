"""Clips of samples, decoded ahead by a pool of threads while the model works.

Decoding and resizing release the interpreter's lock, so threads share the cores. A sample that
cannot be read comes back as its error, in its place; nothing is put in its stead.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtcli.data.samples import Sample
from vtcli.errors import InputError, VideoDecodeError
from vtcli.video.decode import Backend
from vtcli.video.frame_source import FrameSource, open_footage
from vtcli.video.pipeline import Pipeline, View, plan_views

if TYPE_CHECKING:
    from torch import Tensor


MOST_WORKERS = 16


def workers_of(asked: int | None, processes_here: int) -> int:
    """Threads that decode ahead in one of so many processes on this machine: what was asked for,
    else its share of the cores.
    """
    here = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if here else os.cpu_count()
    return asked or max(1, min((cores or 1) // processes_here, MOST_WORKERS))


def open_sample(sample: Sample, frame_rate: float | None, decoder: Backend) -> FrameSource:
    """A sample's frames by number; `frame_rate` as `open_footage` has it.

    Raises `VideoDecodeError`.
    """
    return open_footage(
        sample.path,
        (sample.start, sample.end),
        (sample.first_frame, sample.last_frame),
        frame_rate,
        decoder,
    )


@dataclass(frozen=True)
class ClipReader:
    """How samples become clips: the pipeline, the views per video, the decoder.

    `frame_rate` is that of folders of frames, whose images do not say it.
    """

    pipeline: Pipeline
    clips: int
    crops: int
    frame_rate: float | None = None
    decoder: Backend = "auto"

    def open(self, sample: Sample) -> tuple[FrameSource, list[View]]:
        """A sample's frames and its views, in upstream's order; raises `VideoDecodeError`."""
        footage = open_sample(sample, self.frame_rate, self.decoder)
        try:
            views = plan_views(self.pipeline, footage.frames, footage.fps, self.clips, self.crops)
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        return footage, views

    def read(self, sample: Sample, wanted: Sequence[int]) -> Iterator[Tensor]:
        """The `wanted` views (their numbers) of a sample, in that order: float32 [3,T,S,S] each.

        Frames are decoded and resized before this returns, each once however many views show it;
        views are cut out one by one. Raises `VideoDecodeError`.
        """
        from vtcli.video.views import views_from_frames

        footage, views = self.open(sample)
        chosen = [views[number] for number in wanted]
        numbers = sorted({index for view in chosen for index in view.frame_indices})
        frames_NHWC = footage.read(numbers)
        row_of = {index: row for row, index in enumerate(numbers)}
        return views_from_frames(frames_NHWC, row_of, self.pipeline, chosen)


@dataclass(frozen=True)
class Request:
    """Which views of a sample are wanted, by their numbers."""

    sample: Sample
    views: tuple[int, ...]


Loaded = Iterator["Tensor"] | VideoDecodeError


class Loader:
    """Reads groups of samples ahead: iterating gives, for each group, what became of its requests.

    `waited` counts the seconds that the consumer waited.
    """

    def __init__(
        self, reader: ClipReader, groups: Iterable[Sequence[Request]], workers: int
    ) -> None:
        self.reader, self.groups, self.workers = reader, iter(groups), workers
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[Sequence[Request], list[Loaded]]]:
        waiting: deque[tuple[Sequence[Request], list[Future[Loaded]]]] = deque()
        pool = ThreadPoolExecutor(self.workers, "decode")
        try:
            while self._submit(pool, waiting):
                group, futures = waiting.popleft()
                if not waiting:  # a large group alone: the next is read while the model works
                    self._submit(pool, waiting)
                start = time.perf_counter()
                loaded = [future.result() for future in futures]
                self.waited += time.perf_counter() - start
                yield group, loaded
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        waiting: deque[tuple[Sequence[Request], list[Future[Loaded]]]],
    ) -> bool:
        """Keep one sample per worker under way and one ready; whether any group is left."""
        while sum(len(futures) for _, futures in waiting) < 2 * self.workers:
            group = next(self.groups, None)
            if group is None:
                break
            waiting.append((group, [pool.submit(self._load, request) for request in group]))
        return bool(waiting)

    def _load(self, request: Request) -> Loaded:
        try:
            return self.reader.read(request.sample, request.views)
        except VideoDecodeError as error:
            return error
