"""Whether a file is as long as its container states: sizes in headers, trailers, last packets.

Each container has its own way; the sections are named next to it. A file without any statement
(a live recording, a raw stream) is taken as it is.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vtcli.video.joined import TS_PACKETS

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_TAIL = 1 << 16
# Of a larger file only the end is looked at.
_LONGEST_WALK = 1 << 26
_LONGEST_TS = 1 << 30
# Some programs append a few bytes of their own.
_MOST_AFTER_END = 1000
# Durations of frames are rounded: frames, and a fraction of all, that may be missing.
_SLACK_FRAMES, _SLACK = 1.5, 0.01
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def missing_end(path: Path, family: str) -> str:
    """A sentence on what the end of a file lacks; empty where nothing is known to be missing.

    `family` is the first name of libav's format.
    """
    check = _CHECKS.get(family)
    if check is None:
        return ""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return check(file, size)
    except (OSError, struct.error, IndexError, KeyError, ValueError):
        return ""


def missing_frames(family: str, stream: VideoStream, stored: int, ticks: int) -> str:
    """A sentence where the container states more frames, or a longer time, than its packets have.

    `stored` is the number of packets, `ticks` the sum of their durations, in units of the stream's
    time base.
    """
    # MXF counts time in frames.
    frames = (stream.duration or 0) if family == "mxf" else stream.frames
    if family in ("avi", "ivf", "mxf") and frames > stored:
        return f"the container states {frames} frames and has {stored}"
    missing = (stream.duration or 0) - ticks
    if family == "mov" and stored and missing > ticks * (_SLACK_FRAMES / stored + _SLACK):
        stated, read = (n * float(stream.time_base or 0) for n in (ticks + missing, ticks))
        return f"the container states {stated:.2f} s of frames and has {read:.2f} s"
    return ""


def _stated(stated: int, size: int) -> str:
    if stated <= size:
        return ""
    return f"the file is truncated: it states {stated} bytes and has {size}"


def _after_end(count: int) -> str:
    return f"{count} bytes follow the stated end" if count > _MOST_AFTER_END else ""


def _mov(file: BinaryIO, size: int) -> str:
    """ISO/IEC 14496-12, 4.2: boxes follow each other to the end of the file."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        (length,) = struct.unpack(">I", head[:4])
        if length == 1:
            (length,) = struct.unpack(">Q", head[8:16])
        if length == 0 or not head[4:8].isalnum():
            return ""  # up to the end of the file; or not a box
        place += max(8, length)
    return _stated(place, size) if place > size else ""


def _matroska(file: BinaryIO, size: int) -> str:
    """RFC 8794, 4 and RFC 9559, 5.1.1: the size of the EBML header, and of the segment."""
    place = 0
    for _ in range(4):
        file.seek(place)
        head = file.read(12)
        if len(head) < 12:
            return ""
        id_length = 9 - head[0].bit_length()
        size_length = 9 - head[id_length].bit_length()
        length = int.from_bytes(head[id_length : id_length + size_length], "big")
        length &= (1 << 7 * size_length) - 1
        start = place + id_length + size_length
        if head[:4] == b"\x18\x53\x80\x67":
            unknown = length == (1 << 7 * size_length) - 1
            if unknown:
                return _live_matroska(file, size, start)
            return _stated(start + length, size) or _after_end(size - start - length)
        place = start + length
    return ""


def _live_matroska(file: BinaryIO, size: int, place: int) -> str:
    """Of a segment without a size, whether the last element inside it is whole."""
    while place + 2 < size:
        file.seek(place)
        head = file.read(12)
        id_length = 9 - head[0].bit_length()
        if id_length > 4 or len(head) <= id_length or not head[id_length]:
            return ""
        size_length = 9 - head[id_length].bit_length()
        length = int.from_bytes(head[id_length : id_length + size_length], "big")
        length &= (1 << 7 * size_length) - 1
        place += id_length + size_length
        if head[:4] != b"\x1f\x43\xb6\x75":  # a cluster: look inside
            place += length
    return _stated(place, size)


def _avi(file: BinaryIO, size: int) -> str:
    """RIFF chunks follow each other; OpenDML files have several."""
    place = 0
    while place + 12 <= size:
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return ""
        (length,) = struct.unpack("<I", head[4:])
        if length in (0, 0xFFFFFFFF):
            return ""  # never finished: nothing is stated
        place += 8 + length
    return _stated(place, size)


def _gif(file: BinaryIO, size: int) -> str:
    """GIF89a, 12: blocks follow each other up to the trailer, 27, of one byte."""
    truncated = "the file is truncated: its trailer is missing"
    if size > _LONGEST_WALK:
        return "" if _tail(file, size).rstrip(b"\0").endswith(b";") else truncated
    file.seek(0)
    data = file.read()
    try:
        place = _gif_trailer(data)
    except IndexError:
        return truncated
    if data[place] != 0x3B:
        return f"there is no block at byte {place}, where the one before it ends"
    return _after_end(len(data[place + 1 :].rstrip(b"\0")))


def _gif_trailer(data: bytes) -> int:
    """The place of the first byte that begins neither an image nor an extension."""
    place = 13 + _color_table(data[10])
    while data[place] in (0x2C, 0x21):
        # An image has a descriptor, colors and a code size, an extension a label; then sub-blocks.
        place += 11 + _color_table(data[place + 9]) if data[place] == 0x2C else 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    return place


def _color_table(flags: int) -> int:
    """Bytes of the color table that follows a descriptor with these flags: GIF89a, 18 and 20."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _apng(file: BinaryIO, size: int) -> str:
    """PNG, 11.2.5: the IEND chunk."""
    return "" if b"IEND" in _tail(file, size) else "the file is truncated: it has no IEND chunk"


def _flv(file: BinaryIO, size: int) -> str:
    """Video File Format Specification 10, E.3: the size of each tag follows it."""
    if size < 17:
        return ""
    file.seek(size - 4)
    (length,) = struct.unpack(">I", file.read(4))
    start = size - 4 - length
    if start >= 9 and length >= 11:
        file.seek(start)
        head = file.read(4)
        if head[0] & 0x1F in (8, 9, 18) and int.from_bytes(head[1:4], "big") + 11 == length:
            return ""
    return "the file is truncated: its last tag is incomplete"


def _asf(file: BinaryIO, size: int) -> str:
    """ASF 01.20.05, 3.2: the size of the file, unless it was broadcast."""
    file.seek(0)
    head = file.read(_TAIL)
    place = head.find(_ASF_FILE_PROPERTIES)
    if place < 0 or len(head) < place + 92:
        return ""
    (stated,) = struct.unpack_from("<Q", head, place + 40)
    (flags,) = struct.unpack_from("<I", head, place + 88)
    return "" if flags & 1 else _stated(stated, size)


def _ogg(file: BinaryIO, size: int) -> str:
    """RFC 3533, 6: pages; the last one of a stream has the flag 4."""
    tail = _tail(file, size, 2 * _TAIL)
    place = tail.rfind(b"OggS")
    if place < 0:
        return "the file is truncated: its last page is incomplete"
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return "the file is truncated: its last page is incomplete"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < length:
        return "the file is truncated: its last page is incomplete"
    return "" if page[5] & 4 else "the file is truncated: its last page is missing"


def _mpegts(file: BinaryIO, size: int) -> str:
    """ISO/IEC 13818-1, 2.4.3: packets of 188 bytes, some with 4 or 16 more."""
    file.seek(0)
    head = file.read(5 * 204)
    for length in TS_PACKETS:
        first = 4 if length == 192 else 0
        if all(head[n : n + 1] in (b"\x47", b"") for n in range(first, len(head), length)):
            over = size % length
            if over:
                return f"the last transport packet has {over} of {length} bytes"
            return _lost_sync(file, first, length, size)
    return ""


def _lost_sync(file: BinaryIO, first: int, length: int, size: int) -> str:
    """libav skips what does not begin as a transport packet, and what it was reading, silently."""
    if size > _LONGEST_TS:
        return ""
    file.seek(first)
    block = bytearray(length * 4096)
    packets = synced = 0
    while count := file.readinto(block):  # type: ignore[attr-defined]
        starts = block[:count:length]
        packets += len(starts)
        synced += starts.count(b"\x47")
    lost = packets - synced
    return f"{lost} of {packets} transport packets do not begin as such" if lost else ""


def _mpegps(file: BinaryIO, size: int) -> str:
    """ISO/IEC 13818-1, 2.5.3: the length of the last PES packet."""
    tail = _tail(file, size, 2 * _TAIL)
    place = len(tail)
    while (place := tail.rfind(b"\x00\x00\x01", 0, place)) >= 0:
        code = tail[place + 3 : place + 4]
        if not code or code[0] >= 0xB9:
            break
    packet = tail[place:] if place >= 0 else b""
    if len(packet) < 4 or packet[3] in (0xB9, 0xBA):
        return "" if len(packet) >= 4 or not packet else "the last packet is incomplete"
    length = 6 + int.from_bytes(packet[4:6], "big")
    return "" if length <= len(packet) else f"the last packet has {len(packet)} of {length} bytes"


def _ivf(file: BinaryIO, size: int) -> str:
    """A header of 32 bytes, then frames with headers of 12 that begin with their size."""
    place = 32
    while place + 12 <= size:
        file.seek(place)
        place += 12 + struct.unpack("<I", file.read(4))[0]
    return _stated(place, size)


def _nut(file: BinaryIO, size: int) -> str:
    """NUT, "File layout": the index is the last packet."""
    tail = _tail(file, size, 64 * _TAIL)
    index = b"NX\xdd\x67\x2f\x23\xe6\x4e"
    return "" if index in tail else "the file is truncated: it has no index at its end"


def _y4m(file: BinaryIO, size: int) -> str:
    """YUV4MPEG2: a header line, then frames of equal size, each after a line of its own."""
    file.seek(0)
    header = file.readline(_TAIL)
    length = _y4m_frame_bytes(header)
    place = len(header)
    while place < size and length:
        file.seek(place)
        line = file.readline(_TAIL)
        if not line.startswith(b"FRAME"):
            return f"there is no frame at byte {place}, where the one before it ends"
        place += len(line) + length
    left = size - (place - length)
    return f"the last frame has {left} of {length} bytes" if place > size else ""


def _y4m_frame_bytes(header: bytes) -> int:
    """0 for a format that is not known."""
    tags = {word[:1]: word[1:].decode("ascii", "replace") for word in header.split()[1:]}
    width, height, chroma = int(tags[b"W"]), int(tags[b"H"]), tags.get(b"C", "420jpeg")
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    samples = {
        "420": width * height + 2 * half_width * half_height,
        "411": width * height + 2 * ((width + 3) // 4) * height,
        "422": width * height + 2 * half_width * height,
        "444": width * height * (4 if chroma == "444alpha" else 3),
        "mon": width * height,
    }.get(chroma[:3], 0)
    deep = re.fullmatch(r"(4\d\dp|mono)\d+", chroma)
    return samples * (2 if deep else 1)


def _dv(file: BinaryIO, size: int) -> str:
    """IEC 61834: frames of 120,000 bytes (60 Hz) or 144,000 (50 Hz); bit 7 of the fourth byte."""
    file.seek(0)
    length = 144_000 if file.read(4)[3] & 0x80 else 120_000
    over = size % length
    return f"the last frame has {over} of {length} bytes" if over else ""


def _mxf(file: BinaryIO, size: int) -> str:
    """SMPTE 377-1, 7.1: the header partition states where the footer partition is."""
    file.seek(0)
    head = file.read(_TAIL)
    place = head.find(bytes.fromhex("060e2b34020501010d010201"))
    if place < 0:
        return ""
    length_byte = head[place + 16]
    value = place + 17 + (length_byte & 0x7F if length_byte & 0x80 else 0)
    (footer,) = struct.unpack_from(">Q", head, value + 24)
    return _stated(footer + 1, size) if footer else ""


def _tail(file: BinaryIO, size: int, length: int = _TAIL) -> bytes:
    file.seek(max(0, size - length))
    return file.read()


_CHECKS: Mapping[str, Callable[[BinaryIO, int], str]] = {
    "mov": _mov,
    "matroska": _matroska,
    "avi": _avi,
    "gif": _gif,
    "apng": _apng,
    "flv": _flv,
    "asf": _asf,
    "ogg": _ogg,
    "mpegts": _mpegts,
    "mpeg": _mpegps,
    "ivf": _ivf,
    "mxf": _mxf,
    "nut": _nut,
    "dv": _dv,
    "yuv4mpegpipe": _y4m,
}
