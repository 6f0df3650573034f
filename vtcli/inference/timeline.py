"""Temporal localization in long videos: the model scores a window that moves along the video, and
neighboring windows with the same top-1 class become one segment.

Each window is sampled like a video of its own, one clip by the model's own rule. Where the model
allows it, windows that overlap share what is computed for a frame (`shared_steps`). The file is
decoded once from its beginning to its end; a frame is resized as soon as it is decoded and dropped
after the last window that shows it, so that the length of the video costs no memory.

Shape legend: W windows, T frames of a clip, S crop size.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.arrays import WindowModel
from vtcli.inference.event_rule import rule_of_model
from vtcli.inference.events import EventRule, find_events
from vtcli.inference.inputs import refuse_longer
from vtcli.inference.results import Failure
from vtcli.inference.scoring import class_scores, score_clips, topk_per_head
from vtcli.inference.shared_steps import SharedSteps, align_steps, frame_step, sampling_step
from vtcli.inference.windows import (
    SHORTEST,
    Timeline,
    Window,
    WindowPrediction,
    merge_windows,
    plan_windows,
)
from vtcli.video import TIME_EPS
from vtcli.video.damage import refuse_damage
from vtcli.video.pipeline import Pipeline, plan_views

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.models.protocol import VideoModel
    from vtcli.video.decode import VideoInfo

SCHEMA = 1
"""Version of the JSON form of a timeline."""

MAX_WINDOWS = 100_000
"""Windows per video; a stride of half a second reaches it after 14 hours."""

# Of frames that are sent together; a few such parts are decoded while the model works.
_PART_BYTES = 4 << 20
# From glibc's malloc.h.
_M_MMAP_THRESHOLD = -3


class TimelinePredictor:
    """Predicts windows of `window` seconds, one every `stride` seconds, with a `Predictor`.

    Windows whose top-1 probability is less than `min_score` are in no segment. With `events`,
    segments are the events of the first head (`vtcli.inference.events`) instead: a rule, or text
    that says how it differs from the model's own (`vtcli.inference.event_rule`).
    Each window has one view, and only PyAV decodes; raises `UsageError` for a predictor with other
    settings.
    With `share_steps`, what the network computes for a time step alone is computed once for all
    windows that have it; scores are the same without. `on_window` is called with the file, the
    number of windows whose frames are decoded, and the number of all windows; `on_scored` with the
    predictions for the next windows of a file and the number of all, as soon as they are computed.
    """

    on_scored: Callable[[Sequence[WindowPrediction], int], None] | None = None
    max_seconds: float = math.inf
    """Longest video; a longer one fails with the reason `limit`."""

    def __init__(
        self,
        predictor: WindowModel,
        window: float,
        stride: float | None = None,
        min_score: float = 0.0,
        on_window: Callable[[str, int, int], None] | None = None,
        events: EventRule | str | None = None,
    ) -> None:
        if (predictor.clips, predictor.crops) != (1, 1):
            raise UsageError("a timeline has one view per window; leave out --views")
        if predictor.settings.decoder == "decord":
            raise UsageError("a timeline is decoded with PyAV; leave out --decoder")
        if predictor.settings.compile:
            raise UsageError("--compile is for whole videos; leave out --window")
        if predictor.settings.abstain is not None or predictor.settings.coverage is not None:
            raise UsageError("--abstain and --coverage are for whole videos; leave out --window")
        self.predictor = predictor
        self.window, self.min_score, self.on_window = window, min_score, on_window
        self.topk, self._events = predictor.settings.topk, events
        self.stride = window if stride is None else stride
        self.share_steps = True

    @property
    def has_events(self) -> bool:
        """Whether segments are events; loads nothing."""
        return self._events is not None

    @property
    def events(self) -> EventRule | None:
        """The rule for events; where it is the model's own, that is loaded."""
        if isinstance(self._events, str):
            card = self.predictor.net.card
            self._events = rule_of_model(card, self._events, self.window, self.stride)
        return self._events

    @property
    def header(self) -> dict[str, Any]:
        """The header of the predictor, with the settings of the timeline."""
        return {
            **self.predictor.header,
            "schema": SCHEMA,
            "kind": "timeline",
            "window": self.window,
            "stride": self.stride,
            "min_score": self.min_score,
            **({"events": self.events.to_dict()} if self.events else {}),
        }

    def predict(self, paths: Sequence[str | Path]) -> Iterator[Timeline | Failure]:
        """One outcome per file, in order; raises what `Predictor.predict` raises."""
        names = [str(path) for path in paths]
        self.predictor.prepare(names)
        return map(self._timeline, names)

    def score_windows(
        self, path: str, network: Callable[[VideoModel], VideoModel] | None = None
    ) -> tuple[VideoInfo, list[Window], dict[str, Tensor]]:
        """The windows of a file, and per head what the network gives for each: [W,K].

        `network` as in `Predictor.score_part`; without it windows may share what is computed for a
        time step. Raises `VideoDecodeError`.
        """
        _return_large_buffers()
        net, settings = self.predictor.net, self.predictor.settings
        info, times = self.predictor.decoders.call(path, _probe_times, path)
        if settings.strict:
            refuse_damage(path, info.warnings)
        windows = self._plan(info, times)
        frames_of = self.sampled_frames(info, windows)
        size, report = settings.batch_size, self._reporter(windows)
        with closing(self.clips(info, frames_of)) as clips:
            if network is not None:
                logits = score_clips(network(net), clips, size)
            elif self._overlaps() and self.share_steps and frame_step(net):
                logits = SharedSteps(net, frames_of).score(clips, size, report)
            else:
                logits = score_clips(net, clips, size, on_scored=report)
        return info, windows, logits

    def _timeline(self, path: str) -> Timeline | Failure:
        begin = time.perf_counter()
        try:
            info, windows, logits = self.score_windows(path)
        except VideoDecodeError as error:
            return Failure(path, error)
        predictions = [
            self.prediction(window, {name: rows[number] for name, rows in logits.items()})
            for number, window in enumerate(windows)
        ]
        if self.events is None:
            segments = merge_windows(predictions, self.min_score)
        else:
            labels = self.predictor.net.card.heads[0].labels
            segments = find_events(windows, self.first_head(logits), labels, self.events)
        seconds = time.perf_counter() - begin
        notice = self._notice(path, windows)
        return Timeline(
            path, info, tuple(predictions), tuple(segments), seconds, notice, info.warnings
        )

    def prediction(self, window: Window, logits: Mapping[str, Tensor]) -> WindowPrediction:
        """The best classes of a window, from its logits [K] per head."""
        card, rule = self.predictor.net.card, self.predictor.pipeline.view_fusion
        own = {name: row[None] for name, row in logits.items()}
        heads = topk_per_head(own, card, rule, self.topk)
        return WindowPrediction(window, heads, self.predictor.decide(own))

    def first_head(self, logits: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """The probabilities [W,K] of the first head, from the logits [W,K] per head."""
        card, rule = self.predictor.net.card, self.predictor.pipeline.view_fusion
        head = card.heads[0].name
        rows = (class_scores({head: row[None]}, card, head, rule) for row in logits[head])
        return np.stack([row.numpy() for row in rows])

    def _reporter(
        self, windows: Sequence[Window]
    ) -> Callable[[Sequence[Mapping[str, Tensor]]], None] | None:
        """What calls `on_scored` with the logits [K] per head of the next windows."""
        on_scored = self.on_scored
        if on_scored is None:
            return None
        coming = iter(windows)

        def report(rows: Sequence[Mapping[str, Tensor]]) -> None:
            on_scored([self.prediction(next(coming), row) for row in rows], len(windows))

        return report

    def _plan(self, info: VideoInfo, times: NDArray[np.float64]) -> list[Window]:
        refuse_longer(str(info.path), float(times[-1]), self.max_seconds)
        if times[-1] / self.stride > MAX_WINDOWS:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"lasts {times[-1]:.0f} s, which makes over {MAX_WINDOWS} windows; use a longer "
                "--stride",
            )
        return plan_windows(times, self.window, self.stride)

    def _notice(self, path: str, windows: Sequence[Window]) -> str:
        """What a user may not expect of these windows; empty where there is nothing."""
        length = windows[-1].end
        if len(windows) == 1 and length < self.window - SHORTEST:
            return (
                f"{path}: lasts {length:.2f} s, less than the window of {self.window:g} s, and is "
                "one segment"
            )
        if self.stride > self.window and len(windows) > 1:
            return (
                f"{path}: {self.stride - self.window:g} s of every {self.stride:g} s are between "
                "two windows and are not classified"
            )
        return ""

    def _overlaps(self) -> bool:
        return self.stride < self.window

    def sampled_frames(self, info: VideoInfo, windows: Sequence[Window]) -> list[list[int]]:
        """The frames [T] of each window's clip, by their numbers in the video.

        Where the stride divides the window and the network computes features of each step alone,
        windows share them (`align_steps`). Raises `VideoDecodeError`.
        """
        pipeline = self.predictor.pipeline
        frames_of = [frames_of_window(info.path, pipeline, window, info.fps) for window in windows]
        size = self.aligned_step()
        return align_steps(frames_of, size) if size else frames_of

    def aligned_step(self) -> int | None:
        """Frames of the time steps that windows share; None where their samples are not aligned."""
        ratio = self.window / self.stride
        if not self._overlaps() or abs(ratio - round(ratio)) >= TIME_EPS:
            return None
        return sampling_step(self.predictor.net)

    def clips(
        self, info: VideoInfo, frames_of: Sequence[Sequence[int]]
    ) -> Generator[Tensor, None, None]:
        """The clip [3,T,S,S] of each window's frames, as soon as its last frame is decoded.

        Raises `VideoDecodeError`.
        """
        import torch

        from vtcli.video.views import clip_tensors

        pipeline = self.predictor.pipeline
        last_window = {index: number for number, row in enumerate(frames_of) for index in row}
        self._check_memory(info, frames_of, last_window)
        path, threads = str(info.path), self.predictor.settings.workers or 1
        wanted = sorted(last_window)
        held: dict[int, Tensor] = {}
        with closing(
            self.predictor.decoders.stream(path, _decode_parts, info, wanted, threads)
        ) as parts:
            for number, row in enumerate(frames_of):
                while not held.keys() >= set(row):
                    indices, frames_NHWC = next(parts)
                    clip_3NSS = clip_tensors(frames_NHWC, pipeline, [0], 1)[0]
                    held |= {i: clip_3NSS[:, n : n + 1] for n, i in enumerate(indices)}
                yield torch.cat([held[index] for index in row], dim=1)
                for index in set(row):
                    if last_window[index] == number:
                        del held[index]
                if self.on_window:
                    self.on_window(str(info.path), number + 1, len(frames_of))

    def _check_memory(
        self, info: VideoInfo, frames_of: Sequence[Sequence[int]], last_window: Mapping[int, int]
    ) -> None:
        """Refuse windows that share more frames than fit into memory (reason `limit`)."""
        from vtcli.video.decode import DEFAULT_LIMITS

        latest_W = np.maximum.accumulate([max(row) for row in frames_of])
        decoded_W = np.searchsorted(sorted(last_window), latest_W, side="right")
        dropped_W = np.searchsorted(sorted(last_window.values()), np.arange(len(frames_of)))
        frame_bytes = 3 * self.predictor.pipeline.crop_size**2 * 4
        size = int((decoded_W - dropped_W).max()) * frame_bytes
        if size > DEFAULT_LIMITS.max_bytes:
            raise VideoDecodeError(
                info.path,
                "limit",
                f"windows of {self.window:g} s every {self.stride:g} s share frames of "
                f"{size / 2**30:.1f} GiB, more than {DEFAULT_LIMITS.max_bytes / 2**30:.1f} GiB; "
                "use a shorter --window or a longer --stride",
            )


def _probe_times(path: str) -> tuple[VideoInfo, NDArray[np.float64]]:
    """In a decoding process: what a file holds, and when its frames are shown."""
    from vtcli.video.decode import probe
    from vtcli.video.decode_worker import inject_fault
    from vtcli.video.sequential import frame_times

    inject_fault(path)
    info = probe(path)
    return info, frame_times(info)


def _decode_parts(
    info: VideoInfo, indices: Sequence[int], threads: int
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """In a decoding process: frames by number, in order, a few megabytes at a time."""
    from vtcli.video.sequential import stream_frames

    count = max(1, _PART_BYTES // (info.width * info.height * 3))
    frames = stream_frames(info, indices, threads)
    while part := list(islice(frames, count)):
        yield [index for index, _ in part], np.stack([frame for _, frame in part])


def frames_of_window(path: str | Path, pipeline: Pipeline, window: Window, fps: float) -> list[int]:
    """The frames of a window's clip, by their numbers in the video: [T]."""
    try:
        (view,) = plan_views(pipeline, window.frames, fps, 1, 1)
    except InputError as error:
        raise VideoDecodeError(path, "unsupported", str(error)) from error
    return [window.first + index for index in view.frame_indices]


def _return_large_buffers() -> None:
    """Make glibc return the buffers of large frames to the system, which it does at first only.

    It would raise its threshold and keep them, and small allocations between them would make the
    heap grow by gigabytes over a long video in full HD.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 16 << 20)
