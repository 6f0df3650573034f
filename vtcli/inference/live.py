"""Windows of live sources, scored as they come: a process per source decodes, and one network
scores the next window of each source in one batch.

A source that delivers more than the network can score is not queued: its oldest waiting windows are
dropped and their frames counted. Only a source that is faster than real time, such as a file in a
pipe, is made to wait, as long as it stays ahead of the clock. A decoder that crashes or hangs is
replaced, and its source opened again like one that broke off.

Shape legend: T frames of a clip, H height, W width, S crop size, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, VideoDecodeError
from vtcli.inference.live_clips import LiveClips
from vtcli.inference.live_decode import LivePart, LivePlan, decode_here, decode_live
from vtcli.inference.live_reader import POLL_SECONDS, LiveReader, Reading, Ready
from vtcli.inference.scoring import score_clips
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import WindowPrediction
from vtcli.runtime.worker import INHERITS_SOCKETS
from vtcli.runtime.worker_pool import WorkerPool
from vtcli.video import TIMEOUT_SECONDS, live_source
from vtcli.video.decode_worker import MEMORY_BYTES
from vtcli.video.recorder import Recording

HANG_SECONDS = 30.0
"""A decoder that neither delivers nor waits for its source for so long is taken to hang."""


@dataclass(frozen=True)
class LiveWindow:
    """The prediction for a window of a source, times in seconds after its first frame.

    `scores` are the probabilities [K] of the first head, `frame` is the last frame [H,W,3] that the
    window's clip samples, uint8 RGB, `delay` the seconds from the decoding of
    the window's last frame to this prediction, `dropped` the frames of the source that no scored
    window has, so far; `skipped` counts the windows of the source that were dropped.
    """

    source: str
    prediction: WindowPrediction
    scores: NDArray[np.float64]
    frame: NDArray[np.uint8]
    delay: float
    dropped: int
    skipped: int


@dataclass(frozen=True)
class LiveEnd:
    """The end of a source: its frames and those that were dropped, its windows that were scored and
    those that were skipped, and why it failed, if it did.
    """

    source: str
    frames: int
    dropped: int
    windows: int
    skipped: int
    error: VideoDecodeError | None = None


class LivePredictor:
    """Predicts the windows of live sources with a `TimelinePredictor`, until they end or `stop`.

    `on_note` is called, from any thread, with a sentence on a source that breaks off or comes back,
    `on_recording` with each source and the next piece of its packets. With `shortest`, the windows
    of a source are as long as the clip that the model samples at its frame rate, and at least so
    many seconds; they overlap as those of the `timeliner`. Raises `UsageError` for what is not a
    source.
    """

    def __init__(
        self,
        timeliner: TimelinePredictor,
        sources: Sequence[str],
        on_note: Callable[[str], None] = lambda text: None,
        on_recording: Callable[[str, Recording], None] | None = None,
        shortest: float | None = None,
    ) -> None:
        self.timeliner, self.shortest = timeliner, shortest
        names = list(dict.fromkeys(sources))
        self._reading = Reading(
            self._decode,
            lambda source: LiveClips(timeliner),
            on_note,
            on_recording or (lambda source, piece: None),
        )
        plans = [self._plan(source, on_recording is not None) for source in names]
        self.readers = [LiveReader(plan, self._reading) for plan in plans]
        self.pool = WorkerPool(1, TIMEOUT_SECONDS, MEMORY_BYTES)
        """The process that writes clips."""
        self._decoders: dict[str, WorkerPool] = {}

    def stop(self) -> None:
        """End the iteration soon; may be called from a signal handler."""
        self._reading.stop.set()

    def predict(self) -> Iterator[LiveWindow | LiveEnd]:
        """The windows of all sources as they are scored, and a `LiveEnd` for each source.

        Raises what loading the weights and scoring raise; a source that cannot be read is a
        `LiveEnd`.
        """
        self._warm_up()
        for reader in self.readers:
            reader.start()
        running = list(self.readers)
        try:
            while running:
                ended = [reader for reader in running if reader.has_ended]
                for reader in ended:
                    running.remove(reader)
                    yield _end_of(reader)
                ready = [] if ended else self._next()
                if ready:
                    yield from self._score(ready)
        finally:
            self.stop()
            for pool in (self.pool, *list(self._decoders.values())):
                pool.close()
            for reader in self.readers:
                reader.join(2 * POLL_SECONDS)
                reader.close()

    def _plan(self, source: str, records: bool) -> LivePlan:
        return LivePlan(
            source,
            self.timeliner.predictor.pipeline,
            self.timeliner.window,
            self.timeliner.stride,
            live_source.GROWTH_SECONDS,
            records=records,
            shortest=self.shortest,
        )

    def _decode(self, plan: LivePlan) -> Generator[LivePart, None, None]:
        """The parts of the next connection of a source, in a process of its own."""
        is_windows_pipe = plan.descriptor is not None and not INHERITS_SOCKETS
        if self.timeliner.predictor.settings.workers == 0 or is_windows_pipe:
            opening = live_source.Opening(
                stop=self._reading.stop, descriptor=plan.descriptor, growth=plan.growth
            )
            return decode_live(plan, opening)
        if plan.source not in self._decoders:
            inherited = [] if plan.descriptor is None else [plan.descriptor]
            pool = WorkerPool(1, HANG_SECONDS, MEMORY_BYTES, inherited)
            self._decoders[plan.source] = pool
        return self._decoders[plan.source].stream(decode_here, plan)

    def _next(self) -> list[Ready]:
        """The oldest waiting window of each source; none where none comes for a moment."""
        changed = self._reading.changed
        with changed:
            if not any(reader.waiting for reader in self.readers):
                changed.wait(POLL_SECONDS)
            ready = [reader.waiting.popleft() for reader in self.readers if reader.waiting]
            changed.notify_all()
        return ready

    def _score(self, ready: Sequence[Ready]) -> Iterator[LiveWindow]:
        clips, scored = [], []
        for one in ready:
            try:
                clips.append(one.clips.clip(one.row, one.frames))
                scored.append(one)
            except InputError as error:
                one.reader.fail(error)
        if not scored:
            return
        timeliner = self.timeliner
        net, size = timeliner.predictor.net, timeliner.predictor.settings.batch_size
        logits = score_clips(net, clips, size)
        probabilities = timeliner.first_head(logits)
        now = time.monotonic()
        for number, one in enumerate(scored):
            rows = {name: values[number] for name, values in logits.items()}
            dropped = one.reader.count_scored(one)
            yield LiveWindow(
                one.reader.source,
                timeliner.prediction(one.window, rows),
                probabilities[number],
                one.frames[max(one.row)],
                delay=now - one.arrived,
                dropped=dropped,
                skipped=one.reader.skipped,
            )

    def _warm_up(self) -> None:
        """Load the weights and score nothing once: the first pass takes longer than others."""
        import torch

        predictor = self.timeliner.predictor
        p = predictor.pipeline
        empty = torch.zeros(3, p.frames, p.crop_size, p.crop_size)
        score_clips(predictor.net, [empty], predictor.settings.batch_size)


def _end_of(reader: LiveReader) -> LiveEnd:
    reader.conclude()
    counts = (reader.frames, reader.dropped, reader.windows, reader.skipped)
    return LiveEnd(reader.source, *counts, reader.error)
