"""Frames through PyAV: the default way to read, right on every container that is let in.

Follows the decoding specification, section 5. First the quick way: seek where the index allows it,
skip what no wanted frame needs, and know each frame by its timestamp. If any wanted frame did
not come, once more the careful way: from the first packet to the last wanted frame, one thread,
nothing skipped. Only wanted frames are converted, straight into the result.

Shape legend: N frames asked for, H height, W width.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.container import open_video, packets
from vtcli.video.probe import FrameIndex, VideoInfo, quarter_turns, time_of

Missing = Literal["strict", "nearest"]

# A decoder holds back up to 16 frames to put them in order: a shorter gap is not worth a seek.
_WORTH_A_SEEK = 16
_NEAREST_SHARE = 0.1


class FramesRepeatedWarning(UserWarning):
    """Frames that could not be decoded were replaced by their neighbors, as was asked."""


def read_with_pyav(
    info: VideoInfo, indices: Sequence[int], threads: int, missing: Missing
) -> NDArray[np.uint8]:
    """Frames `indices` as uint8 RGB [N, H, W, 3], upright.

    With `missing="nearest"` up to a tenth of the frames asked for (rounded up) may be replaced by
    the last good frame before them; a FramesRepeatedWarning says how many were.
    Raises VideoDecodeError `missing_frames` or `corrupt`.
    """
    wanted = _Wanted(info, indices)
    index = info.index
    assert index is not None
    if missing == "strict" and index.timed:
        gone = sorted(p for p in wanted.missing if p >= len(index.pts))
        if gone:
            raise _incomplete(info, gone, len(wanted.rows), [])
    if not (index.timed and _read_quickly(info, index, wanted, threads)):
        _read_carefully(info, index, wanted, missing)
    return wanted.frames_NHWC


def decode_all(info: VideoInfo) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame of a video with its number, in one pass and without keeping any.

    At the end raises VideoDecodeError `missing_frames` or `corrupt` if some did not come, as
    reading them would.
    """
    assert info.index is not None
    missing_F = np.ones(info.frames, dtype=bool)
    damage: list[str] = []
    for position, frame in _good_frames(info, info.index, "strict", damage):
        if position < info.frames:
            missing_F[position] = False
            yield position, frame
    gone = np.flatnonzero(missing_F).tolist()
    if gone:
        raise _incomplete(info, gone, info.frames, damage)


class _Wanted:
    """The frames asked for and the array they are written to."""

    def __init__(self, info: VideoInfo, indices: Sequence[int]) -> None:
        self.frames_NHWC = np.empty((len(indices), info.height, info.width, 3), dtype=np.uint8)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, position in enumerate(indices):
            self.rows[position].append(row)
        self.missing = set(self.rows)
        self._size = (info.width, info.height)
        self._reformatter = VideoReformatter()

    def put(self, position: int, frame: VideoFrame) -> None:
        """Write a decoded frame upright to every row that asked for it."""
        turns = quarter_turns(frame)
        width, height = self._size[::-1] if turns % 2 else self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        first, *others = self.rows[position]
        self.frames_NHWC[first] = np.rot90(rgb, turns)
        for row in others:
            self.frames_NHWC[row] = self.frames_NHWC[first]
        self.missing.discard(position)


def _read_quickly(info: VideoInfo, index: FrameIndex, wanted: _Wanted, threads: int) -> bool:
    """Whether every wanted frame came, each recognized by its timestamp."""
    positions = sorted(p for p in wanted.missing if p < len(index.pts))
    try:
        with open_video(info.path, threads) as (container, stream):
            for key, run in _plan_runs(index, positions):
                landings: set[int] = set()
                if key is not None:
                    landings.update(index.key_pts[: key + 1].tolist())
                    container.seek(int(index.key_pts[key]), stream=stream)
                run_packets = chain(packets(container, stream), [None])
                if not _decode_run(stream, run_packets, landings, run, index, wanted):
                    return False
    except av.error.FFmpegError:
        return False
    return not wanted.missing


def _plan_runs(index: FrameIndex, positions: list[int]) -> list[tuple[int | None, list[int]]]:
    """Group sorted positions into runs, each with the key (in K) to seek to; None: just go on."""
    runs: list[tuple[int | None, list[int]]] = [(None, [])]
    at_packet = 0
    for position in positions:
        key = _key_for(index, position) if index.seekable else 0
        if key > 0 and index.key_packet[key] - at_packet > _WORTH_A_SEEK:
            runs.append((key, []))
        runs[-1][1].append(position)
        if index.seekable:
            at_packet = max(at_packet, int(index.packet[position]))
    return [run for run in runs if run[1]]


def _key_for(index: FrameIndex, position: int) -> int:
    """The last key frame (in K) that lies before a frame both in the file and in time.

    A frame that follows a key frame in the file but is shown before it needs the key frame before.
    """
    in_file = np.searchsorted(index.key_packet, index.packet[position], side="right")
    in_time = np.searchsorted(index.key_pts, index.pts[position], side="right")
    return int(min(in_file, in_time)) - 1


def _decode_run(
    stream: VideoStream,
    run_packets: Iterator[Packet | None],
    landings: set[int],
    run: list[int],
    index: FrameIndex,
    wanted: _Wanted,
) -> bool:
    """Decode up to the last frame of a run, writing the wanted ones.

    After a seek (`landings`: the key packets' timestamps it may land on) the first packet must be
    one of these and come out as a key frame before any other. Where it does not (the seek went
    astray, or decoding recovers only some frames later), the answer is False.
    """
    context = stream.codec_context
    position_of = {int(index.pts[position]): position for position in run}
    last_pts = int(index.pts[run[-1]])
    # H.264 marks the frames that no other refers to; those nobody asked for need no decoding. Only
    # where a packet is a whole frame, not one field of it.
    skips = index.seekable and context.name == "h264"
    first_pts: int | None = None
    for packet in run_packets:
        if landings:
            if packet is None or packet.pts not in landings:
                return False
            first_pts, landings = packet.pts, set()
        if skips and packet is not None:
            context.skip_frame = "DEFAULT" if packet.pts in position_of else "NONREF"
        for frame in stream.decode(packet):
            pts = time_of(frame)
            if first_pts is not None:
                if pts < first_pts:
                    continue  # refers to frames before the seek
                if pts > first_pts or not frame.key_frame:
                    return False
                first_pts = None
            if pts in position_of and not frame.is_corrupt:
                wanted.put(position_of[pts], frame)
            if pts >= last_pts:
                return True
    return True


def _read_carefully(info: VideoInfo, index: FrameIndex, wanted: _Wanted, missing: Missing) -> None:
    """Decode everything from the start; what is damaged is dealt with as `missing` says."""
    damage: list[str] = []
    repeated = 0
    last_good: VideoFrame | None = None
    end: list[tuple[int, VideoFrame | None]] = [(info.frames, None)]
    for position, frame in chain(_good_frames(info, index, missing, damage), end):
        source = last_good or frame
        if missing == "nearest" and source is not None:
            for late in [p for p in wanted.missing if p < position]:
                wanted.put(late, source)
                repeated += 1
        if frame is not None and position in wanted.missing:
            wanted.put(position, frame)
        if not wanted.missing:
            break
        last_good = frame
    asked = len(wanted.rows)
    if wanted.missing:
        raise _incomplete(info, sorted(wanted.missing), asked, damage)
    if repeated > math.ceil(_NEAREST_SHARE * asked):
        raise VideoDecodeError(
            info.path,
            "missing_frames",
            f"has lost {repeated} of the {asked} frames asked for, more than a tenth; "
            "copy or download it again",
            damage,
        )
    if repeated:
        said = f"{info.path}: {repeated} of {asked} frames are lost and repeat their neighbors"
        warnings.warn(said, FramesRepeatedWarning, stacklevel=4)


def _good_frames(
    info: VideoInfo, index: FrameIndex, missing: Missing, damage: list[str]
) -> Iterator[tuple[int, VideoFrame]]:
    """Each frame with its number, without those that may carry traces of damage.

    After a damaged packet every frame up to the next key frame builds on what was lost. What the
    decoder said about damaged packets is appended to `damage`.
    """
    position_of = {int(pts): position for position, pts in enumerate(index.pts)}
    count = 0
    broken = False
    mended_pts: int | None = None
    with open_video(info.path) as (container, stream):
        for packet in chain(packets(container, stream), [None]):
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError as error:
                damage.append(f"pyav: {error}")
                broken, mended_pts = True, None
                if missing == "strict" and not index.timed:
                    return  # what follows can no longer be numbered
                continue
            if broken and mended_pts is None and packet is not None and packet.is_keyframe:
                mended_pts = packet.pts
            for frame in frames:
                if mended_pts is not None and time_of(frame) >= mended_pts:
                    broken = False
                position = position_of.get(time_of(frame)) if index.timed else count
                count += 1
                if position is not None and not broken and not frame.is_corrupt:
                    yield position, frame


def _incomplete(
    info: VideoInfo, gone: list[int], asked: int, damage: list[str]
) -> VideoDecodeError:
    """The error for frames `gone` of the `asked` ones."""
    what = f"frame {gone[0]} of {info.frames}"
    if len(gone) > 1:
        what = f"{len(gone)} of the {asked} frames asked for, the first of them {gone[0]},"
    if damage:
        message = f"is damaged, {what} cannot be decoded; copy or download it again"
        return VideoDecodeError(info.path, "corrupt", message, damage)
    message = f"is cut off or incomplete, {what} cannot be found in it; copy or download it again"
    return VideoDecodeError(info.path, "missing_frames", message)
