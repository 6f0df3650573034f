"""Clips in which every frame shows its own number, written with PyAV in the test session.

The lower half of a frame is a 12-bit barcode (black and white columns, highest bit first); the
upper half moves, so that codecs have something to predict. Frames that a decoder returns can so be
checked without trusting another decoder.

Shape legend: N frames, H height, W width.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

BITS = 12
RATE = 25

# Encoders are set to be silent; GOPs are short, so that 60 frames have several.
X264 = {"x264-params": "keyint=12:bframes=3:scenecut=0:log=-1"}
OPEN_GOP = {"x264-params": "keyint=12:bframes=3:scenecut=0:open-gop=1:log=-1"}
X265 = {"x265-params": "keyint=12:min-keyint=12:bframes=3:log-level=none"}


def draw(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Frame `number` as RGB [H, W, 3]."""
    columns = np.arange(width) * BITS // width
    frame_HW = np.empty((height, width), dtype=np.uint8)
    frame_HW[: height // 2] = (np.arange(width) * 2 + number * 5) % 200 + 20
    frame_HW[height // 2 :] = np.where(number >> (BITS - 1 - columns) & 1, 235, 16)
    return np.repeat(frame_HW[..., None], 3, axis=2)


def read_numbers(frames_NHWC: NDArray[np.uint8]) -> list[int]:
    """The number each frame shows, whatever its size."""
    height, width = frames_NHWC.shape[1:3]
    centers = (2 * np.arange(BITS) + 1) * width // (2 * BITS)
    bits_NB = frames_NHWC[:, height * 5 // 8 : height * 7 // 8, centers].mean(axis=(1, 3)) > 128
    return [int(number) for number in bits_NB @ (1 << np.arange(BITS)[::-1])]


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is encoded.

    `size` is width and height. `time_of` is the timestamp of the n-th frame in 1/25 s; `turns`
    stores the frames turned by that many quarter turns clockwise, with the display matrix that
    undoes it. `tint` multiplies the three colors.
    """

    size: tuple[int, int] = (192, 128)
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] | None = None
    container_options: Mapping[str, str] | None = None
    time_of: Callable[[int], int] = lambda n: n
    turns: int = 0
    tint: tuple[float, float, float] = (1, 1, 1)


def write_clip(
    path: Path, codec: str = "libx264", numbers: Iterable[int] = range(60), **settings: Any
) -> Path:
    """Write the frames `numbers`; the extension of `path` sets the container.

    `settings` are fields of `ClipSettings`.
    """
    s = ClipSettings(**settings)
    with av.open(str(path), "w", options=dict(s.container_options or {})) as container:
        stored_size = s.size[::-1] if s.turns % 2 else s.size
        stream = _add_stream(container, codec, stored_size, s.pix_fmt, s.options)
        if codec == "mpeg4" or codec.startswith("mpeg2"):
            stream.codec_context.max_b_frames = 2
        if s.turns:
            stream.set_display_rotation(s.turns * 90)
        for n, number in enumerate(numbers):
            tinted_HWC = (draw(number, *s.size) * np.array(s.tint)).astype(np.uint8)
            stored_HWC = np.ascontiguousarray(np.rot90(tinted_HWC, -s.turns))
            frame = av.VideoFrame.from_ndarray(stored_HWC, format="rgb24")
            frame = frame.reformat(format=s.pix_fmt)
            frame.pts, frame.time_base = s.time_of(n), Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_stream(
    container: OutputContainer,
    codec: str,
    size: tuple[int, int],
    pix_fmt: str,
    options: Mapping[str, str] | None = None,
) -> VideoStream:
    stream = container.add_stream(codec, rate=RATE, options=dict(options or {}))
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    stream.codec_context.gop_size = 12
    return stream


def remux(source: Path, target: Path) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    return target


def write_two_sizes(path: Path) -> Path:
    """A transport stream of 60 frames that changes from 192x128 to 128x96 at frame 30."""
    halves = [path.with_suffix(".1.ts"), path.with_suffix(".2.ts")]
    write_clip(halves[0], numbers=range(30), options=X264)
    write_clip(
        halves[1],
        numbers=range(30, 60),
        size=(128, 96),
        options=X264,
        time_of=lambda place: place + 40,
    )
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    return path


def write_placeholders(path: Path) -> Path:
    """60 MPEG-4 frames of which every eighth packet is a placeholder that is not shown.

    Its only VOP is "not coded" (ISO/IEC 14496-2, 6.2.5), as encoders write for packed B-frames.
    """
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, "mpeg4", (192, 128), "yuv420p")
        place = 0
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(draw(number, 192, 128), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            coded = stream.encode(frame)
            for packet in [*coded, _not_coded(place + 1)] if number % 7 == 2 else coded:
                packet.stream, packet.time_base = stream, Fraction(1, RATE)
                packet.pts = packet.dts = place
                container.mux(packet)
                place += 1
    return path


def _not_coded(tick: int) -> av.Packet[Stream]:
    """A P-VOP: type 01, no whole second passed, marker, 5 bits of time, marker, not coded."""
    bits = "010" + "1" + f"{tick % RATE:05b}" + "1" + "0"
    bits += "0".ljust(-len(bits) % 8, "1")
    return av.Packet(b"\x00\x00\x01\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big"))


def set_edit(path: Path, first: int, count: int) -> Path:
    """Rewrite an MP4's edit list so that it shows `count` frames from frame `first` on.

    ISO/IEC 14496-12, 8.6.6: `elst`, version 0, is version and flags, an entry count, then duration
    (movie time scale), media time (media time scale) and rate per entry.
    """
    data = bytearray(path.read_bytes())
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    entry = data.index(b"elst") + 12
    _, media_time = struct.unpack_from(">Ii", data, entry)
    duration = count * movie_scale // RATE
    struct.pack_into(">Ii", data, entry, duration, media_time + first * media_scale // RATE)
    path.write_bytes(data)
    return path
