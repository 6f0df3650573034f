"""Frames of a live source as they come: a pipe, a network stream, a camera or a growing file.

Each connection is decoded in order, by the process that opens it. Time zero is its first frame,
and where its clock goes back, stands still or jumps, frames follow each other at the stated rate,
as for files (`vtcli.video.times`).
"""

from __future__ import annotations

import os
import platform
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtcli.errors import UsageError, VideoDecodeError
from vtcli.video.container import FORMATS
from vtcli.video.limits import DEFAULT_LIMITS, check_size
from vtcli.video.orientation import is_mirrored, quarter_turns, upright
from vtcli.video.times import MAX_CLOCK_JUMP

Kind: TypeAlias = Literal["pipe", "network", "camera", "file"]

SILENCE_SECONDS = 10.0
"""Without a byte for so long, a network stream is taken to have broken off."""

GROWTH_SECONDS = 5.0
"""A file that has not grown for so long has ended."""

_PROTOCOLS = "http,https,tcp,udp,rtp,rtsp,rtsps,srtp,tls,crypto"
_STREAM_FORMATS = f"{FORMATS},hls,rtsp,sdp,rtp,mpjpeg,mjpeg,live_flv"
# Of the start of a stream that is read to find its properties.
_ANALYZED_MICROSECONDS = 1_000_000
_POLL_SECONDS = 0.1
_CONTINUOUS = ("matroska", "mov")
_GUESSED_RATE = 25.0
_FIXES: Mapping[Kind, str] = {
    "pipe": "pipe MPEG-TS or Matroska, such as from ffmpeg -i INPUT -c copy -f mpegts -",
    "file": "use MPEG-TS, Matroska or FLV, or leave out --live for a complete file",
    "network": "check the address",
    "camera": "check its number and permissions",
}


def kind_of(source: str) -> Kind:
    """What a source is; raises `UsageError` for anything that `--live` does not take."""
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if source == "-":
        return "pipe"
    if scheme in ("http", "https", "rtsp", "rtsps"):
        return "network"
    if re.fullmatch(r"camera:\d+|/dev/video\d+", source):
        return "camera"
    if scheme or source.startswith("camera:"):
        raise UsageError(
            f"--live takes -, http://, https:// or rtsp:// streams, camera:0, /dev/video0 or a "
            f"file, not '{source}'"
        )
    if os.path.exists(source) and stat.S_ISFIFO(os.stat(source).st_mode):
        return "pipe"
    return "file"


@dataclass(frozen=True)
class Opening:
    """How a connection is opened and read.

    `stop` ends it; `on_wait` is called again and again while it waits. `descriptor` is that of a
    pipe that is open, and a file that has not grown for `growth` seconds has ended.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    on_wait: Callable[[], None] = lambda: None
    descriptor: int | None = None
    growth: float = GROWTH_SECONDS


@dataclass(frozen=True)
class LiveFrame:
    """A frame shown `time` seconds after the first of its connection; `arrived` is the
    `time.monotonic` at which it was decoded.
    """

    time: float
    arrived: float
    frame: VideoFrame


class Connection:
    """An open source; iterate over its frames once. Raises `VideoDecodeError`.

    `fps` is the stated average rate (0.0: none), `end` the time at which the last frame that was
    yielded ends. Iteration ends where the source does or the stop of the `opening` is set.
    `complete` tells whether that was the end: of a network source only where it stated its size, of
    a camera never. `on_packet`, where it is set, receives each packet after its frames, and the
    seconds at which a time stamp of zero is shown.
    """

    on_packet: Callable[[Packet, float], None] | None = None

    def __init__(self, source: str, opening: Opening) -> None:
        self.source, self.opening, self.kind = source, opening, kind_of(source)
        self.stop = opening.stop
        self.end = 0.0
        self._zero = 0.0
        self._closing = ExitStack()
        try:
            self._container = self._open()
            self._stream = self._video_stream()
            check_size(source, self._stream.width, self._stream.height, DEFAULT_LIMITS)  # type: ignore[arg-type]
        except BaseException:
            self._closing.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0
        self.size: tuple[int, int] | None = None
        self._mirrored = False
        self._reformatter = VideoReformatter()

    @property
    def complete(self) -> bool:
        """Whether a source whose frames have ended has delivered all that there is."""
        if self.kind == "network":
            return self._container.size > 0
        return self.kind != "camera"

    @property
    def stream(self) -> VideoStream:
        """The video stream."""
        return self._stream

    def close(self) -> None:
        """Close the source."""
        self._closing.close()

    def __iter__(self) -> Iterator[LiveFrame]:
        tick = float(self._stream.time_base or 0)
        family = self._container.format.name.split(",")[0]
        max_gap = float("inf") if family in _CONTINUOUS else MAX_CLOCK_JUMP
        clock = _Clock(tick, self.fps, max_gap)
        for frame in self._frames():
            if self.size is None:
                if frame.is_corrupt:
                    continue  # joined between two key frames
                turns = quarter_turns(frame)
                sides = (frame.width, frame.height)
                self.size = sides[::-1] if turns % 2 else sides
                self._mirrored = is_mirrored(frame)
            shown = clock.time_of(frame.pts)
            duration = (frame.duration or 0) * tick
            self.end = shown + (duration if 0 < duration <= max_gap else clock.usual)
            self._zero = shown - (frame.pts or 0) * tick
            yield LiveFrame(shown, time.monotonic(), frame)

    def rgb(self, frame: VideoFrame) -> NDArray[Any]:
        """A frame of this connection: uint8 RGB [H, W, 3], upright, all of the first one's size."""
        assert self.size is not None
        turns = quarter_turns(frame)
        width, height = self.size[::-1] if turns % 2 else self.size
        rgb_HWC = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return upright(rgb_HWC, turns, self._mirrored)

    def _frames(self) -> Iterator[VideoFrame]:
        try:
            for packet in self._container.demux(self._stream):
                if self.stop.is_set():
                    return
                self.opening.on_wait()
                try:
                    yield from self._stream.decode(packet)
                except av.error.EOFError:
                    return
                except av.error.InvalidDataError:
                    continue  # a damaged packet; the next key frame recovers
                if self.on_packet is not None and packet.size:
                    self.on_packet(packet, self._zero)
        except (av.error.FFmpegError, OSError) as error:
            if not self.stop.is_set() and not isinstance(error, av.error.EOFError):
                raise self._broken(error) from error

    def _open(self) -> InputContainer:
        options = {
            "protocol_whitelist": _PROTOCOLS if self.kind == "network" else "file",
            "format_whitelist": _STREAM_FORMATS if self.kind == "network" else FORMATS,
            "analyzeduration": str(_ANALYZED_MICROSECONDS),
        }
        try:
            container: InputContainer
            if self.kind == "camera":
                container = _open_camera(self.source)
            elif self.kind == "network":
                is_rtsp = self.source.lower().startswith("rtsp")
                options |= {"rtsp_transport": "tcp"} if is_rtsp else {"seekable": "0"}
                container = av.open(
                    self.source, "r", container_options=options, timeout=SILENCE_SECONDS
                )
            else:
                file = self._closing.enter_context(_Bytes(self.source, self.kind, self.opening))
                container = av.open(file, "r", container_options=options)
        except VideoDecodeError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._refusal(error) from error
        self._closing.callback(container.close)
        return container

    def _video_stream(self) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise VideoDecodeError(
                self.source, "no_video_stream", "has no video stream; use a source with one"
            )
        stream.codec_context.thread_type = "SLICE"  # frame threads would delay frames
        return stream

    def _broken(self, error: Exception) -> VideoDecodeError:
        why = getattr(error, "strerror", None) or error
        return VideoDecodeError(self.source, "io_error", f"broke off ({why}); {_FIXES[self.kind]}")

    def _refusal(self, error: Exception) -> VideoDecodeError:
        why = getattr(error, "strerror", None) or str(error)
        if self.kind == "pipe":
            message = f"has no video in a container that can be read in order; {_FIXES[self.kind]}"
            name = "standard input" if self.source == "-" else self.source
            return VideoDecodeError(name, "not_video", message, [str(error)])
        if self.kind == "file":
            message = f"is not a video that can be read while it grows; {_FIXES[self.kind]}"
            return VideoDecodeError(self.source, "not_video", message, [str(error)])
        message = f"cannot be opened ({why}); {_FIXES[self.kind]}"
        return VideoDecodeError(self.source, "not_found", message, [str(error)])


class _Clock:
    """The times of frames that come one by one, by the rule of `vtcli.video.times.shown_times`."""

    def __init__(self, tick: float, rate: float, max_gap: float) -> None:
        self.tick, self.max_gap = tick, max_gap
        self.usual = 1 / rate if rate else 1 / _GUESSED_RATE
        self._has_rate = rate > 0
        self._base: tuple[float, int] | None = None  # a time and its timestamp
        self._last: tuple[float, int | None] | None = None

    def time_of(self, pts: int | None) -> float:
        """Seconds after the first frame."""
        if self._last is None:
            shown = 0.0
        else:
            before, last = self._last
            gap = self.tick * (pts - last) if pts is not None and last is not None else 0.0
            if 0 < gap <= self.max_gap and self._base is not None and pts is not None:
                shown = self._base[0] + (pts - self._base[1]) * self.tick
                self.usual = self.usual if self._has_rate else gap
            else:
                shown, self._base = before + self.usual, None
        if self._base is None and pts is not None:
            self._base = (shown, pts)
        self._last = (shown, pts)
        return shown


class _Bytes:
    """The bytes of a pipe, or of a file that may still grow, as libav reads them: in order.

    A read returns what there is as soon as there is any, and nothing at the end or once it is
    stopped.
    """

    def __init__(self, source: str, kind: Kind, opening: Opening) -> None:
        self.opening, self.grows = opening, kind == "file"
        self.name = "pipe" if kind == "pipe" else os.path.abspath(source)
        self._is_own = opening.descriptor is None
        if opening.descriptor is not None:
            self._number = opening.descriptor
        elif kind == "pipe":
            self._number = open_pipe(source)
        else:
            self._number = _open_file(source)

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_own:
            os.close(self._number)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        grown, opening = time.monotonic(), self.opening
        while not opening.stop.is_set():
            opening.on_wait()
            if not self.grows and sys.platform != "win32":
                readable, _, _ = select.select([self._number], [], [], _POLL_SECONDS)
                if not readable:
                    continue
            data = os.read(self._number, size)
            if data or not self.grows or time.monotonic() - grown > opening.growth:
                return data
            opening.stop.wait(_POLL_SECONDS)
        return b""


def open_pipe(source: str) -> int:
    """The descriptor of a named pipe, once something writes to it, or of standard input (`-`).

    Whoever keeps it open does not lose the stream with a process that reads it. Raises
    `VideoDecodeError`.
    """
    try:
        number = os.dup(sys.stdin.fileno()) if source == "-" else os.open(source, os.O_RDONLY)
    except (OSError, ValueError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "it is closed"
        name = "standard input" if source == "-" else source
        raise VideoDecodeError(
            name, "not_found", f"cannot be opened ({why}); check the path"
        ) from error
    if os.isatty(number):
        os.close(number)
        raise VideoDecodeError(
            "standard input", "not_video", "is a terminal; pipe a video stream into the command"
        )
    return number


def _open_file(source: str) -> int:
    try:
        number = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise VideoDecodeError(
            source, "not_found", f"cannot be opened ({error.strerror}); check the path"
        ) from error
    if stat.S_ISDIR(os.fstat(number).st_mode):
        os.close(number)
        raise VideoDecodeError(source, "not_video", "is a folder; name a video file in it")
    return number


def _open_camera(source: str) -> InputContainer:
    number = source.removeprefix("camera:")
    if platform.system() == "Darwin":
        return av.open(number, "r", "avfoundation", {"framerate": "30"})
    if platform.system() == "Windows":
        return av.open(f"video={number}", "r", "dshow")
    path = f"/dev/video{number}" if number.isdigit() else source
    if not os.path.exists(path):
        raise FileNotFoundError(2, "there is no such camera")
    return av.open(path, "r", "v4l2")
