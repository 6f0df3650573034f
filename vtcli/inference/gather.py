"""The logits of the views of a video, put together from the events of a stream.

Shape legend: V views, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtcli.data.clip_loader import LoadedViews
from vtcli.errors import VideoDecodeError
from vtcli.inference.stream import Event, Failed, Opened, Stopped
from vtcli.video.decode_pool import source_info
from vtcli.video.pipeline import View

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.decode import VideoInfo


@dataclass
class VideoScores:
    """The logits [V,K] per head of a video, and what else is known of it."""

    info: VideoInfo
    views: tuple[View, ...]
    logits: dict[str, Tensor]
    seconds: float
    warnings: tuple[str, ...]


class Gather:
    """Puts the events of a stream together again: one result per video, in order or as they come.

    `done` counts the views that need no more work, `latest` is the video of the last event.
    """

    def __init__(self, numbers: Sequence[int], views: int, ordered: bool = True) -> None:
        self.order = deque(numbers if ordered else ())
        self.ordered = ordered
        self.views = views
        self.done, self.latest = 0, 0
        self.opened: dict[int, LoadedViews] = {}
        self.rows: dict[int, list[Mapping[str, Tensor]]] = {}
        self.seconds: dict[int, float] = {}
        self.finished: dict[int, VideoDecodeError | VideoScores] = {}

    def add(self, event: Event) -> Iterator[tuple[int, VideoDecodeError | VideoScores]]:
        """The results that are complete with this event, in order with all before them."""
        if isinstance(event, Failed):
            self.finished[event.sample] = event.error
            self.latest, self.done = event.sample, self.done + self.views
        elif isinstance(event, Opened):
            self.opened[event.sample], self.latest = event.loaded, event.sample
            self.rows[event.sample], self.seconds[event.sample] = [], 0.0
        elif isinstance(event, Stopped):
            if event.sample in self.rows:
                self.latest = event.sample
                self.done += self.views - len(self.rows[event.sample])
                self._finish(event.sample)
        else:
            self.latest, self.done = event.views[-1].sample, self.done + len(event.views)
            for index, logits in zip(event.views, event.logits, strict=True):
                self.rows[index.sample].append(logits)
                self.seconds[index.sample] += event.seconds / len(event.views)
                if len(self.rows[index.sample]) == self.views:
                    self._finish(index.sample)
        if not self.ordered:
            yield from self.finished.items()
            self.finished.clear()
        while self.order and self.order[0] in self.finished:
            number = self.order.popleft()
            yield number, self.finished.pop(number)

    def _finish(self, number: int) -> None:
        import torch

        rows, loaded = self.rows.pop(number), self.opened.pop(number)
        logits = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        self.finished[number] = VideoScores(
            source_info(loaded.source),
            loaded.views[: len(rows)],
            logits,
            self.seconds.pop(number),
            loaded.source.warnings,
        )
