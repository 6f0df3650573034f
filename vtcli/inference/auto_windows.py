"""The windows of events where none are stated: as long as the clip that a model samples from a
video of this frame rate, so that the model sees a window whole and as fast as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtcli.errors import VideoDecodeError
from vtcli.inference.windows import SHORTEST
from vtcli.video.sampling import RESAMPLED_FPS

if TYPE_CHECKING:
    from vtcli.inference.arrays import WindowModel
    from vtcli.video.pipeline import Pipeline

SPREAD_SECONDS = 2.0
"""Of a window whose frames the model spreads over any length."""
LONGEST_SECONDS = 10.0
USUAL_FPS = 30.0
"""Frame rate of a source that states none."""
_SPREADING = ("uniform_segments", "segment_positions", "uniform_linspace")

STRIDES_PER_WINDOW = 8
LIVE_STRIDES_PER_WINDOW = 2
"""Fewer, as every window has to be scored in time."""


def clip_seconds(pipeline: Pipeline, fps: float) -> float:
    """Seconds that a clip covers in a video of `fps` frames a second, to the millisecond; a rate
    that cannot be is taken to be `USUAL_FPS`.
    """
    if pipeline.sampling in _SPREADING:
        return SPREAD_SECONDS
    rate = RESAMPLED_FPS
    if pipeline.sampling != "resampled_windows_looped":
        rate = fps if 1 <= fps <= 1000 else USUAL_FPS
    seconds = pipeline.frames * pipeline.stride / rate
    return round(min(max(seconds, SHORTEST), LONGEST_SECONDS), 3)


def windows_for(
    predictor: WindowModel, paths: Sequence[str], stride: float | None = None
) -> tuple[float, float, str]:
    """Length and stride of windows, in seconds, and a sentence that says so: by the frame rate of
    the first file that can be read, unless there is a stride.
    """
    for path in paths:
        try:
            fps = predictor.decoders.call(path, _frame_rate, path)
        except VideoDecodeError:
            continue
        break
    else:
        fps = USUAL_FPS
    window = clip_seconds(predictor.pipeline, fps)
    if stride is None:
        stride = round(max(window / STRIDES_PER_WINDOW, SHORTEST), 3)
    return window, stride, windows_note(predictor.pipeline, fps, window, stride)


def windows_note(pipeline: Pipeline, fps: float, window: float, stride: float) -> str:
    """A sentence for the user."""
    is_spread = pipeline.sampling in _SPREADING or not fps
    rate = "" if is_spread else f" at {fps:.4g} frames/s"
    return (
        f"windows of {window:g}s every {stride:g}s, for clips of {pipeline.frames} frames{rate}; "
        "--window and --stride change them"
    )


def _frame_rate(path: str) -> float:
    """In a decoding process."""
    from vtcli.video.decode import probe
    from vtcli.video.decode_worker import inject_fault

    inject_fault(path)
    return probe(path).fps
