"""A camera on this machine: an H.264 file over RTSP (RFC 2326), its packets interleaved (RFC 6184).

Packets are sent in one connection over TCP, where a NAL unit of up to 65 kB needs no fragments.
"""

from __future__ import annotations

import itertools
import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext

CLOCK = 90_000
"""Ticks per second of H.264 in RTP."""
SDP = "\r\n".join(
    [
        *("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", "m=video 0 RTP/AVP 96"),
        *("a=rtpmap:96 H264/90000", "a=control:video", ""),
    ]
)


@dataclass
class Camera:
    """What is sent to each client: the file, or its first `packets` packets, at its own speed.

    Then the connection is closed, without a word where `says_bye` is False. `played`: how often it
    was asked for.
    """

    path: Path
    packets: int | None = None
    says_bye: bool = True
    played: int = 0
    url: str = ""


def access_units(path: Path) -> Iterator[tuple[float, list[bytes]]]:
    """The time in seconds, and the NAL units, of each packet."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        to_units = BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                seconds = float(packet.pts * packet.time_base)
                data = b"".join(bytes(part) for part in to_units.filter(packet))
                yield seconds, [unit for unit in re.split(rb"\x00?\x00\x00\x01", data) if unit]


class _Client(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        camera: Camera = self.server.camera  # type: ignore[attr-defined]
        try:
            while request := self._request():
                method, number = request
                headers = {"OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN"}
                headers["SETUP"] = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1"
                headers["PLAY"] = "Session: 1"
                body = SDP if method == "DESCRIBE" else ""
                about = f"Content-Type: application/sdp\r\nContent-Base: {camera.url}/\r\n"
                head = (about if body else "") + headers.get(method, "Session: 1")
                size = f"Content-Length: {len(body)}\r\n" if body else ""
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{size}{head}\r\n\r\n{body}"
                self.wfile.write(answer.encode())
                if method == "PLAY":
                    camera.played += 1
                    self._play(camera)
                    return
        except OSError:  # the client has gone
            return

    def _request(self) -> tuple[str, str] | None:
        """Method and sequence number of the next request."""
        lines = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n") if line]
        if not lines:
            return None
        number = next(line.split(":")[1].strip() for line in lines if line.startswith("CSeq"))
        return lines[0].split()[0], number

    def _play(self, camera: Camera) -> None:
        began, sequence = time.monotonic(), itertools.count()
        for seconds, units in itertools.islice(access_units(camera.path), camera.packets):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            for place, unit in enumerate(units, 1):
                kind = 96 | (0x80 if place == len(units) else 0)  # the marker ends a picture
                stamp = round(seconds * CLOCK) & 0xFFFFFFFF
                head = struct.pack(">BBHII", 0x80, kind, next(sequence) & 0xFFFF, stamp, 7)
                self._send(0, head + unit)
        if camera.says_bye:
            self._send(1, struct.pack(">BBHI", 0x81, 203, 1, 7))

    def _send(self, channel: int, packet: bytes) -> None:
        self.wfile.write(struct.pack(">cBH", b"$", channel, len(packet)) + packet)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def serve(camera: Camera) -> Iterator[Camera]:
    """Serve a camera at its `url` inside the block."""
    with _Server(("127.0.0.1", 0), _Client) as server:
        server.camera = camera  # type: ignore[attr-defined]
        camera.url = f"rtsp://127.0.0.1:{server.server_address[1]}/video"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield camera
        finally:
            server.shutdown()
