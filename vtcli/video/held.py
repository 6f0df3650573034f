"""A file whose frames are read right after it was indexed is opened, and its packets read, once.

Inside `opened_once` the index (`probe.py`) leaves a file here, with its packets, for the decoder
(`backends_pyav.py`), if nothing is wrong with it: what a second reading would say of a damaged file
is among its warnings.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

MOST_BYTES = 16 << 20
"""Bytes of a file's packets that are held in memory; of a larger one they are read again."""

_here = threading.local()


@dataclass
class HeldVideo:
    """An open file whose packets are in memory, in decoding order.

    Its decoder has got the first `fed` of them and has returned `frames`.
    """

    container: InputContainer
    stream: VideoStream
    packets: list[Packet]
    frames: Sequence[VideoFrame] = ()
    fed: int = 0

    def from_packet(self, first: int) -> tuple[Sequence[VideoFrame], Iterator[Packet]]:
        """The frames that are decoded already and the packets that follow, from a position on."""
        frames, fed = self.frames, self.fed
        self.frames, self.fed = (), 0
        if first == 0 and fed:
            return frames, iter(self.packets[fed:])
        self.stream.codec_context.flush_buffers()
        return (), iter(self.packets[first:])


@dataclass
class Holder:
    """What `probe` fills: the packets so far, and the file once it is complete."""

    path: Path | None = None
    packets: list[Packet] = field(default_factory=list)
    bytes: int = 0
    begun: tuple[Sequence[VideoFrame], int] = ((), 0)
    video: HeldVideo | None = None

    def begin(self, path: Path) -> None:
        """Forget another file and collect the packets of this one."""
        self.release()
        self.path = path

    def add(self, packet: Packet) -> None:
        """Take the next packet of the file."""
        self.bytes += packet.size
        if self.bytes <= MOST_BYTES:
            self.packets.append(packet)
        else:
            self.packets.clear()

    def decoded(self, frames: Sequence[VideoFrame]) -> None:
        """What the decoder has returned for the packets so far; it gets no other."""
        self.begun = frames, len(self.packets)

    def keep(self, container: InputContainer, stream: VideoStream) -> None:
        """Do not let the file be closed."""
        if self.packets:
            self.video = HeldVideo(container, stream, self.packets, *self.begun)

    def release(self) -> None:
        """Close what is held."""
        if self.video is not None:
            self.video.container.close()
        self.path, self.packets, self.bytes, self.video = None, [], 0, None
        self.begun = (), 0


@contextmanager
def opened_once() -> Iterator[None]:
    """Let this thread's next `probe` hold its file for the next reading of frames."""
    outer, holder = holder_here(), Holder()
    _here.holder = holder
    try:
        yield
    finally:
        _here.holder = outer
        holder.release()


def holder_here() -> Holder | None:
    """The holder of this thread; None outside of `opened_once`."""
    return getattr(_here, "holder", None)


def take(path: Path) -> HeldVideo | None:
    """The held file, if it is this one: the caller closes it."""
    holder = holder_here()
    if holder is None or holder.video is None or holder.path != path:
        return None
    video, holder.video = holder.video, None
    return video


def close_unless_held(container: InputContainer) -> None:
    """Close a file that nobody will go on reading."""
    holder = holder_here()
    if holder is None or holder.video is None or holder.video.container is not container:
        container.close()
