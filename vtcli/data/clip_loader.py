"""Loads the clips (views) of samples for evaluation: worker threads decode while the model runs.

A sample that cannot be read is returned as its error, in its place; nothing is substituted for it.

Shape legend: N frames, H height, W width, T frames of a clip, S crop size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vtcli.data.samples import Sample
from vtcli.errors import InputError, VideoDecodeError
from vtcli.runtime.prefetch import begun, prefetch, prefetch_unordered
from vtcli.video.damage import refuse_damage
from vtcli.video.decode import DEFAULT_LIMITS, Backend
from vtcli.video.frame_source import ChooseFrames, FrameSource, Opener, open_frame_source
from vtcli.video.pipeline import FramesOfViews, Pipeline, View, plan_views, shown_frames

if TYPE_CHECKING:
    from torch import Tensor


MOST_WORKERS = 16


def workers_of(asked: int | None, processes_here: int) -> int:
    """Decoding processes of one of `processes_here` processes on this machine.

    `asked` where it is given, else an equal part of the cores, at most `MOST_WORKERS`.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return max(1, min((cores or 1) // processes_here, MOST_WORKERS)) if asked is None else asked


def open_sample(
    sample: Sample,
    frame_rate: float | None,
    decoder: Backend,
    open_source: Opener = open_frame_source,
    choose: ChooseFrames | None = None,
) -> FrameSource:
    """The frames of a sample by number; `frame_rate` and `choose` as in `open_frame_source`.

    `open_source` is that function, or the one of a `DecodePool`. Raises `VideoDecodeError`.
    """
    return open_source(
        sample.path,
        (sample.start, sample.end),
        (sample.first_frame, sample.last_frame),
        frame_rate,
        decoder,
        sample.frames,
        choose=choose,
    )


@dataclass(frozen=True)
class LoadedViews:
    """A sample's frames by number, all its views, and the clips of those that were asked for:
    float32 [3,T,S,S] each.
    """

    source: FrameSource
    views: tuple[View, ...]
    clips: Iterator[Tensor]


@dataclass(frozen=True)
class ClipReader:
    """Turns samples into clips, by a pipeline, a number of views per video and a decoder.

    `frame_rate` is that of folders of frames, whose images do not state it. `strict`: a video that
    shows signs of damage is refused. `device`: where frames are resized, if the pipeline's rule
    gives the same bytes there (None: on the CPU).
    """

    pipeline: Pipeline
    clips: int
    crops: int
    frame_rate: float | None = None
    decoder: Backend = "auto"
    strict: bool = False
    device: str | None = None

    def open(
        self,
        sample: Sample,
        open_source: Opener = open_frame_source,
        choose: ChooseFrames | None = None,
    ) -> tuple[FrameSource, list[View]]:
        """The frames of a sample and its views, in upstream's order; raises `VideoDecodeError`."""
        source = open_sample(sample, self.frame_rate, self.decoder, open_source, choose)
        try:
            views = plan_views(self.pipeline, source.frames, source.fps, self.clips, self.crops)
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        return source, views

    def read(
        self,
        sample: Sample,
        wanted: Sequence[int] | None = None,
        open_source: Opener = open_frame_source,
    ) -> LoadedViews:
        """The views with the numbers `wanted` (None: all), in that order.

        Frames are decoded and resized before this returns, part by part, each once however many
        views show it; views are cropped one by one. Raises `VideoDecodeError`.
        """
        from vtcli.video.views import FrameLimitError, views_from_parts

        numbers_of_views = None if wanted is None else tuple(wanted)
        choose = FramesOfViews(self.pipeline, self.clips, self.crops, numbers_of_views)
        source, views = self.open(sample, open_source, choose)
        chosen = views if wanted is None else [views[number] for number in wanted]
        numbers = shown_frames(chosen)
        max_bytes = DEFAULT_LIMITS.max_bytes
        try:
            with closing(source.parts(numbers)) as parts:
                p = self.pipeline
                clips = views_from_parts(parts, numbers, p, chosen, max_bytes, self.device)
        except VideoDecodeError:
            raise
        except FrameLimitError as error:
            raise VideoDecodeError(sample.path, "limit", str(error)) from error
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        if self.strict:
            refuse_damage(sample.path, source.warnings)
        return LoadedViews(source, tuple(views), clips)


@dataclass(frozen=True)
class Request:
    """The views of a sample to load, by their numbers; None: all. `number`: that of the sample."""

    sample: Sample
    views: tuple[int, ...] | None = None
    number: int = 0


Loaded: TypeAlias = LoadedViews | VideoDecodeError
"""The views of a request, or why they cannot be read."""


class Loader:
    """Iterates over groups of requests, each with what was loaded for it.

    Groups come in order, or as they are loaded: then an empty one tells that none was for
    `patience` seconds.

    `workers` threads load: `ahead` samples (two per thread), and at least the next group, are
    prefetched. `open_source` opens the samples, by default in this process. `waited` is the time in
    seconds that the consumer waited for them.
    """

    def __init__(
        self,
        reader: ClipReader,
        groups: Iterable[Sequence[Request]],
        workers: int,
        open_source: Opener = open_frame_source,
        ordered: bool = True,
    ) -> None:
        self.reader, self.groups, self.workers = reader, groups, max(1, workers)
        self.open_source, self.ordered, self.patience = open_source, ordered, 1.0
        self.ahead = 2 * self.workers
        self.waited = 0.0
        self._started: Generator[tuple[Sequence[Request], list[Loaded]], None, None] | None = None

    def start(self) -> None:
        """Begin to load now, before the first group is asked for."""
        if self._started is None:
            start = self._in_order if self.ordered else self._as_loaded
            self._started = start()

    def close(self) -> None:
        """Stop what `start` began."""
        if self._started is not None:
            self._started.close()

    def __iter__(self) -> Generator[tuple[Sequence[Request], list[Loaded]], None, None]:
        self.start()
        assert self._started is not None
        with closing(self._started) as groups:
            while True:
                start = time.perf_counter()
                group = next(groups, None)
                self.waited += time.perf_counter() - start
                if group is None:
                    return
                yield group

    def _in_order(self) -> Generator[tuple[Sequence[Request], list[Loaded]], None, None]:
        return prefetch(self._load, self.groups, self.workers, lambda: self.ahead)

    def _as_loaded(self) -> Generator[tuple[Sequence[Request], list[Loaded]], None, None]:
        loaded = prefetch_unordered(
            lambda group: [self._load(request) for request in group],
            self.groups,
            self.workers,
            lambda: self.ahead,
            lambda: self.patience,
        )
        return begun(_or_empty(loaded))

    def _load(self, request: Request) -> Loaded:
        try:
            return self.reader.read(request.sample, request.views, self.open_source)
        except VideoDecodeError as error:
            return error


def _or_empty(
    groups: Generator[tuple[Sequence[Request], list[Loaded]] | None, None, None],
) -> Generator[tuple[Sequence[Request], list[Loaded]] | None, None, None]:
    """The groups, an empty one in place of each None."""
    with closing(groups):
        yield None
        for group in groups:
            yield group or ((), [])
