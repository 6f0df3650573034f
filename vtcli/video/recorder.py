"""Packets of a live stream, kept as they are, and clips that are written from them.

A stream is recorded in pieces that begin with a key frame. Packets of a codec that players expect
in MP4 are copied; others are encoded as H.264. The sound is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vtcli.errors import DataError
from vtcli.runtime.files import DISK_FULL, atomic_write, write_error
from vtcli.video import TIME_EPS
from vtcli.video.mp4 import H264, open_mp4
from vtcli.video.times import MAX_CLOCK_JUMP

COPIED = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
"""Codecs whose packets are copied into a clip."""

_LEAST_SECONDS, _MOST_SECONDS = 0.5, 10.0  # of a piece
_MOST_BYTES = 32 << 20
_DESCRIPTION = "nut"  # the format that changes nothing of the parameters
_WITHOUT_RATE = 25.0


@dataclass(frozen=True)
class Recorded:
    """A packet: its content, times in ticks of its stream, and whether decoding can begin here."""

    data: bytes
    pts: int
    dts: int
    duration: int
    is_key: bool


@dataclass(frozen=True)
class Recording:
    """A piece of a stream from `start` to `end` in seconds.

    Pieces of one `run` (connection, part of it) follow each other without a gap; only one that
    `is_key` can be the first of a clip. `description` is a file that states the codec parameters,
    empty but for the first piece; `zero` are the seconds at which a time stamp of zero is shown.
    """

    run: tuple[int, int]
    start: float
    end: float
    is_key: bool
    description: bytes
    tick: Fraction
    zero: float
    packets: tuple[Recorded, ...]

    @property
    def size(self) -> int:
        """Bytes of the packets."""
        return sum(len(packet.data) for packet in self.packets)

    def moved(self, seconds: float, connection: int, description: bytes) -> Recording:
        """The same piece so many seconds later, of this connection and with this description."""
        return replace(
            self,
            start=self.start + seconds,
            end=self.end + seconds,
            zero=self.zero + seconds,
            run=(connection, self.run[1]),
            description=description,
        )


class Recorder:
    """Divides the packets of a stream into pieces."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._tick = Fraction(stream.time_base or Fraction(1, 90_000))
        rate = float(stream.average_rate or stream.guessed_rate or _WITHOUT_RATE)
        self._usual = max(1, round(1 / rate / self._tick))
        self._description, self._described = b"", False
        self._packets: list[Recorded] = []
        self._pieces: list[Recording] = []
        self._run = self._bytes = 0
        self._zero = 0.0

    def add(self, packet: Packet, zero: float) -> None:
        """Keep a packet; `zero` are the seconds at which a time stamp of zero is shown."""
        if not self._description:
            if not packet.is_keyframe:
                return  # joined between two key frames
            self._description = describe(self._stream, packet)
        last = self._packets[-1] if self._packets else None
        after = last.dts + self._usual if last else 0
        dts = next((t for t in (packet.dts, packet.pts) if t is not None), after)
        pts = dts if packet.pts is None else packet.pts
        if last and not 0 < (dts - last.dts) * self._tick <= MAX_CLOCK_JUMP:
            self._cut()
            self._run += 1
        elif last and self._is_long(dts - self._packets[0].dts, packet.is_keyframe):
            self._cut()
        self._zero = zero
        duration = packet.duration or self._usual
        self._packets.append(Recorded(bytes(packet), pts, dts, duration, packet.is_keyframe))
        self._bytes += packet.size

    def take(self) -> list[Recording]:
        """The pieces that are complete."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> list[Recording]:
        """The remaining pieces."""
        self._cut()
        return self.take()

    def _is_long(self, ticks: int, is_key: bool) -> bool:
        seconds = ticks * self._tick
        if is_key:
            return seconds >= _LEAST_SECONDS
        return seconds >= _MOST_SECONDS or self._bytes >= _MOST_BYTES

    def _cut(self) -> None:
        if not self._packets:
            return
        packets = tuple(self._packets)
        start = min(p.pts for p in packets) * self._tick
        end = max(p.pts + p.duration for p in packets) * self._tick
        self._pieces.append(
            Recording(
                (0, self._run),
                float(start) + self._zero,
                float(end) + self._zero,
                packets[0].is_key,
                b"" if self._described else self._description,
                self._tick,
                self._zero,
                packets,
            )
        )
        self._packets, self._bytes, self._described = [], 0, True


def describe(stream: VideoStream, packet: Packet) -> bytes:
    """A file with one packet that states the codec parameters of a stream unchanged."""
    file = io.BytesIO()
    with av.open(file, "w", format=_DESCRIPTION) as container:
        first = Packet(bytes(packet))
        first.stream = container.add_stream_from_template(stream, opaque=True)
        first.pts = first.dts = 0
        first.time_base, first.is_keyframe = stream.time_base or Fraction(1), True
        container.mux(first)
    return file.getvalue()


def write_clip(pieces: Sequence[Recording], start: float, end: float, path: Path) -> None:
    """Write the packets of one run from the last key frame before `start` until `end`, as MP4.

    Raises `DataError`.
    """
    tick = pieces[0].tick
    shown = [(packet, piece) for piece in pieces for packet in piece.packets]
    keys = [n for n, (packet, _) in enumerate(shown) if packet.is_key]
    first = max((n for n in keys if _seconds(*shown[n]) <= start + TIME_EPS), default=keys[0])
    last = max((n for n, one in enumerate(shown) if _seconds(*one) < end), default=first)
    chosen = [packet for packet, _ in shown[first : max(first, last) + 1]]
    try:
        with (
            av.open(io.BytesIO(pieces[0].description), format=_DESCRIPTION) as described,
            atomic_write(path, sum(len(packet.data) for packet in chosen)) as part,
            open_mp4(part) as target,
        ):
            stream = described.streams.video[0]
            write = _copy if stream.codec_context.codec.canonical_name in COPIED else _encode
            write(_packets(chosen, tick), stream, 1 / (chosen[0].duration * tick), target)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise write_error(path, error) from error
        raise DataError(f"{path}: the stream cannot be written as MP4 ({error})") from error


def _seconds(packet: Recorded, piece: Recording) -> float:
    return piece.zero + float(packet.pts * piece.tick)


def _packets(recorded: Sequence[Recorded], tick: Fraction) -> Iterator[Packet]:
    """The packets; the first one is shown at zero."""
    for one in recorded:
        packet = Packet(one.data)
        packet.pts, packet.dts = one.pts - recorded[0].pts, one.dts - recorded[0].pts
        packet.duration, packet.time_base = one.duration, tick
        packet.is_keyframe = one.is_key
        yield packet


def _copy(
    packets: Iterator[Packet], stream: VideoStream, rate: Fraction, target: OutputContainer
) -> None:
    into = target.add_stream_from_template(stream, opaque=True)
    for packet in packets:
        packet.stream = into
        target.mux(packet)


def _encode(
    packets: Iterator[Packet], stream: VideoStream, rate: Fraction, target: OutputContainer
) -> None:
    into: VideoStream | None = None
    for packet in chain(packets, [None]):
        for frame in stream.codec_context.decode(packet):
            if into is None:
                into = target.add_stream("libx264", rate=rate, options=dict(H264))
                into.width, into.height = frame.width // 2 * 2, frame.height // 2 * 2
                into.pix_fmt = "yuv420p"
                into.codec_context.time_base = Fraction(frame.time_base or 1)
            even = frame.reformat(into.width, into.height, "yuv420p")
            even.pts, even.time_base = frame.pts, frame.time_base
            target.mux(into.encode(even))
    if into is not None:
        target.mux(into.encode(None))
