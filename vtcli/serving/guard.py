"""What every request passes: the key, the address it was sent to, the limits of its body; and what
every response has: headers that keep a browser from loading anything else.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtcli.serving.refusals import RequestRefusedError, error_body
from vtcli.serving.service import Service
from vtcli.serving.settings import is_loopback

MAX_JSON_BYTES = 64 << 10
MIN_BYTES_PER_SECOND = 16 << 10
"""An upload that is slower, beyond the time for a pause, is refused."""
LINGER_SECONDS = 5.0
"""What a client still sends after an early response is read so long: it then sees the response."""

RESPONSE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Guard:
    """Wraps the application of a `Service`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, headers = time.perf_counter(), Headers(scope=scope)
        body = _Body(receive, headers, self.service)
        response = _Response(send, body)
        try:
            self._check(scope["path"], headers)
            await self.app(scope, body.receive, response.send)
        except RequestRefusedError as error:
            await _refuse(response.send, error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics = self.service.metrics
            metrics.requests.labels(route, str(response.status)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        """Refuse a request without the key, or without one from another site's page."""
        key = self.service.settings.api_key
        if key is None:
            self._check_same_site(headers)
        elif path.startswith("/v1/") or path == "/metrics":
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(given.encode(), key.encode()):
                raise RequestRefusedError(
                    *(401, "key"),
                    "the key is missing or wrong; send it as the header Authorization: Bearer KEY",
                )

    def _check_same_site(self, headers: Mapping[str, str]) -> None:
        """A page of another site, or a name that was pointed here, must not use this machine."""
        host = headers.get("host", "")
        if not is_loopback(_host_name(f"//{host}")):
            raise RequestRefusedError(
                421, "host", f"this server is not {host}; use its loopback address, or set a key"
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise RequestRefusedError(
                403, "origin", f"a page of {origin} may not use this server without a key"
            )


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class _Body:
    """The body of a request, with limits to its size and its pauses."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], service: Service) -> None:
        settings = service.settings
        self._receive, self._pause = receive, settings.upload_timeout
        is_json = headers.get("content-type", "").lower().startswith("application/json")
        self._most = MAX_JSON_BYTES if is_json else settings.max_bytes
        self._stated = headers.get("content-length", "")
        self._start = time.monotonic()
        self._bytes = 0
        self.finished = False

    async def receive(self) -> Message:
        """The next part; raises `RequestRefusedError` for a body that is too large or too slow."""
        if self.finished:
            return await self._receive()
        if self._stated.isdecimal() and int(self._stated) > self._most:
            raise self._too_large()
        at_least = self._bytes / MIN_BYTES_PER_SECOND + self._pause
        left = self._start + at_least - time.monotonic()
        message = await self._next(min(left, self._pause))
        if self._bytes > self._most:
            raise self._too_large()
        return message

    async def linger(self) -> None:
        """Read and drop what is still sent, for a while."""
        end = time.monotonic() + LINGER_SECONDS
        try:
            while not self.finished:
                await self._next(end - time.monotonic())
        except RequestRefusedError:
            return

    async def _next(self, seconds: float) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, seconds))
        except TimeoutError as error:
            raise RequestRefusedError(
                *(408, "slow"),
                f"the upload paused for {self._pause:g} s or is slower than "
                f"{MIN_BYTES_PER_SECOND >> 10} KiB/s; send it again",
            ) from error
        self._bytes += len(message.get("body", b""))
        is_last = message["type"] == "http.disconnect" or not message.get("more_body", False)
        self.finished = is_last
        return message

    def _too_large(self) -> RequestRefusedError:
        return RequestRefusedError(
            413, "limit", f"the body has more than the {self._most} bytes that are allowed"
        )


class _Response:
    """Adds our headers; before the end of an early response, waits for the rest of the request."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self.status = 499  # the client left before there was a response

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.encode(), value.encode())
                    for name, value in RESPONSE_HEADERS.items()
                    if name.encode() not in own
                ),
            ]
        elif not message.get("more_body", False) and self.status >= 400:
            await self._send({**message, "more_body": True})
            await self._body.linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)


async def _refuse(send: Send, error: RequestRefusedError) -> None:
    body = json.dumps(error_body(error.reason, str(error))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
