"""Behind a proxy that refuses or never answers: one attempt per source, then ways out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.forked import Forked
from vtcli.errors import EXIT_WEIGHTS


@contextmanager
def proxy(answer: bytes) -> Iterator[str]:
    """A server that gives every connection this answer; without one it keeps silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "huggingface.co does not respond"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy does not let huggingface.co through (403"),
    ],
)
def test_a_proxy_that_lets_nothing_through(answer: bytes, reason: str) -> None:
    with proxy(answer) as address:
        own = {"HTTPS_PROXY": address, "HTTP_PROXY": address, "VT_DOWNLOAD_TIMEOUT": "1"}
        words = ["models", "fetch", "uniformerv2-b"]
        with Forked(words, {**os.environ, **own}) as process:
            start = time.monotonic()
            _, err = process.communicate(60)
            assert time.monotonic() - start < 20
    assert process.returncode == EXIT_WEIGHTS
    lines = err.splitlines()
    assert len(lines) <= 4
    assert max(map(len, lines)) < 200
    assert lines[0].startswith("vt: error: cannot download uniformerv2-b.k400-k710-8f: ")
    assert reason in lines[0]
    for way in ("HTTPS_PROXY", "HF_ENDPOINT", "VT_WEIGHTS", "-m uniformerv2-nano"):
        assert way in err


def test_a_repository_can_be_named_first_in_a_process() -> None:
    words = [sys.executable, "-m", "vtcli", "models", "show", "hf://someone/vivit"]
    own = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(
        words, env={**os.environ, **own}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == EXIT_WEIGHTS
    assert "127.0.0.1:1 refuses connections" in done.stderr
    assert "bug" not in done.stderr
