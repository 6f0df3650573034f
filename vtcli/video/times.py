"""When the frames of a video are shown, from its timestamps, and the frames of a part in seconds.

Time zero is the presentation time of the first frame, also where a stream starts late.

Shape legend: F frames shown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video import TIME_EPS

NO_TIME = -(2**63)
"""No timestamp, as in libav: smaller than any real timestamp."""

END_SLACK = 1.0
"""Seconds by which a segment may end after its video: annotations round up to whole seconds."""

MAX_CLOCK_JUMP = 10.0
"""A longer gap in a transport or program stream is a clock that was reset, as in ffmpeg."""


def shown_times(
    pts_F: NDArray[np.int64],
    tick: float,
    last_ticks: int,
    rate: float,
    max_gap: float = float("inf"),
) -> NDArray[np.float64]:
    """The start of each frame in seconds after the first, and the end of the last: [F+1].

    `pts_F` are the timestamps in the order in which frames are shown, in units of `tick` seconds;
    the last frame is shown for `last_ticks` (0: as long as the one before it). Where the clock goes
    back, stands still or jumps by more than `max_gap` seconds, frames follow each other at `rate`
    per second (0.0: unknown).
    """
    gaps = np.diff(pts_F).astype(np.float64) * tick
    untimed = pts_F == NO_TIME
    bad = (gaps <= 0) | (gaps > max_gap) | untimed[1:] | untimed[:-1]
    good = gaps[~bad]
    usual = 1 / rate if rate else float(np.median(good)) if len(good) else 0.0
    if bad.any():
        if not usual:
            return np.empty(0)
        times_F = np.concatenate([[0.0], np.cumsum(np.where(bad, usual, gaps))])
    else:
        times_F = (pts_F - pts_F[0]) * tick
    last = last_ticks * tick if last_ticks > 0 else float(gaps[-1]) if len(good) else usual
    if not 0 < last <= max_gap:
        last = usual
    return np.append(times_F, times_F[-1] + last)


def even_times(frames: int, rate: float) -> NDArray[np.float64]:
    """The times of frames at a constant rate, [F+1]; empty where the rate is unknown."""
    known = 0 < rate < float("inf")
    return np.arange(frames + 1) / rate if known else np.empty(0)


def continued(times: NDArray[np.float64], frames: int, rate: float) -> NDArray[np.float64]:
    """The times of `frames` frames, of which those at the end are lost."""
    lost = frames + 1 - len(times)
    if lost <= 0 or not len(times) or not rate:
        return times
    return np.append(times, times[-1] + np.arange(1, lost + 1) / rate)


def are_even(times: NDArray[np.float64], rate: float) -> bool:
    """Whether a constant rate gives the same times, up to the rounding of timestamps."""
    even = even_times(len(times) - 1, rate)
    return len(even) == len(times) and bool(np.abs(times - even).max(initial=0) < 1e-3)


def frames_between(
    times: NDArray[np.float64], start: float | None, end: float | None
) -> tuple[int, int]:
    """The first frame of a segment in seconds, and the one after its last.

    A frame belongs to the segment in which it appears: `start <= time < end`. A segment in which no
    frame appears has the one that is shown at its start. Timestamps are rounded to at most a
    millisecond, so that much is forgiven. Raises `ValueError` for a segment that is outside the
    video by more than `END_SLACK`, or ends before it starts.
    """
    starts_F, duration = times[:-1], float(times[-1])
    begin = 0.0 if start is None else start
    stop = duration if end is None else end
    if not (0 <= begin < duration and begin <= stop + TIME_EPS and stop <= duration + END_SLACK):
        raise ValueError("outside")
    tolerance = min(1e-3, float(np.diff(times).min(initial=1e-3)) / 4) + TIME_EPS
    first = int(np.searchsorted(starts_F, begin - tolerance))
    past = int(np.searchsorted(starts_F, stop - tolerance)) if end is not None else len(starts_F)
    if past <= first:
        first = max(0, int(np.searchsorted(starts_F, begin + tolerance)) - 1)
        past = first + 1
    return first, past


def segment_in_seconds(
    path: Path, times: NDArray[np.float64], seconds: tuple[float | None, float | None]
) -> tuple[int, int]:
    """`frames_between` for a video file or folder.

    Raises `VideoDecodeError`: `unsupported` where frames have no known time, `missing_frames` where
    the segment is outside.
    """
    if not len(times):
        raise VideoDecodeError(
            path,
            "unsupported",
            "does not state its frame rate, so a segment in seconds cannot be located; "
            "re-encode it with a frame rate",
        )
    start, end = seconds
    try:
        return frames_between(times, start, end)
    except ValueError as error:
        raise VideoDecodeError(
            path,
            "missing_frames",
            f"lasts {times[-1]:.2f} s, and its segment is {start or 0:g} s to "
            f"{'the end' if end is None else f'{end:g} s'}; correct the annotation",
        ) from error
