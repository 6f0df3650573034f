"""Whether the last packet of a raw stream is whole.

Nothing in such a file states its length, but a decoder notices that the last frame ends too early.
The frames that it refers to are decoded first: those from the last key frame but one.
"""

from __future__ import annotations

from av.packet import Packet
from av.video.stream import VideoStream

from vtcli.video.container import decode
from vtcli.video.damage import damage, listen

RAW = frozenset({"h264", "hevc", "vvc", "m4v", "mpegvideo", "obu"})
"""Names of libav's formats of raw streams."""
_MOST_BYTES = 1 << 26


class LastPackets:
    """The packets since the last key frame but one, as long as they are few."""

    def __init__(self) -> None:
        self._groups: list[list[Packet]] = []
        self._bytes = 0

    def add(self, packet: Packet) -> None:
        """Take the next packet of the stream."""
        if packet.is_keyframe or not self._groups:
            self._groups = [*self._groups[-1:], []]
            self._bytes = sum(p.size for group in self._groups for p in group)
        self._bytes += packet.size
        if self._bytes <= _MOST_BYTES:
            self._groups[-1].append(packet)

    def note_damage(self, stream: VideoStream) -> None:
        """Decode them and note where the last one cannot be decoded whole. Resets the decoder."""
        packets = [packet for group in self._groups for packet in group]
        if not packets or self._bytes > _MOST_BYTES:
            return
        stream.codec_context.flush_buffers()
        with listen():
            for packet in packets[:-1]:
                decode(stream, packet)
        with listen() as heard:
            shown = [*(decode(stream, packets[-1]) or ()), *(decode(stream, None) or ())]
        heard.flagged_frames += any(frame.is_corrupt for frame in shown[-1:])
        if heard.sentences():
            damage().notes.append("the last packet is incomplete")
