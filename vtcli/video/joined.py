"""Whether a transport stream goes on at some place as another one begins: files that were joined.

ISO/IEC 13818-1, 2.4.3.3: the packets of each stream are counted modulo 16. A muxer begins with 0
for all streams, so where the counters of the program table (PID 0) and of the video both begin
anew, nothing is missing: there another file begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TS_PACKETS = (188, 192, 204)
"""Bytes of a packet: plain, with a time of arrival in front, and with a checksum behind."""
_SYNC = 0x47
_LOOKED_BACK = 1 << 18  # bytes; a table comes at least every 0.1 s


class _Packet(NamedTuple):
    pid: int
    counter: int


def begins_anew(path: Path, place: int) -> bool:
    """Whether the packet at this byte, of a video, is the first of another transport stream."""
    try:
        with path.open("rb") as file:
            start = max(0, place - _LOOKED_BACK)
            file.seek(start)
            data = file.read(place - start + max(TS_PACKETS))
    except OSError:
        return False
    packets = list(_before(data, place - start))
    if not packets or packets[0].counter:
        return False
    tables = [packet.counter for packet in packets[1:] if packet.pid == 0]
    if not tables or tables[0]:
        return False
    return len(tables) == 1 or tables[1] != 15  # 15 is what 0 continues


def _before(data: bytes, place: int) -> Iterator[_Packet]:
    """The packet at `place` and those before it, the last first, up to where no packets are."""
    for size in TS_PACKETS:
        for shift in (0, 4) if size == 192 else (0,):
            first = place + shift
            if all(data[n : n + 1] == bytes([_SYNC]) for n in (first, first - size) if n >= 0):
                for at in range(first, -1, -size):
                    if data[at] != _SYNC:
                        return
                    pid = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
                    yield _Packet(pid, data[at + 3] & 15)
                return
