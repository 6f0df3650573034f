"""The stream: videos -> decode processes -> views -> batches across videos -> network -> logits.

Prediction, evaluation and bulk runs put different videos in and take different things out; this is
what they share. Memory is bounded: as many videos are decoded ahead as the next batches need.
Every batch of a run has the same shape and every view a fixed slot in it, so that a score never
depends on what else is in the batch. A video that cannot be read is an event in its place.

Shape legend: B slots of a batch, T frames of a clip, S crop size, K classes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from vtcli.data.clip_loader import Loaded, LoadedViews, Request
from vtcli.errors import OutOfMemoryError, VideoDecodeError
from vtcli.inference.batching import ViewIndex, WorkUnit

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.inference.device_batches import Batches, Running


@dataclass(frozen=True)
class Opened:
    """A video was decoded; its scores follow."""

    sample: int
    loaded: LoadedViews


@dataclass(frozen=True)
class Failed:
    """A video could not be read."""

    sample: int
    error: VideoDecodeError


@dataclass(frozen=True)
class Scored:
    """The logits [K] per head of some views that went through the network together."""

    views: tuple[ViewIndex, ...]
    logits: tuple[Mapping[str, Tensor], ...]
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """No further view of a video is scored: its first class is settled (`adaptive.py`)."""

    sample: int


Event: TypeAlias = Opened | Failed | Scored | Stopped

PATIENCE = 1.0
"""Seconds without a new video after which those that wait are computed."""


class Loading(Protocol):
    """Groups of requests with what was loaded for each, such as a `Loader`.

    `waited` is the time in seconds that the consumer waited for them, `patience` that after which a
    loader that is not `ordered` tells that it has nothing.
    """

    ordered: bool
    waited: float
    patience: float

    def __iter__(self) -> Generator[tuple[Sequence[Request], list[Loaded]], None, None]: ...


class _WaitingVideos:
    """Loaded videos that are not in a batch yet, by their place in their unit."""

    def __init__(self, unit_of: Mapping[int, WorkUnit]) -> None:
        self.unit_of = unit_of
        places = max((len(unit.samples) for unit in unit_of.values()), default=1)
        self.at: list[deque[tuple[int, Iterator[Tensor]]]] = [deque() for _ in range(places)]

    def __len__(self) -> int:
        return sum(map(len, self.at))

    def add(self, number: int, clips: Iterator[Tensor]) -> None:
        self.at[number - self.unit_of[number].samples.start].append((number, clips))

    @property
    def is_enough(self) -> bool:
        """Whether they fill a batch, or are as many as two batches hold."""
        return all(self.at) or len(self) >= 2 * len(self.at)

    def take(self) -> Iterator[tuple[dict[int, Tensor], dict[int, ViewIndex]]]:
        """The batches of the first video of each place: clips and views by their slots."""
        first = [queue.popleft() for queue in self.at if queue]
        batches_of = {number: self.unit_of[number].batches for number, _ in first}
        for batch in range(len(next(iter(batches_of.values())))):
            views = {
                slot: view
                for number, _ in first
                for slot, view in enumerate(batches_of[number][batch])
                if view.sample == number
            }
            clips = dict(first)
            yield {slot: next(clips[view.sample]) for slot, view in views.items()}, views


@dataclass(frozen=True)
class _Submitted:
    """A batch that the network was given, in parts where it did not fit into memory."""

    views: Mapping[int, ViewIndex]
    running: Sequence[Running]
    start: float


class ViewStream:
    """Scores units of videos, in order; `batches` is how the network takes them.

    `loader` gives what was loaded for the requested videos of the units, one by one; `slots` is
    the batch size of every forward pass, None for batches as large as what is in them. With
    `may_shrink`, a batch that does not fit into memory is cut into halves, and so are all that
    follow. `computing` is the time in seconds that the network took.
    """

    def __init__(
        self, batches: Batches, loader: Loading, slots: int | None, may_shrink: bool = False
    ) -> None:
        self.batches, self.loader, self.slots = batches, loader, slots
        self.may_shrink = may_shrink
        self.computing = 0.0
        self._running: deque[_Submitted] = deque()
        self._computed_until = 0.0

    def run(
        self, units: Iterable[WorkUnit], wanted: Mapping[int, Sequence[int]] | None = None
    ) -> Generator[Event, None, None]:
        """What becomes of the videos: for each one `Failed`, or `Opened` and later its scores.

        `wanted` are the views to score by video (None: all of all). The loader must give exactly
        these videos. Raises `OutOfMemoryError`, and what `score_slots` raises.
        """
        with closing(iter(self.loader)) as coming:
            for unit in units:
                numbers = [n for n in unit.samples if wanted is None or n in wanted]
                clips: dict[int, Iterator[Tensor]] = {}
                for number, (_, (loaded,)) in zip(numbers, coming, strict=False):
                    if isinstance(loaded, VideoDecodeError):
                        yield Failed(number, loaded)
                    else:
                        clips[number] = self.batches.clips_of(loaded.clips)
                        yield Opened(number, loaded)
                for batch in unit.batches:
                    slots = {
                        slot: view
                        for slot, view in enumerate(batch)
                        if view.sample in clips
                        and (wanted is None or view.view in wanted[view.sample])
                    }
                    if slots:
                        by_slot = {s: next(clips[v.sample]) for s, v in slots.items()}
                        yield from self._score(by_slot, slots)
        yield from self._finish(0)

    def run_all(
        self, units: Iterable[WorkUnit], numbers: Collection[int], views: int
    ) -> Generator[Event, None, None]:
        """All `views` of the videos `numbers`: `run`, or `run_as_loaded` as the loader says."""
        if self.loader.ordered:
            return self.run(units, dict.fromkeys(numbers, range(views)))
        return self.run_as_loaded(units, frozenset(numbers))

    def run_as_loaded(
        self, units: Iterable[WorkUnit], numbers: Collection[int]
    ) -> Generator[Event, None, None]:
        """`run` for all views of the videos `numbers`, in the order in which they are loaded.

        The loader, a `Loader` that is not in order, gives requests with their numbers. Every view
        keeps its slot, so that scores are those of `run`: a batch takes its videos from different
        units, at most one per place. It is computed when every place has one; with empty places
        when many videos wait, or when no video was loaded for a while.
        """
        unit_of = {n: unit for unit in units for n in unit.samples if n in numbers}
        waiting = _WaitingVideos(unit_of)
        with closing(iter(self.loader)) as coming:
            for requests, results in coming:
                for request, loaded in zip(requests, results, strict=True):
                    if isinstance(loaded, VideoDecodeError):
                        yield Failed(request.number, loaded)
                    else:
                        waiting.add(request.number, self.batches.clips_of(loaded.clips))
                        yield Opened(request.number, loaded)
                while waiting.is_enough or (waiting and not requests):
                    yield from self._score_waiting(waiting)
        while waiting:
            yield from self._score_waiting(waiting)
        yield from self._finish(0)

    def _score_waiting(self, waiting: _WaitingVideos) -> Iterator[Scored]:
        for clips, views in waiting.take():
            for scored in self._score(clips, views):
                # Decoding that takes a little longer than a batch is waited for, not split off.
                self.loader.patience = max(PATIENCE, 2 * scored.seconds)
                yield scored

    def _score(
        self, clips: Mapping[int, Tensor], views: Mapping[int, ViewIndex]
    ) -> Iterator[Scored]:
        """Hand a batch to the network; the scores of those that are done."""
        start = time.perf_counter()
        running: list[Running] = []
        pending = [dict(clips)]
        while pending:
            part = pending.pop(0)
            try:
                running.append(self.batches.submit(part, self.slots))
            except OutOfMemoryError:
                if not self.may_shrink or len(part) == 1:
                    raise
                half = len(part) // 2
                items = list(part.items())
                # Scores of the halves have slots of their own: there is no batch to compare with.
                self.slots = None
                pending = [dict(items[:half]), dict(items[half:]), *pending]
        self._running.append(_Submitted(views, running, start))
        yield from self._finish(self.batches.lag)

    def _finish(self, lag: int) -> Iterator[Scored]:
        """The scores of all batches but the last `lag`."""
        while len(self._running) > lag:
            batch = self._running.popleft()
            rows: dict[int, Mapping[str, Tensor]] = {}
            for part in batch.running:
                rows.update(part.rows())
            now = time.perf_counter()
            # Of the time of batches that run side by side each second counts once.
            seconds = now - max(batch.start, self._computed_until)
            self._computed_until = now
            self.computing += seconds
            order = sorted(batch.views)
            views = tuple(batch.views[s] for s in order)
            yield Scored(views, tuple(rows[s] for s in order), seconds)
