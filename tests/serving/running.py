"""A server as a process of its own, and a client that speaks plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.forked import Forked

MODEL = "uniformerv2-nano.motion8"
BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Reply:
    """A response: status, headers and body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        reason: str = self.json["error"]["reason"]
        return reason


@dataclass
class Running:
    """`vt serve` on a free port of the loopback address."""

    process: Forked
    port: int

    @classmethod
    def start(cls, *options: str) -> Running:
        words = ["serve", "-m", MODEL, "--port", "0", *options]
        process = Forked(words, {**os.environ, "VT_TEST_DECODER_FAULTS": "1"})
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "serving at" in line:
                port = urlsplit(line.split()[3].rstrip(";")).port
                assert port is not None
                return cls(process, port)
        raise AssertionError("".join(lines))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        connection = self.connect()
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def upload(self, path: str, data: bytes, **headers: str) -> Reply:
        return self.send("POST", path, data, {"Content-Type": "video/mp4", **headers})

    def name(self, path: str, video: Path, **options: Any) -> Reply:
        """A request that names a video of the server's machine."""
        body = json.dumps({"path": str(video), **options}).encode()
        return self.send("POST", path, body, {"Content-Type": "application/json"})

    def stop(self) -> int:
        """Stop it as a service manager does, with a signal to all its processes; the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.process.stderr.close()
        return code


def form(data: bytes, name: str = "clip.mp4", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body with a file and fields, and its header."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{field}"\r\n\r\n{value}\r\n'.encode() for field, value in fields.items()]
    parts.append(f'{head}"file"; filename="{name}"\r\n\r\n'.encode() + data)
    body = b"".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def events_of(body: bytes) -> list[tuple[str, Any]]:
    """The server-sent events of a body: kind and data."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
