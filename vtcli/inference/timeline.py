"""What happens when in a long video: the model looks through a window that moves along, and
neighboring windows with the same best class become one segment.

Each window is sampled like a video of its own, one clip by the model's own rule. The file is read
once from its beginning to its end; a frame is brought to the model's size when it comes and
dropped after the last window that shows it, so that the length of the video costs no memory.

Shape legend: W windows, F frames, T frames of a clip, S crop size.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure
from vtcli.inference.scoring import score_clips, topk_per_head
from vtcli.inference.windows import (
    SHORTEST,
    Timeline,
    Window,
    WindowPrediction,
    merge_windows,
    plan_windows,
)
from vtcli.video.pipeline import Pipeline, plan_views

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.decode import VideoInfo

SCHEMA = 1
"""Of a timeline as JSON."""


MOST_WINDOWS = 100_000
"""Per video; a stride of half a second reaches it after 14 hours."""

# Frames decoded while the model works.
_AHEAD = 8
# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3

T = TypeVar("T")


class TimelinePredictor(Predictor):
    """A model that answers for windows of `window` seconds, one every `stride` seconds.

    Windows whose best class has less than `min_score` are in no segment. `settings` are those of
    `Predictor`; there is one view per window, and only PyAV reads. `on_window` hears of progress:
    the file, the windows whose frames were read, and how many there are.
    """

    def __init__(
        self,
        model: str | Path,
        window: float,
        stride: float | None = None,
        min_score: float = 0.0,
        on_window: Callable[[str, int, int], None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        if (self.clips, self.crops) != (1, 1):
            raise UsageError("a window is looked at once, in one view; leave out --views")
        if self.decoder == "decord":
            raise UsageError("a timeline is read with PyAV; leave out --decoder")
        self.window, self.min_score, self.on_window = window, min_score, on_window
        self.stride = window if stride is None else stride
        self.header = {
            **self.header,
            "schema": SCHEMA,
            "kind": "timeline",
            "window": self.window,
            "stride": self.stride,
            "min_score": min_score,
        }

    def timelines(self, paths: Sequence[str]) -> Iterator[Timeline | Failure]:
        """One outcome per path, in order; raises as `start` does."""
        if any(os.path.exists(path) for path in paths):
            self._load()
        return map(self._timeline, paths)

    def _timeline(self, path: str) -> Timeline | Failure:
        from vtcli.video.decode import probe
        from vtcli.video.sequential import frame_times

        _return_large_buffers()
        begin = time.perf_counter()
        try:
            info = probe(path)
            windows = self._plan(info, frame_times(info))
            logits = score_clips(self.net, self._clips(info, windows), self.batch_size)
        except VideoDecodeError as error:
            return Failure(path, error)
        heads, rule = self.net.card.heads, self.pipeline.view_fusion
        answers = []
        for number, window in enumerate(windows):
            own = {name: rows[number : number + 1] for name, rows in logits.items()}
            answers.append(WindowPrediction(window, topk_per_head(own, heads, rule, self.topk)))
        segments = merge_windows(answers, self.min_score)
        seconds = time.perf_counter() - begin
        note = self._note(path, windows)
        return Timeline(path, info, tuple(answers), tuple(segments), seconds, note)

    def _plan(self, info: VideoInfo, times: NDArray[np.float64]) -> list[Window]:
        if times[-1] / self.stride > MOST_WINDOWS:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"lasts {times[-1]:.0f} s, which makes over {MOST_WINDOWS} windows; take a longer "
                "--stride",
            )
        return plan_windows(times, self.window, self.stride)

    def _note(self, path: str, windows: Sequence[Window]) -> str:
        """What somebody might not expect of these windows."""
        length = windows[-1].end
        if len(windows) == 1 and length < self.window - SHORTEST:
            return (
                f"{path}: lasts {length:.2f} s, less than the window of {self.window:g} s, and is "
                "one segment"
            )
        if self.stride > self.window and len(windows) > 1:
            return (
                f"{path}: {self.stride - self.window:g} s of every {self.stride:g} s lie between "
                "the windows and are not looked at"
            )
        return ""

    def _clips(self, info: VideoInfo, windows: Sequence[Window]) -> Iterator[Tensor]:
        """Each window's clip [3,T,S,S], as soon as its last frame has come."""
        import torch

        from vtcli.video.sequential import stream_frames
        from vtcli.video.views import clip_tensors

        shown = [_frames_of(info, self.pipeline, window) for window in windows]
        last_shown = {index: number for number, row in enumerate(shown) for index in row}
        self._check_memory(info, shown, last_shown)
        coming = _ahead(stream_frames(info, last_shown, self.workers))
        held: dict[int, Tensor] = {}
        for number, row in enumerate(shown):
            while not held.keys() >= set(row):
                index, frame = next(coming)
                held[index] = clip_tensors(frame[None], self.pipeline, [0], 1)[0]
            yield torch.cat([held[index] for index in row], dim=1)
            for index in set(row):
                if last_shown[index] == number:
                    del held[index]
            if self.on_window:
                self.on_window(str(info.path), number + 1, len(windows))

    def _check_memory(
        self, info: VideoInfo, shown: Sequence[Sequence[int]], last_shown: Mapping[int, int]
    ) -> None:
        """Refuse windows that share more frames than fit into memory (reason `limit`)."""
        from vtcli.video.decode import DEFAULT_LIMITS

        latest_W = np.maximum.accumulate([max(row) for row in shown])
        come_W = np.searchsorted(sorted(last_shown), latest_W, side="right")
        gone_W = np.searchsorted(sorted(last_shown.values()), np.arange(len(shown)))
        size = int((come_W - gone_W).max()) * 3 * self.pipeline.crop_size**2 * 4
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"windows of {self.window:g} s every {self.stride:g} s share frames of "
                f"{size / 2**30:.1f} GiB, more than {DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; "
                "take a shorter --window or a longer --stride",
            )


def _frames_of(info: VideoInfo, pipeline: Pipeline, window: Window) -> list[int]:
    """The frames of a window's clip, numbered as the video's: [T]."""
    try:
        (view,) = plan_views(pipeline, window.frames, info.fps, 1, 1)
    except InputError as error:
        raise VideoDecodeError(info.path, "unsupported", str(error)) from error
    return [window.first + index for index in view.frame_indices]


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next few while the caller works on one."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


def _return_large_buffers() -> None:
    """Have glibc give the buffers of a large frame back to the system, as it does at first.

    It would learn to keep them, and small things that lie between them would make the heap grow by
    gigabytes over a long video in full HD.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 16 << 20)
