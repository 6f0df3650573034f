"""What counts for the segments of a timeline: heat maps of the windows that lie in them.

Shape legend: T frames of a clip, S crop size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from vtcli.inference.explain import heat_of, integrated_gradients, require_gradients
from vtcli.inference.timeline import TimelinePredictor, frames_of_window
from vtcli.inference.windows import Segment, Timeline, Window
from vtcli.runtime.progress import ProgressCallback
from vtcli.video import TIME_EPS
from vtcli.video.heat import HeatMap, HeatMaps


def explain_segments(
    timeliner: TimelinePredictor, timeline: Timeline, on_window: ProgressCallback
) -> HeatMaps:
    """What speaks for the class of each segment, while it lasts; nothing between segments.

    Each segment is explained in windows that follow each other. `on_window` is called as the
    `on_window` of a `TimelinePredictor`. Raises `UsageError` for a network without gradients.
    """
    from vtcli.video.sequential import frame_times
    from vtcli.video.views import center_box

    net, pipeline, info = timeliner.predictor.net, timeliner.predictor.pipeline, timeline.info
    require_gradients(net)
    windows = [prediction.window for prediction in timeline.windows]
    chosen = [(s, w) for s in timeline.segments for w in windows_in(s, windows)]
    chosen.sort(key=lambda pair: pair[1].start)
    if not chosen:
        return HeatMaps([])
    frames_of = [frames_of_window(info.path, pipeline, w, info.fps) for _, w in chosen]
    times_F = frame_times(info)
    box = center_box(info.height, info.width, pipeline)
    parts: list[tuple[float, float, HeatMap]] = []
    with closing(timeliner.clips(info, frames_of)) as clips:
        for number, ((segment, window), row, clip_3TSS) in enumerate(
            zip(chosen, frames_of, clips, strict=True), 1
        ):
            strength_TGG = heat_of(integrated_gradients(net, clip_3TSS, segment.index))
            heat = HeatMap(times_F[row], strength_TGG, box)
            start, end = max(segment.start, window.start), min(segment.end, window.end)
            parts.append((start, end, heat))
            on_window(timeline.path, number, len(chosen))
    return HeatMaps(parts)


def windows_in(segment: Segment, windows: Sequence[Window]) -> Iterator[Window]:
    """Windows, one after the other, that cover a segment as far as they can: those that begin in
    it, or the one with the nearest center.
    """
    past = segment.start
    found = False
    for window in windows:
        if past - TIME_EPS <= window.start and window.end <= segment.end + TIME_EPS:
            yield window
            past, found = window.end, True
    if not found and windows:
        center = (segment.start + segment.end) / 2
        yield min(windows, key=lambda w: abs((w.start + w.end) / 2 - center))
