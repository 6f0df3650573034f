"""The PyAV backend, the default: correct for every container that is accepted.

Follows the decoding specification, section 5. The fast path seeks where the index allows it, skips
packets that no requested frame needs, and identifies each frame by its timestamp. If a requested
frame is missing then, the slow path decodes from the first packet to the last requested frame, in
one thread, without skipping. Only requested frames are converted, one by one.

Shape legend: H height, W width.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Literal, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.container import open_video, packets
from vtcli.video.damage import damage as found_damage
from vtcli.video.damage import listen
from vtcli.video.held import HeldVideo, take
from vtcli.video.orientation import quarter_turns, upright
from vtcli.video.probe import FrameIndex, VideoInfo, time_of

Missing = Literal["strict", "nearest"]

DecodedFrame: TypeAlias = tuple[list[int], NDArray[np.uint8]]
"""The rows that requested a frame, and the frame: RGB [H, W, 3], upright."""

# A decoder delays up to 16 frames to reorder them: a shorter gap does not justify a seek.
_MIN_SEEK_PACKETS = 16
_MAX_REPEATED_FRACTION = 0.1


class FramesRepeatedWarning(UserWarning):
    """Frames that could not be decoded were replaced by their neighbors, as requested."""


def frames_with_pyav(
    info: VideoInfo, indices: Sequence[int], threads: int, missing: Missing
) -> Iterator[DecodedFrame]:
    """Frames `indices`, each once, mostly in the order in which they are shown.

    With `missing="nearest"` up to a tenth of the requested frames (rounded up) may be replaced by
    the last intact frame before them; a FramesRepeatedWarning states how many were.
    Raises VideoDecodeError `missing_frames` or `corrupt`.
    """
    requested = _Requested(info, indices)
    index = info.index
    assert index is not None
    if missing == "strict" and index.timed:
        absent = sorted(p for p in requested.missing if p >= len(index.pts))
        if absent:
            raise _incomplete(info, absent, len(requested.rows), [])
    # What the decoder says about a fast path that fails may be due to the seek.
    with listen(to_log=threads == 1) as heard:
        done = index.timed and (yield from _read_fast(info, index, requested, threads))
    if done:
        found_damage().add(heard)
    else:
        yield from _read_slow(info, index, requested, missing)


def decode_all(info: VideoInfo) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame of a video with its number, in one pass, without holding any in memory.

    At the end raises VideoDecodeError `missing_frames` or `corrupt` if frames are missing, as
    `frames_with_pyav` does.
    """
    assert info.index is not None
    missing_F = np.ones(info.frames, dtype=bool)
    damage: list[str] = []
    for position, frame in _intact_frames(info, info.index, "strict", damage):
        if position < info.frames:
            missing_F[position] = False
            yield position, frame
    absent = np.flatnonzero(missing_F).tolist()
    if absent:
        raise _incomplete(info, absent, info.frames, damage)


class _Requested:
    """The requested frames that are still missing, and how a decoded one is converted."""

    def __init__(self, info: VideoInfo, indices: Sequence[int]) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, position in enumerate(indices):
            self.rows[position].append(row)
        self.missing = set(self.rows)
        self._size = (info.width, info.height)
        self._mirrored = info.mirrored
        self._reformatter = VideoReformatter()

    def take(self, position: int, frame: VideoFrame) -> DecodedFrame:
        """A decoded frame, turned upright, with every row that requested it."""
        turns = quarter_turns(frame)
        width, height = self._size[::-1] if turns % 2 else self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        self.missing.discard(position)
        return self.rows[position], upright(rgb, turns, self._mirrored)


def _read_fast(
    info: VideoInfo, index: FrameIndex, requested: _Requested, threads: int
) -> Generator[DecodedFrame, None, bool]:
    """Whether every requested frame was decoded, each identified by its timestamp."""
    positions = sorted(p for p in requested.missing if p < len(index.pts))
    try:
        with _opened(info, threads) as (container, stream, held):
            for key, run in _plan_runs(index, positions):
                landings = set() if key is None else set(index.key_pts[: key + 1].tolist())
                begun: Sequence[VideoFrame] = ()
                if held is not None:
                    first = 0 if key is None else int(index.key_packet[key])
                    begun, coming = held.from_packet(first)
                else:
                    if key is not None:
                        container.seek(int(index.key_pts[key]), stream=stream)
                    coming = packets(container, stream)
                run_packets = chain(coming, [None])
                run_frames = _decode_run(
                    stream, begun, run_packets, landings, run, index, requested
                )
                if not (yield from run_frames):
                    return False
    except av.error.FFmpegError:
        return False
    return not requested.missing


@contextmanager
def _opened(
    info: VideoInfo, threads: int
) -> Iterator[tuple[InputContainer, VideoStream, HeldVideo | None]]:
    """The file, open: as `probe` has left it, with its packets, or anew."""
    held = take(info.path) if threads == 1 else None
    if held is not None:
        with closing(held.container):
            yield held.container, held.stream, held
    else:
        with open_video(info.path, threads) as (container, stream):
            yield container, stream, None


def _plan_runs(index: FrameIndex, positions: list[int]) -> list[tuple[int | None, list[int]]]:
    """Group sorted positions into runs, each with the key (in K) to seek to; None: no seek."""
    runs: list[tuple[int | None, list[int]]] = [(None, [])]
    at_packet = 0
    for position in positions:
        key = _key_for(index, position) if index.seekable else 0
        if key > 0 and index.key_packet[key] - at_packet > _MIN_SEEK_PACKETS:
            runs.append((key, []))
        runs[-1][1].append(position)
        if index.seekable:
            at_packet = max(at_packet, int(index.packet[position]))
    return [run for run in runs if run[1]]


def _key_for(index: FrameIndex, position: int) -> int:
    """The last key frame (in K) that precedes a frame both in the file and in time.

    A frame after a key frame in the file that is shown before it needs the previous key frame.
    """
    in_file = np.searchsorted(index.key_packet, index.packet[position], side="right")
    in_time = np.searchsorted(index.key_pts, index.pts[position], side="right")
    return int(min(in_file, in_time)) - 1


def _decode_run(
    stream: VideoStream,
    begun: Sequence[VideoFrame],
    run_packets: Iterator[Packet | None],
    landings: set[int],
    run: list[int],
    index: FrameIndex,
    requested: _Requested,
) -> Generator[DecodedFrame, None, bool]:
    """Decode up to the last frame of a run; yields the requested ones, `begun` among them.

    After a seek (`landings`: the timestamps of the key packets that it may land on) the first
    packet must be one of these and be decoded as a key frame before any other. Returns False where
    it is not: the seek failed, or decoding recovers only some frames later.
    """
    context = stream.codec_context
    position_of = {int(index.pts[position]): position for position in run}
    last_pts = int(index.pts[run[-1]])
    # H.264 marks non-reference frames, which need no decoding unless they are requested. Only where
    # a packet is a whole frame, not one field of it.
    skips = index.seekable and context.name == "h264"
    first_pts: int | None = None
    heard = found_damage()

    def take(frames: Sequence[VideoFrame]) -> Generator[DecodedFrame, None, bool | None]:
        """Yields those that are requested; returns how the run ends, None: it goes on."""
        nonlocal first_pts
        for frame in frames:
            pts = time_of(frame)
            if first_pts is not None:
                if pts < first_pts:
                    continue  # references frames before the seek
                if pts > first_pts or not frame.key_frame:
                    return False
                first_pts = None
            if frame.is_corrupt:
                heard.flagged_frames += 1
            elif pts in position_of:
                yield requested.take(position_of[pts], frame)
            if pts >= last_pts:
                return True
        return None

    end = yield from take(begun)
    for packet in run_packets:
        if end is not None:
            return end
        if landings:
            if packet is None or packet.pts not in landings:
                return False
            first_pts, landings = packet.pts, set()
        if skips and packet is not None:
            context.skip_frame = "DEFAULT" if packet.pts in position_of else "NONREF"
        end = yield from take(stream.decode(packet))
    return end is None or end


def _read_slow(
    info: VideoInfo, index: FrameIndex, requested: _Requested, missing: Missing
) -> Iterator[DecodedFrame]:
    """Decode everything from the start; damaged frames are handled as `missing` states."""
    damage: list[str] = []
    repeated = 0
    last_intact: VideoFrame | None = None
    end: list[tuple[int, VideoFrame | None]] = [(info.frames, None)]
    for position, frame in chain(_intact_frames(info, index, missing, damage), end):
        source = last_intact or frame
        if missing == "nearest" and source is not None:
            for late in [p for p in requested.missing if p < position]:
                yield requested.take(late, source)
                repeated += 1
        if frame is not None and position in requested.missing:
            yield requested.take(position, frame)
        if not requested.missing:
            break
        last_intact = frame
    total = len(requested.rows)
    if requested.missing:
        raise _incomplete(info, sorted(requested.missing), total, damage)
    if repeated > math.ceil(_MAX_REPEATED_FRACTION * total):
        raise VideoDecodeError(
            info.path,
            "missing_frames",
            f"has lost {repeated} of the {total} requested frames, more than a tenth; "
            "copy or download it again",
            damage,
        )
    if repeated:
        text = f"{info.path}: {repeated} of {total} frames are lost and repeat their neighbors"
        warnings.warn(text, FramesRepeatedWarning, stacklevel=4)


def _intact_frames(
    info: VideoInfo, index: FrameIndex, missing: Missing, damage: list[str]
) -> Iterator[tuple[int, VideoFrame]]:
    """Each frame with its number, without those that may be affected by damage.

    After a damaged packet every frame up to the next key frame depends on what was lost. The
    decoder's messages about damaged packets are appended to `damage`.
    """
    position_of = {int(pts): position for position, pts in enumerate(index.pts)}
    count = 0
    broken = False
    recovery_pts: int | None = None
    with open_video(info.path) as (container, stream):
        for packet in chain(packets(container, stream), [None]):
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError as error:
                damage.append(f"pyav: {error}")
                found_damage().failed_packets += 1
                broken, recovery_pts = True, None
                if missing == "strict" and not index.timed:
                    return  # later frames can no longer be numbered
                continue
            if broken and recovery_pts is None and packet is not None and packet.is_keyframe:
                recovery_pts = packet.pts
            for frame in frames:
                if recovery_pts is not None and time_of(frame) >= recovery_pts:
                    broken = False
                position = position_of.get(time_of(frame)) if index.timed else count
                count += 1
                found_damage().flagged_frames += frame.is_corrupt
                if position is not None and not broken and not frame.is_corrupt:
                    yield position, frame


def _incomplete(
    info: VideoInfo, absent: list[int], requested: int, damage: list[str]
) -> VideoDecodeError:
    """The error for frames `absent` of the `requested` ones."""
    what = f"frame {absent[0]} of {info.frames}"
    if len(absent) > 1:
        what = f"{len(absent)} of the {requested} requested frames, starting with {absent[0]},"
    if damage:
        message = f"is damaged, {what} cannot be decoded; copy or download it again"
        return VideoDecodeError(info.path, "corrupt", message, damage)
    message = f"is truncated or incomplete, {what} cannot be found; copy or download it again"
    return VideoDecodeError(info.path, "missing_frames", message)
