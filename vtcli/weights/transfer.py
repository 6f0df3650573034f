"""Transfer one file over https: resumed, checked for length, and never waiting without progress.

Redirects are followed here, so that each one is checked and the Hub's token stays with the Hub. The
session is that of the Hub's client: its offline mode, proxies and certificates apply.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from vtcli.errors import UsageError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.download_errors import TRY_AGAIN, FileChangedError, SourceError
from vtcli.weights.names import is_safe_url

TIMEOUT_S = 30.0
BUDGET_S = 60.0
# For a server that has not answered yet, or a proxy that never will: one attempt.
FIRST_ANSWER_S = 10.0
# Below this rate a transfer counts as standing still.
MIN_BYTES_PER_S = 1024
MAX_REDIRECTS = 10
MAX_RESTARTS = 3
LOG_IN = "log in to the network or check HF_ENDPOINT, and run the command again"


def budget_s() -> float:
    """Seconds that a transfer may stand still: $VT_DOWNLOAD_TIMEOUT, else 60."""
    named = os.environ.get("VT_DOWNLOAD_TIMEOUT")
    if not named:
        return BUDGET_S
    try:
        seconds = float(named)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise UsageError(f"VT_DOWNLOAD_TIMEOUT is '{named}', not a number of seconds above 0")
    return seconds


@dataclass
class Budget:
    """The time that a transfer, with all its retries, may spend without progress.

    A server that has not `answered` once gets less of it.
    """

    seconds: float = field(default_factory=budget_s)
    since: float = field(default_factory=time.monotonic)
    _bytes: int = 0
    _restarts: int = 0
    _has_answer: bool = False

    @property
    def left_s(self) -> float:
        """Seconds left before the transfer is given up."""
        most = self.seconds if self._has_answer else min(self.seconds, FIRST_ANSWER_S)
        return most - (time.monotonic() - self.since)

    @property
    def timeout_s(self) -> float:
        """How long one request may be silent."""
        most = TIMEOUT_S if self._has_answer else FIRST_ANSWER_S
        return max(0.1, min(most, self.seconds / 2))

    def answered(self) -> None:
        """The server sent the head of a response."""
        if not self._has_answer:
            self._has_answer, self.since = True, time.monotonic()

    def restart(self) -> None:
        """The transfer begins again: a few times, its first bytes count as progress again."""
        self._restarts += 1
        if self._restarts <= MAX_RESTARTS:
            self._bytes = 0

    def advance(self, done: int, host: str) -> None:
        """Count bytes; raises `SourceError` if too few have come for too long."""
        if done - self._bytes >= MIN_BYTES_PER_S * self.seconds:
            self._bytes, self.since = done, time.monotonic()
        elif self.left_s < 0:
            raise SourceError(
                f"{host} sends less than {MIN_BYTES_PER_S} bytes per second", TRY_AGAIN
            )


@dataclass(frozen=True)
class Remote:
    """A file to transfer.

    size: its length, None where not known; etag: the Hub's ETag, which may not change; headers:
    sent only to the host of `url`; trusted_host: a host where plain http is accepted.
    """

    url: str
    name: str
    size: int | None = None
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    trusted_host: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def transfer(
    remote: Remote, part: Path, budget: Budget, progress: ProgressCallback | None = None
) -> None:
    """Download the missing rest of `part`; returns when the file is complete.

    If-Range (RFC 9110, 13.1.5) makes the server send the whole file if it has changed since then.
    Raises `SourceError` for an answer that is not the file, and the session's errors.
    """
    has_rest = part.is_file() and (bool(remote.etag) or _validator(part).is_file())
    done = part.stat().st_size if has_rest else 0
    if remote.size is not None and done == remote.size > 0:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "vtcli"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if not remote.etag:
            headers["If-Range"] = _validator(part).read_text()
    with _open(remote, headers, budget) as response:
        _check_answer(response, remote)
        piece = response.headers.get("Content-Range", "")
        if response.status_code == 416 and piece == f"bytes */{done}" and remote.size is None:
            return
        resumed = response.status_code == 206 and piece.startswith(f"bytes {done}-")
        if response.status_code in (206, 416) and not resumed:
            part.unlink(missing_ok=True)
            budget.restart()
            raise ConnectionError(
                "the server refused to resume; the file is downloaded from the start"
            )
        response.raise_for_status()
        _check_length(response, remote, done if resumed else 0)
        if not resumed:
            if done:
                budget.restart()
            done = 0
            part.unlink(missing_ok=True)
            if not remote.etag:
                _save_validator(response.headers, _validator(part))
        _append(response, part, done, remote, budget, progress)


@contextmanager
def _open(remote: Remote, headers: Mapping[str, str], budget: Budget) -> Iterator[Any]:
    """The response to a GET request, after redirects."""
    from huggingface_hub import get_session

    url = remote.url
    for _ in range(MAX_REDIRECTS):
        check_url(url, remote)
        own = remote.headers if urlsplit(url).netloc == remote.host else {}
        with get_session().stream(
            "GET", url, headers={**own, **headers}, timeout=budget.timeout_s, follow_redirects=False
        ) as response:
            budget.answered()
            target = response.headers.get("Location", "")
            if not (300 <= response.status_code < 400 and target):
                yield response
                return
        url = urljoin(url, target)
    raise SourceError(f"{remote.host} redirects in a circle", TRY_AGAIN)


def check_url(url: str, remote: Remote) -> None:
    """Raise `SourceError` for an address that is not https (http for this machine)."""
    if not is_safe_url(url, remote.trusted_host):
        where = "" if url == remote.url else f"{remote.host} redirects to "
        shown = url[:80] if url.isprintable() else repr(url[:80])
        raise SourceError(f"{where}{shown}, which is not an https address", "use another source")


def _check_answer(response: Any, remote: Remote) -> None:
    etag = response.headers.get("X-Linked-ETag", "").strip('"')
    if remote.etag and etag and etag != remote.etag:
        raise FileChangedError("the file has changed on the Hub")
    if response.status_code == 200 and is_web_page(response.headers, remote.name):
        raise web_page(remote.host)


def is_web_page(headers: Any, name: str) -> bool:
    """Whether the answer is an HTML page and the file is not."""
    kind = headers.get("Content-Type", "").lower()
    return kind.startswith("text/html") and not name.endswith((".html", ".htm"))


def web_page(host: str) -> SourceError:
    """The error for an HTML page in place of a file."""
    return SourceError(
        f"{host} sent a web page instead of the file, such as the login page of a network", LOG_IN
    )


def _check_length(response: Any, remote: Remote, done: int) -> None:
    length = response.headers.get("Content-Length", "")
    if remote.size is not None and length.isdigit() and done + int(length) != remote.size:
        raise SourceError(
            f"{remote.host} announces {done + int(length)} bytes, but the file has {remote.size}",
            TRY_AGAIN,
        )


def _append(
    response: Any,
    part: Path,
    done: int,
    remote: Remote,
    budget: Budget,
    progress: ProgressCallback | None,
) -> None:
    """Append the response to the `done` bytes of `part`; the session raises if it ends early."""
    length = response.headers.get("Content-Length", "")
    total = done + int(length) if length.isdigit() else remote.size
    limit = remote.size if remote.size is not None else total
    with part.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            done += len(chunk)
            budget.advance(done, remote.host)
            if progress is not None:
                progress(remote.name, done, total)
            if limit is not None and done > limit:
                part.unlink()
                raise SourceError(f"{remote.host} sends more than {limit} bytes", TRY_AGAIN)
    if remote.size is not None and done != remote.size:
        raise ConnectionError("the connection ended early")


def _validator(part: Path) -> Path:
    """The file that stores which version of the remote file the bytes of `part` belong to."""
    return part.with_name(f"{part.name}.etag")


def remove_validator(part: Path) -> None:
    """Remove what `transfer` stored next to a part that is complete."""
    _validator(part).unlink(missing_ok=True)


def _save_validator(headers: Any, validator: Path) -> None:
    etag = headers.get("ETag", "")
    # A weak ETag does not guarantee equal bytes; Last-Modified is the next best.
    version = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    if version:
        validator.write_text(version)
    else:
        validator.unlink(missing_ok=True)
