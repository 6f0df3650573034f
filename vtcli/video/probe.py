"""The properties of a video file: size, frame rate and the index that frame numbers refer to.

Follows the decoding specification, sections 1 and 5. One pass over the packets, which decodes only
the first frame, determines which frames are shown and in which order. Where the timestamps are not
sufficient (raw streams, packed B-frames, hidden frames), the frames are counted by decoding.

Shape legend: F frames shown, P packets stored, K key packets.
"""

from __future__ import annotations

import os
from array import array
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError
from vtcli.video.container import checked_path, decode, hide_media, open_video, packets
from vtcli.video.damage import damage, listen, without_log
from vtcli.video.held import holder_here
from vtcli.video.joined import begins_anew
from vtcli.video.last_packet import RAW, LastPackets
from vtcli.video.limits import DEFAULT_LIMITS, Limits, check_cost, check_size
from vtcli.video.orientation import askew_degrees, is_mirrored, quarter_turns
from vtcli.video.remote import RemotePath
from vtcli.video.stated import missing_end, missing_frames
from vtcli.video.times import MAX_CLOCK_JUMP, NO_TIME, continued, even_times, shown_times

# Containers in which each packet is one whole frame with its own timestamp: seeking is safe.
SEEKABLE = frozenset({"mov", "matroska"})
# No codec reorders frames further than its 16 frame buffers allow; a larger jump is a clock that
# was reset within the file.
_MAX_REORDER = 32
# Containers whose clock may be reset within a file.
_DISCONTINUOUS = frozenset({"mpegts", "mpeg"})
# An MPEG-4 packet of fewer bytes may be a placeholder ("not coded") that is not shown.
_TINY_PACKET_BYTES = 16
_NO_FRAME = "has no frame that can be decoded; copy or download it again"


def _empty() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FrameIndex:
    """Maps frame numbers to the frames of a file, and to their times.

    `timed`: a frame is identified by its timestamp, else by counting decoded frames. `pts` [F] are
    the timestamps in presentation order; it is shorter than the frame count where the end of the
    file is missing. `times` [F+1] are the starts of the frames in seconds after the first, and the
    end of the last; empty where the file states neither timestamps nor a rate.
    `packet` [F], the position of each frame's packet in the file's video stream, and `key_pts` [K]
    and `key_packet` [K] of the key packets are set only where seeking is safe. `any_hidden`: the
    file stores frames that are not to be shown (an edit list).
    """

    timed: bool
    pts: NDArray[np.int64] = field(default_factory=_empty)
    packet: NDArray[np.int64] = field(default_factory=_empty)
    key_pts: NDArray[np.int64] = field(default_factory=_empty)
    key_packet: NDArray[np.int64] = field(default_factory=_empty)
    any_hidden: bool = False
    times: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def seekable(self) -> bool:
        """Whether decoding may start at a key packet instead of the beginning."""
        return len(self.key_pts) > 0


@dataclass(frozen=True)
class VideoInfo:
    """The result of `probe`. `width` and `height` are those of the upright frames, in pixels.

    `rotation` is the counter-clockwise rotation in degrees (0, 90, 180 or 270) that makes stored
    frames upright; `duration` is that of the frames, in seconds (0.0: unknown); `fps` is the
    average rate, 0.0 where the file states none. `exact` is False where frames have no usable
    timestamps and are numbered by counting. `mirrored`: stored frames are to be flipped upside down
    before they are rotated. `warnings`: signs of damage, one sentence each.
    """

    path: Path
    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    duration: float
    codec: str
    container: str
    exact: bool
    mirrored: bool = False
    warnings: tuple[str, ...] = ()
    index: FrameIndex | None = field(default=None, repr=False, compare=False)


def probe(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Count and describe the frames of a local video file; decodes a single frame.

    Raises VideoDecodeError with the reason `not_found`, `not_video`, `no_video_stream`,
    `unsupported`, `corrupt` or `limit`.
    """
    file = checked_path(path)
    try:
        with listen() as heard:
            info = _probe(file, limits)
        info = replace(info, warnings=heard.sentences())
        holder = holder_here()
        if holder is not None and info.warnings:
            holder.release()
        return info
    except (VideoDecodeError, MemoryError):
        raise
    except Exception as error:
        raise VideoDecodeError(
            file,
            "corrupt",
            f"cannot be decoded ({error}); copy or download it again",
            [f"pyav: {error}"],
        ) from error


@dataclass
class _Packets:
    """One row per stored packet, in decoding order."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    key: array[int] = field(default_factory=lambda: array("b"))
    discard: array[int] = field(default_factory=lambda: array("b"))
    ticks: array[int] = field(default_factory=lambda: array("q"))
    place: array[int] = field(default_factory=lambda: array("q"))
    flagged: list[int] = field(default_factory=list)
    any_not_shown: bool = False
    lost: int = 0

    def add(self, packet: Packet, codec: str) -> None:
        if packet.is_corrupt:
            self.flagged.append(len(self.pts))
        self.pts.append(time_of(packet))
        self.dts.append(NO_TIME if packet.dts is None else packet.dts)
        self.key.append(packet.is_keyframe)
        self.discard.append(packet.is_discard)
        self.place.append(-1 if packet.pos is None else packet.pos)
        self.ticks.append(packet.duration or 0)
        self.any_not_shown |= (codec == "mpeg4" and packet.size < _TINY_PACKET_BYTES) or (
            codec == "vp8" and not memoryview(packet)[0] & 0x10  # the show_frame bit, RFC 6386 9.1
        )

    def damaged(self, path: Path, family: str) -> int:
        """How many packets are flagged, except where streams were joined: there the clock goes
        back, or all counts of packets of a transport stream begin anew.
        """
        return sum(not self._joined_after(n, path, family) for n in self.flagged)

    def _joined_after(self, number: int, path: Path, family: str) -> bool:
        times = [t for t in self.dts[number : number + 3] if t != NO_TIME]
        if times != sorted(times):
            return True
        if family != "mpegts" or isinstance(path, RemotePath):
            return False
        following = range(number + 1, min(number + 3, len(self.key)))
        return any(
            self.key[n] and self.place[n] > 0 and begins_anew(path, self.place[n])
            for n in following
        )


def _probe(path: Path, limits: Limits) -> VideoInfo:
    rows, last = _Packets(), LastPackets()
    # Packets of a remote file may be without contents (`hide_media`).
    holder = None if isinstance(path, RemotePath) else holder_here()
    if holder is not None:
        holder.begin(path)
    first: VideoFrame | None = None
    is_hidden = False
    with open_video(path) as (container, stream), ExitStack() as hidden:
        codec = stream.codec_context.codec.canonical_name
        check_size(path, stream.width, stream.height, limits)
        family = container.format.name.split(",")[0]
        for packet in packets(container, stream):
            if holder is not None:
                holder.add(packet)
            if first is None and (begun := decode(stream, packet)):
                first = begun[0]
                if holder is not None:
                    holder.decoded(begun)
                is_hidden = hide_media(container, stream)
                if is_hidden:  # libav's parser misses the contents
                    hidden.enter_context(without_log())
            rows.add(packet, codec)
            if family in RAW:
                last.add(packet)
            if len(rows.pts) > limits.max_frames:
                raise VideoDecodeError(
                    path, "limit", f"has over {limits.max_frames} frames; split it first"
                )
        hidden.close()
        first = first or next(iter(decode(stream, None) or ()), None)
        last.note_damage(stream)
        if is_hidden:
            keys = {entry.timestamp for entry in stream.index_entries if entry.is_keyframe}
            rows.key = array("b", [dts in keys for dts in rows.dts])
        if family == "mov" and len(stream.index_entries) > len(rows.pts):
            # Of these containers only MP4 lists the packets that a truncated file has lost.
            listed = sum(entry.size > 0 for entry in stream.index_entries)
            rows.lost = max(0, listed - len(rows.pts))
            if rows.lost:
                damage().notes.append(f"{rows.lost} of the {listed} frames in the index are lost")
        damage().flagged_packets += rows.damaged(path, family)
        _note_length(path, family, stream, rows)
        check_cost(path, stream.width * stream.height * len(rows.pts), limits)
        if first is None or not rows.pts:
            raise VideoDecodeError(path, "corrupt", _NO_FRAME)
        check_size(path, first.width, first.height, limits)
        clock = _Clock(family, float(stream.time_base or 0), _average_rate(stream, family))
        frames, index = _frame_index(path, rows, first, clock)
        if not frames:
            raise VideoDecodeError(path, "corrupt", _NO_FRAME)
        info = _describe(path, container, stream, first, frames, index, clock.rate)
        if holder is not None and index.seekable:
            holder.keep(container, stream)
        return info


@dataclass(frozen=True)
class _Clock:
    """How a stream states time: its container, seconds per tick, and average rate (0.0: none)."""

    family: str
    tick: float
    rate: float

    def times(self, pts_F: NDArray[np.int64], last_ticks: int, frames: int) -> NDArray[np.float64]:
        """The times of `frames` frames [F+1], of which the last ones may have no timestamp."""
        if not len(pts_F) or not self.tick:
            return even_times(frames, self.rate)
        max_gap = MAX_CLOCK_JUMP if self.family in _DISCONTINUOUS else float("inf")
        times = shown_times(pts_F, self.tick, last_ticks, self.rate, max_gap)
        return continued(times, frames, self.rate)


def _average_rate(stream: VideoStream, family: str) -> float:
    """The rate that the container states; of a raw stream, whose container states none, and of DV,
    the one that the codec states.
    """
    coded = stream.codec_context.framerate if family in RAW or family == "dv" else None
    rate = coded or stream.average_rate or stream.guessed_rate
    return float(rate) if rate else 0.0


def _note_length(path: Path, family: str, stream: VideoStream, rows: _Packets) -> None:
    """Note where the container states more than there is."""
    ends_early = "" if isinstance(path, RemotePath) else missing_end(path, family)
    stored = max(rows.dts, default=-1) + 1 if family == "avi" else len(rows.pts)
    lacks = "" if rows.lost else missing_frames(family, stream, stored, sum(rows.ticks))
    damage().notes.extend(note for note in (ends_early, lacks) if note)


def _frame_index(
    path: Path, rows: _Packets, first: VideoFrame, clock: _Clock
) -> tuple[int, FrameIndex]:
    """The number of frames and their index, from the packets alone if these are sufficient."""
    family = clock.family
    pts_P = np.array(rows.pts, dtype=np.int64)
    shown_P = ~np.array(rows.discard, dtype=bool)
    ticks_P = np.array(rows.ticks, dtype=np.int64)
    # Outside MP4 and Matroska the two fields of an interlaced frame may be two packets.
    fields = first.interlaced_frame and family not in SEEKABLE
    if rows.any_not_shown or fields or not (family == "avi" or _sorts_correctly(pts_P)):
        pts_F = _pts_by_decoding(path)
        timed = family != "avi" and NO_TIME not in pts_F and bool((np.diff(pts_F) > 0).all())
        frames = len(pts_F) + rows.lost
        times = clock.times(pts_F, 0, frames)
        return frames, FrameIndex(timed, pts_F if timed else _empty(), times=times)
    if family == "avi":
        # AVI has no presentation timestamps: one packet is one frame, numbered in decoding order.
        # Its decoding timestamps count the frames that were dropped, too.
        frames = int(shown_P.sum())
        dts_F = np.sort(np.array(rows.dts, dtype=np.int64)[shown_P])
        return frames, FrameIndex(timed=False, times=clock.times(dts_F, 0, frames))
    key_packet_K = np.flatnonzero(np.array(rows.key, dtype=bool))
    undecodable_P = _undecodable(pts_P, key_packet_K, first)
    shown_P &= ~undecodable_P
    if (early := int(undecodable_P.sum())) > _MAX_REORDER:
        damage().notes.append(f"{early} frames precede the first key frame and cannot be decoded")
    frames = int(shown_P.sum()) + rows.lost
    if rows.lost:
        # A lost packet is decoded after the last one found and cannot be shown before it: up to
        # there the numbering is certain.
        shown_P &= pts_P <= rows.dts[-1]
    packet_F = np.flatnonzero(shown_P)
    packet_F = packet_F[np.argsort(pts_P[packet_F])]
    pts_F = pts_P[packet_F]
    times = clock.times(pts_F, int(ticks_P[packet_F[-1]]) if len(packet_F) else 0, frames)
    if family not in SEEKABLE or (np.diff(pts_P[key_packet_K]) <= 0).any():
        return frames, FrameIndex(True, pts_F, times=times)
    any_hidden = bool(rows.discard.count(1))
    return frames, FrameIndex(
        True, pts_F, packet_F, pts_P[key_packet_K], key_packet_K, any_hidden, times
    )


def _sorts_correctly(pts_P: NDArray[np.int64]) -> bool:
    """Whether sorting by timestamp gives the order in which the decoder returns frames."""
    order_P = np.argsort(pts_P, kind="stable")
    sorted_P = pts_P[order_P]
    if sorted_P[0] == NO_TIME or (np.diff(sorted_P) == 0).any():
        return False
    return int(np.abs(order_P - np.arange(len(pts_P))).max()) <= _MAX_REORDER


def _undecodable(
    pts_P: NDArray[np.int64], key_packet_K: NDArray[np.int64], first: VideoFrame
) -> NDArray[np.bool_]:
    """Packets at the start of a trimmed file whose reference frames were removed.

    No player shows them: they precede the first key frame, in the file or in time.
    """
    if not len(key_packet_K) or first.pts is None:
        return np.zeros(len(pts_P), dtype=bool)
    return pts_P < min(first.pts, pts_P[key_packet_K[0]])


def _pts_by_decoding(path: Path) -> NDArray[np.int64]:
    """The timestamp of every frame that the decoder returns, in its order."""
    pts = array("q")
    with open_video(path) as (container, stream):
        for packet in chain(packets(container, stream), [None]):
            frames = decode(stream, packet) or ()
            damage().flagged_frames += sum(frame.is_corrupt for frame in frames)
            pts.extend(time_of(frame) for frame in frames)
    return np.array(pts, dtype=np.int64)


def _describe(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    frames: int,
    index: FrameIndex,
    rate: float,
) -> VideoInfo:
    turns = quarter_turns(first)
    askew = askew_degrees(first)
    if askew is not None:
        damage().notes.append(
            f"frames are to be shown turned by {askew} degrees, but are turned by {90 * turns}: "
            "only quarter turns are applied"
        )
    size = (first.height, first.width) if turns % 2 else (first.width, first.height)
    names = container.format.name.split(",")
    suffix = path.suffix[1:].lower()
    return VideoInfo(
        path=path,
        frames=frames,
        fps=rate,
        width=size[0],
        height=size[1],
        rotation=90 * turns,
        duration=float(index.times[-1]) if len(index.times) else 0.0,
        codec=stream.codec_context.codec.canonical_name,
        container=suffix if suffix in names else names[0],
        exact=index.timed,
        mirrored=is_mirrored(first),
        index=index,
    )


def time_of(timed: VideoFrame | Packet) -> int:
    """The presentation timestamp in the stream's time base, or NO_TIME."""
    return NO_TIME if timed.pts is None else timed.pts
