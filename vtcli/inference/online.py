"""The stream for videos that arrive one by one, from any thread: a server's requests.

Each video is decoded as soon as a decoding process is free. What is ready when the network becomes
free goes through it together, in batches of one shape, so that a score does not depend on how many
other videos there were.

Shape legend: V views, K classes.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vtcli.data.clip_loader import Loaded, LoadedViews, Request
from vtcli.data.samples import sample_of
from vtcli.errors import VideoDecodeError
from vtcli.inference.adaptive import refuse_auto_views
from vtcli.inference.batching import make_units, slots_per_batch
from vtcli.inference.device_batches import batches_for
from vtcli.inference.gather import Gather, VideoScores
from vtcli.inference.inputs import refuse_longer
from vtcli.inference.predictor import Predictor
from vtcli.inference.stream import ViewStream
from vtcli.video.decode_pool import source_info
from vtcli.video.frame_source import FrameSource

if TYPE_CHECKING:
    from vtcli.models.protocol import VideoModel

Scores: TypeAlias = VideoDecodeError | VideoScores
"""The logits of a video, or why it cannot be read."""


@dataclass(frozen=True)
class _Ready:
    """A decoded video whose scores somebody waits for."""

    loaded: LoadedViews
    future: Future[Scores]


class OnlineStream:
    """Scores videos with the network of a `Predictor`, whose weights it loads; close it at the end.

    `network` gives the network whose results are wanted from the one that is loaded. A video that
    lasts longer than `max_seconds` fails with the reason `limit`. `on_batch` is called with the
    number of videos of each batch. Without a batch size in the predictor's settings, a CPU, which
    one video keeps busy, computes one at a time.
    """

    def __init__(
        self,
        predictor: Predictor,
        network: Callable[[VideoModel], VideoModel] = lambda net: net,
        max_seconds: float = math.inf,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        refuse_auto_views(predictor.settings.views, "a server")
        self.predictor, self.max_seconds, self.on_batch = predictor, max_seconds, on_batch
        self.net = network(predictor.net)
        self.views = predictor.clips * predictor.crops
        asked, auto = predictor.settings.batch_size, predictor.auto_batch_size()
        on_cpu = next(predictor.net.parameters()).device.type == "cpu"
        self.size = min(auto, self.views) if asked is None and on_cpu else auto
        self.videos = max(1, self.size // self.views)
        """Videos per batch, at most."""
        self._reader = predictor.reader()
        workers = predictor.decoders.workers + 1
        self._decoding = ThreadPoolExecutor(workers, "online-decode")
        # Decoded videos are large: only those of the next batches are held.
        self._room = threading.Semaphore(2 * self.videos + workers)
        self._ready: queue.SimpleQueue[_Ready | None] = queue.SimpleQueue()
        self._scoring = threading.Thread(target=self._run, name="online-score", daemon=True)
        self._scoring.start()

    def submit(self, path: str) -> Future[Scores]:
        """The scores of a file or URL, in the future.

        Cancel it to leave out a video whose decoding has not begun. It raises what `ViewStream`
        raises; a video that cannot be read is a result.
        """
        future: Future[Scores] = Future()
        self._decoding.submit(self._decode, path, future)
        return future

    def close(self) -> None:
        """Finish what was submitted, then end."""
        self._decoding.shutdown(wait=True)
        self._ready.put(None)
        self._scoring.join()

    def _decode(self, path: str, future: Future[Scores]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._room.acquire()
        try:
            loaded = self._reader.read(sample_of(path), None, self._open)
        except BaseException as error:
            self._room.release()
            if isinstance(error, VideoDecodeError):
                future.set_result(error)
            else:
                future.set_exception(error)
        else:
            self._ready.put(_Ready(loaded, future))

    def _open(self, path: Path, *arguments: Any, **choose: Any) -> FrameSource:
        # No frame is read before the length is known.
        source = self.predictor.open_source(path, *arguments)
        refuse_longer(str(path), source_info(source).duration, self.max_seconds)
        return source

    def _run(self) -> None:
        while (first := self._ready.get()) is not None:
            batch = [first]
            while len(batch) < self.videos and not self._ready.empty():
                other = self._ready.get()
                if other is None:
                    self._ready.put(None)
                    break
                batch.append(other)
            if self.on_batch is not None:
                self.on_batch(len(batch))
            self._score(batch)
            self._room.release(len(batch))

    def _score(self, batch: Sequence[_Ready]) -> None:
        try:
            for number, scores in self._scores(batch):
                batch[number].future.set_result(scores)
        except BaseException as error:
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(error)

    def _scores(self, batch: Sequence[_Ready]) -> Generator[tuple[int, Scores], None, None]:
        numbers = range(len(batch))
        slots = slots_per_batch(self.views, self.size) if self.videos > 1 else None
        stream = ViewStream(
            batches_for(self.net, self.predictor.pipeline),
            _Loaded(batch),
            slots,
            may_shrink=self.predictor.settings.batch_size is None,
        )
        gather = Gather(numbers, self.views)
        with closing(stream.run(make_units(len(batch), self.views, self.size))) as events:
            for event in events:
                yield from gather.add(event)


class _Loaded:
    """Decoded videos as the stream takes them."""

    ordered = True

    def __init__(self, batch: Sequence[_Ready]) -> None:
        self.batch, self.waited, self.patience = batch, 0.0, 0.0

    def __iter__(self) -> Generator[tuple[Sequence[Request], list[Loaded]], None, None]:
        for one in self.batch:
            yield (), [one.loaded]
