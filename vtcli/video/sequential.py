"""Sequential decoding: the presentation times of a video's frames, and selected frames one by one.

`read_frames` returns all requested frames at once; here they are yielded one after the other, so
that a long video needs no more memory than a short one.

Shape legend: F frames shown, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.backends_pyav import decode_all
from vtcli.video.container import open_video, packets
from vtcli.video.orientation import quarter_turns, upright
from vtcli.video.probe import VideoInfo, time_of


def frame_times(info: VideoInfo) -> NDArray[np.float64]:
    """The start of each frame in seconds after the first, and the end of the video: [F+1].

    From the timestamps, which may be unevenly spaced; from the average rate where there are none.
    Raises VideoDecodeError `unsupported` where the file states neither.
    """
    assert info.index is not None
    if not len(info.index.times):
        raise VideoDecodeError(
            info.path,
            "unsupported",
            "states no frame rate, so that frames have no known time; convert it to H.264 in MP4",
        )
    return info.index.times


def stream_frames(
    info: VideoInfo, indices: Iterable[int], threads: int = 1
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames `indices` with their numbers, in order: uint8 RGB [H, W, 3] each, upright.

    The file is decoded once, up to the last requested frame; only if one of them is missing then,
    it is decoded again from the start, without skipping.
    Raises VideoDecodeError `missing_frames` or `corrupt` where a frame cannot be decoded.
    """
    remaining = sorted(set(indices), reverse=True)
    reformatter = VideoReformatter()
    for decoded in (_in_order(info, remaining[::-1], threads), decode_all(info)):
        # In some files the order of frames differs from that of their timestamps.
        early: dict[int, NDArray[np.uint8]] = {}
        requested = set(remaining)
        for position, frame in decoded:
            if position in requested:
                early[position] = _upright_rgb(frame, info, reformatter)
            while remaining and remaining[-1] in early:
                yield remaining[-1], early.pop(remaining[-1])
                remaining.pop()
            if not remaining:
                return


def _in_order(
    info: VideoInfo, positions: list[int], threads: int
) -> Iterator[tuple[int, VideoFrame]]:
    """The frames at these sorted positions, up to the first that is missing or damaged."""
    index = info.index
    assert index is not None
    if not index.timed:
        return
    due = deque((int(index.pts[p]), p) for p in positions if p < len(index.pts))
    requested_pts = {pts for pts, _ in due}
    try:
        with open_video(info.path, threads) as (container, stream):
            context = stream.codec_context
            # H.264 marks non-reference frames, which need no decoding unless they are requested.
            # Only where a packet is a whole frame, not one field of it.
            skips = index.seekable and context.name == "h264"
            for packet in chain(packets(container, stream), [None]):
                if skips and packet is not None:
                    context.skip_frame = "DEFAULT" if packet.pts in requested_pts else "NONREF"
                for frame in stream.decode(packet):
                    pts = time_of(frame)
                    if not due or pts > due[0][0] or (pts == due[0][0] and frame.is_corrupt):
                        return
                    if pts == due[0][0]:
                        yield due.popleft()[1], frame
    except av.error.FFmpegError:
        return


def _upright_rgb(
    frame: VideoFrame, info: VideoInfo, reformatter: VideoReformatter
) -> NDArray[np.uint8]:
    turns = quarter_turns(frame)
    size = (info.height, info.width) if turns % 2 else (info.width, info.height)
    rgb_HWC = reformatter.reformat(frame, *size, "rgb24", threads=1).to_ndarray()
    return upright(rgb_HWC, turns, info.mirrored)
