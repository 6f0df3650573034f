"""A file server on localhost: with ranges, without them, or one that breaks off."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class FileServer:
    """`sent` counts the bytes of contents by path. `breaks`: how many answers end half-way."""

    folder: Path
    ranges: bool = True
    breaks: int = 0
    states_length: bool = True
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def read(self, path: str, start: int, size: int) -> bytes:
        with (self.folder / path.lstrip("/")).open("rb") as file:
            file.seek(start)
            return file.read(size)


@contextmanager
def serve(server: FileServer) -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            file = server.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = self.headers.get("Range", "") if server.ranges else ""
            start, end = 0, (size := file.stat().st_size)
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(size, int(last or size) + 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            if server.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{size}-{file.stat().st_mtime_ns}"')
            if server.states_length:
                self.send_header("Content-Length", str(end - start))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if not body:
                return
            piece = server.read(self.path, start, end - start)
            if server.breaks:
                server.breaks -= 1
                piece = piece[: len(piece) // 2]
                self.close_connection = True
            server.sent[self.path] += len(piece)
            self.wfile.write(piece)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
