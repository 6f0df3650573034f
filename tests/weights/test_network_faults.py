"""A Hub that fails: each fault ends in the right file or in its own sentence, in bounded time.

The server is a socket on localhost that says what each case wants; budgets are fractions of a
second. Faults that end a connection or need no time are in test_download.py.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vtcli.errors import FetchError
from vtcli.weights import download_errors
from vtcli.weights.download import fetch_hub_file
from vtcli.weights.download_errors import explain

REPO, NAME, COMMIT = "org/model", "weights.bin", "a" * 40
GOOD = os.urandom(40_000)
OTHER = GOOD[::-1]
PAGE = b"<html><body>Log in to the network of the hotel</body></html>"
# Of downloads that are refused: below 1 s, so that the whole file takes a few seconds.
SHORT_S = "0.8"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server:
    """Answers GET and HEAD with `answer(handler, number of this request of its method)`."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, int], None] = send
        self.methods: list[str] = []
        self.times: list[float] = []
        self.stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_stopped = self.stopped

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

            def do_GET(self) -> None:
                if NAME not in self.path:  # what the Hub's client asks for itself
                    head(self, 404, 0)
                    return
                outer.methods.append(self.command)
                outer.times.append(time.monotonic())
                try:
                    outer.answer(self, outer.methods.count(self.command))
                except OSError:  # the client has given up
                    self.close_connection = True

            def do_HEAD(self) -> None:
                self.do_GET()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self.http.shutdown()
        self.http.server_close()


def head(handler: Any, status: int, length: int | None, **headers: str) -> None:
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def facts(content: bytes) -> dict[str, str]:
    """What the Hub says of a file."""
    etag = f'"{digest(content)}"'
    about = {"ETag": etag, "X_Linked_ETag": etag, "X_Linked_Size": str(len(content))}
    return {**about, "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}


def send(handler: Any, number: int = 1, content: bytes = GOOD, **other: Any) -> None:
    """The file or the rest of it; `length`: announced, `upto`: bytes sent before the end."""
    asked = handler.headers.get("Range", "")
    start = int(asked[6:].split("-")[0]) if asked else 0
    headers = facts(content)
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    head(handler, 206 if start else 200, other.get("length", len(content) - start), **headers)
    if handler.command == "GET":
        handler.wfile.write(content[start : other.get("upto", len(content))])
        if "upto" in other or "length" in other:
            handler.close_connection = True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from huggingface_hub import constants

    running = Server()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "vt"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("VT_DOWNLOAD_TIMEOUT", "60")
    monkeypatch.setattr(download_errors, "BACKOFF_S", (0.05, 0.05, 0.05))
    yield running
    running.stop()


def fetched() -> bytes:
    return fetch_hub_file(REPO, None, [NAME]).read_bytes()


def refused(tmp_path: Path) -> str:
    """The one sentence of a download that ends in bounded time and leaves no file behind."""
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VT_DOWNLOAD_TIMEOUT", SHORT_S)
        with pytest.raises(FetchError) as caught:
            fetched()
    assert time.monotonic() - began < 10  # also where other work holds the cores
    blobs = (tmp_path / "hub").rglob("blobs/*")
    assert [path.name for path in blobs if not path.name.endswith(".incomplete")] == []
    message = str(caught.value)
    assert "\n" not in message
    assert "httpx" not in message
    return message


def test_retry_after_is_waited_for(server: Server) -> None:
    def answer(handler: Any, number: int) -> None:
        if handler.command == "GET" and number == 1:
            head(handler, 429, 0, Retry_After="1")
        else:
            send(handler)

    server.answer = answer
    assert fetched() == GOOD
    gets = [t for t, method in zip(server.times, server.methods, strict=True) if method == "GET"]
    assert gets[1] - gets[0] >= 1


def test_a_longer_wait_than_the_budget_ends_at_once(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, number: head(handler, 429, 0, Retry_After="20")
    assert "status 429) and asks to wait 20 seconds" in refused(tmp_path)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_passing_server_error_is_retried(server: Server, status: int) -> None:
    def answer(handler: Any, number: int) -> None:
        if handler.command == "GET" and number <= 2:
            head(handler, status, 0)
        else:
            send(handler)

    server.answer = answer
    assert fetched() == GOOD


@pytest.mark.parametrize("status", [500, 503])
def test_a_lasting_server_error_is_named(server: Server, tmp_path: Path, status: int) -> None:
    server.answer = lambda handler, number: head(handler, status, 0)
    assert f"returned HTTP status {status}; check the connection" in refused(tmp_path)


@pytest.mark.parametrize("only_get", [False, True])
def test_a_login_page_is_not_a_file(server: Server, tmp_path: Path, only_get: bool) -> None:
    def answer(handler: Any, number: int) -> None:
        if only_get and handler.command == "HEAD":
            send(handler)
            return
        head(handler, 200, len(PAGE), Content_Type="text/html", ETag='"x"')
        if handler.command == "GET":
            handler.wfile.write(PAGE)

    server.answer = answer
    message = refused(tmp_path)
    assert "sent a web page instead of the file" in message
    assert "log in to the network" in message


@pytest.mark.parametrize("only_get", [False, True])
def test_a_redirect_loop_ends(server: Server, tmp_path: Path, only_get: bool) -> None:
    def answer(handler: Any, number: int) -> None:
        if only_get and handler.command == "HEAD":
            send(handler)
        else:
            head(handler, 302, 0, Location=handler.path)

    server.answer = answer
    assert "redirects in a circle" in refused(tmp_path)
    assert len(server.methods) < 40


def test_a_redirect_loop_of_a_look_up_is_named() -> None:
    # The HTTP library's error has this name, whichever library the client uses.
    error = type("TooManyRedirects", (Exception,), {})("Exceeded maximum allowed redirects.")
    failure = explain(error, "hub.example")
    assert str(failure) == "hub.example redirects in a circle"
    assert not failure.transient


@pytest.mark.parametrize("difference", [-1000, 1000])
def test_a_wrong_length_is_named(server: Server, tmp_path: Path, difference: int) -> None:
    def answer(handler: Any, number: int) -> None:
        length = len(GOOD) + difference
        if handler.command == "HEAD":
            send(handler)
        else:
            send(handler, length=length, upto=min(length, len(GOOD)))

    server.answer = answer
    message = refused(tmp_path)
    assert f"announces {len(GOOD) + difference} bytes, but the file has {len(GOOD)}" in message


@pytest.mark.parametrize("sent", [None, 5000], ids=["silent", "stalled"])
def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, sent: int | None) -> None:
    def answer(handler: Any, number: int) -> None:
        if sent is not None and handler.command == "HEAD":
            send(handler)
            return
        if sent is not None:
            head(handler, 200, len(GOOD), **facts(GOOD))
            handler.wfile.write(GOOD[:sent])
        handler.server_stopped.wait(30)
        handler.close_connection = True

    server.answer = answer
    assert "does not respond" in refused(tmp_path)


def test_a_drip_of_bytes_is_given_up(server: Server, tmp_path: Path) -> None:
    def answer(handler: Any, number: int) -> None:
        if handler.command == "HEAD":
            send(handler)
            return
        head(handler, 200, len(GOOD), **facts(GOOD))
        for byte in GOOD:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.server_stopped.wait(0.1):
                return

    server.answer = answer
    assert "sends less than 1024 bytes per second" in refused(tmp_path)


def test_a_file_that_changes_while_it_is_sent_is_downloaded_whole(server: Server) -> None:
    """The first bytes are of the old version; the answer has no byte of them."""

    def answer(handler: Any, number: int) -> None:
        if handler.command == "HEAD":
            send(handler, content=GOOD if number == 1 else OTHER)
        elif number == 1:
            send(handler, length=len(GOOD), upto=10_000)
        else:
            send(handler, content=OTHER)

    server.answer = answer
    assert fetched() == OTHER


def test_a_killed_download_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    ranges: list[str] = []

    def answer(handler: Any, number: int) -> None:
        if handler.command == "HEAD":
            send(handler)
            return
        ranges.append(handler.headers.get("Range", ""))
        if number > 1:
            send(handler)
            return
        head(handler, 200, len(GOOD), **facts(GOOD))
        handler.wfile.write(GOOD[:20_000])
        handler.wfile.flush()
        handler.server_stopped.wait(30)

    server.answer = answer
    code = f"from vtcli.weights.download import fetch_hub_file as f; f({REPO!r}, None, [{NAME!r}])"
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "VT_DOWNLOAD_TIMEOUT": "60",
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        parts = list((tmp_path / "hub").rglob("*.incomplete"))
        if parts and parts[0].stat().st_size >= 8_000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = parts[0].stat().st_size
    assert fetched() == GOOD
    assert ranges == ["", f"bytes={kept}-"]
