"""The stream: videos -> decode processes -> views -> batches across videos -> network -> logits.

Prediction, evaluation and bulk runs put different videos in and take different things out; this is
what they share. Memory is bounded: as many videos are decoded ahead as the next batches need.
Every batch of a run has the same shape and every view a fixed slot in it, so that a score never
depends on what else is in the batch. A video that cannot be read is an event in its place.

Shape legend: B slots of a batch, T frames of a clip, S crop size, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vtcli.data.clip_loader import LoadedViews, Loader
from vtcli.errors import OutOfMemoryError, VideoDecodeError
from vtcli.inference.batching import ViewIndex, WorkUnit
from vtcli.inference.scoring import score_slots

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.models.protocol import VideoModel


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


Event: TypeAlias = Opened | Failed | Scored


class ViewStream:
    """Scores units of videos, in order.

    `loader` gives what was loaded for the requested videos of the units, one by one; `slots` is
    the batch size of every forward pass, None for batches as large as what is in them. With
    `may_shrink`, a batch that does not fit into memory is cut into halves, and so are all that
    follow. `computing` is the time in seconds that the network took.
    """

    def __init__(
        self, net: VideoModel, loader: Loader, slots: int | None, may_shrink: bool = False
    ) -> None:
        self.net, self.loader, self.slots = net, loader, slots
        self.may_shrink = may_shrink
        self.computing = 0.0

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
                        clips[number] = loaded.clips
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
                        yield self._score(by_slot, slots)

    def _score(self, clips: Mapping[int, Tensor], views: Mapping[int, ViewIndex]) -> Scored:
        start = time.perf_counter()
        rows: dict[int, Mapping[str, Tensor]] = {}
        pending = [dict(clips)]
        while pending:
            part = pending.pop(0)
            try:
                rows.update(score_slots(self.net, part, self.slots))
            except OutOfMemoryError:
                if not self.may_shrink or len(part) == 1:
                    raise
                half = len(part) // 2
                items = list(part.items())
                # Scores of the halves have slots of their own: there is no batch to compare with.
                self.slots = None
                pending = [dict(items[:half]), dict(items[half:]), *pending]
        seconds = time.perf_counter() - start
        self.computing += seconds
        order = sorted(views)
        return Scored(tuple(views[s] for s in order), tuple(rows[s] for s in order), seconds)
