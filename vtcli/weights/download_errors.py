"""Why a request failed, in a few words, from the exceptions of the Hub's client, network and disk.

The exceptions of three libraries (the Hub's client, its HTTP library, sockets) arrive nested in
each other; the chain is searched from the outside in for the first one with a known reason.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from vtcli.errors import DataError

T = TypeVar("T")

_log = logging.getLogger(__name__)
# The longest total wait for a server that asks for it.
MAX_WAIT_S = 60.0
BACKOFF_S = (1.0, 2.0, 4.0)
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}

SET_TOKEN = "set HF_TOKEN or run `hf auth login`"
GO_ONLINE = "run the command once without HF_HUB_OFFLINE"
TRY_AGAIN = "check the connection and run the command again"
CHECK_NAME = "check the name"
USE_OWN_COPY = "set VT_WEIGHTS to a folder with your own copy of the file"


class SourceError(Exception):
    """Why one source failed: the reason, the fix (`hint`), and whether a retry may help.

    wait_s: seconds that the server asks to wait before a retry, 0 where it does not.
    """

    def __init__(
        self, reason: str, hint: str, transient: bool = False, wait_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.hint = hint
        self.transient = transient
        self.wait_s = wait_s


class FileChangedError(ConnectionError):
    """The remote file is another one than when its transfer began."""


class TimeLeft(Protocol):
    """What is left of the time that a transfer may spend without progress."""

    since: float

    @property
    def left_s(self) -> float: ...


def hub_host() -> str:
    """The Hub's host in messages; raises `SourceError` if HF_ENDPOINT is not an address."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SourceError(
            f"HF_ENDPOINT={constants.ENDPOINT} is not an address",
            "set it to one, such as https://huggingface.co, or unset it",
        )
    is_own = os.environ.get("HF_ENDPOINT", "").rstrip("/") == constants.ENDPOINT
    return f"the HF_ENDPOINT {address.netloc}" if is_own else address.netloc


def another_token(right: str = "access") -> str:
    """How to use a token that has a right, or another one: HF_TOKEN hides the token of a login."""
    if os.environ.get("HF_TOKEN"):
        new = f"set HF_TOKEN to a valid token with {right}"
        return f"{new}, or unset it to use that of `hf auth login`"
    return SET_TOKEN if right == "access" else f"{SET_TOKEN}, with {right}"


def with_retries(action: Callable[[], T], host: str, budget: TimeLeft | None = None) -> T:
    """Call `action`, and again with increasing waits after a transient failure.

    A server that asks to wait (Retry-After) is waited for while `budget` lasts, and progress since
    the last failure makes all retries available again. Raises `SourceError` when retries are used
    up or cannot help, and `DataError` for disk errors.
    """
    from huggingface_hub.errors import HTTPError

    waits_s, since, waited_s = iter(BACKOFF_S), budget.since if budget else 0.0, 0.0
    while True:
        try:
            return action()
        # The Hub's transfer of large files reports its failures as RuntimeError.
        except (OSError, RuntimeError, HTTPError) as error:
            failure = explain(error, host)
            if budget is not None and budget.since != since:
                waits_s, since, waited_s = iter(BACKOFF_S), budget.since, 0.0
            wait_s = failure.wait_s or next(waits_s, None) if failure.transient else None
            if wait_s is None:
                raise failure from error
            waited_s += wait_s
            if budget is not None and (wait_s > budget.left_s or waited_s > MAX_WAIT_S):
                raise failure from error
            if failure.wait_s:
                _log.warning("%s; waiting", failure)
            time.sleep(wait_s)


def explain(error: Exception, host: str) -> SourceError:
    """Why a request to `host` failed; raises `DataError` for a disk error."""
    chain = list(_chain(error))
    for link in chain:
        _raise_disk_error(link)
    for link in chain:
        known = _from_hub_client(link) or _from_network(link, host)
        if known is not None:
            return known
    return SourceError(f"the connection to {host} was lost", TRY_AGAIN, transient=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # the HTTP library sets only the context


def _raise_disk_error(error: BaseException) -> None:
    """Raise `DataError` if the error says that a file could not be written."""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        raise DataError(
            "the disk is full, so the download stopped; free some space, or set VT_CACHE and"
            " HF_HOME to folders on another disk"
        ) from error
    if isinstance(error, OSError) and code in (errno.EACCES, errno.EROFS) and error.filename:
        raise DataError(
            f"{error.filename} cannot be written: {error.strerror}; set VT_CACHE and HF_HOME to"
            " writable folders"
        ) from error


def _from_hub_client(error: BaseException) -> SourceError | None:
    """The reason, if it is an exception of the Hub's client."""
    from huggingface_hub import errors, get_token

    closed = "needs a token" if get_token() is None else "the token in use has no access"
    match error:
        case errors.OfflineModeIsEnabled():
            reason = "not in the cache, and offline mode is on (HF_HUB_OFFLINE)"
            return SourceError(reason, GO_ONLINE)
        case errors.GatedRepoError():
            hint = f"accept its terms on the Hub, then {another_token()}"
            return SourceError(f"gated, {closed}", hint)
        case errors.RepositoryNotFoundError():
            hint = f"{CHECK_NAME}; for a private repository, {another_token()}"
            return SourceError(f"private or missing, {closed}", hint)
        case errors.RevisionNotFoundError():
            return SourceError("404, no such revision", USE_OWN_COPY)
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return SourceError(f"{error.response.status_code}, {closed}", another_token())
    return None


def _from_network(error: BaseException, host: str) -> SourceError | None:
    """The reason, if it is an HTTP status or a network error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (404, 410):
        return SourceError(f"{status}, no such file", USE_OWN_COPY)
    if status is not None:
        return _from_status(status, host, getattr(error, "response", None))
    if type(error).__name__ == "ProxyError":  # of the client's HTTP library
        return SourceError(f"the proxy does not let {host} through ({error})", TRY_AGAIN)
    if type(error).__name__ == "TooManyRedirects":  # of the same library
        return SourceError(f"{host} redirects in a circle", TRY_AGAIN)
    match error:
        case socket.gaierror():
            return SourceError(f"unknown host {host}", TRY_AGAIN)
        case ConnectionRefusedError():
            return SourceError(f"{host} refuses connections", TRY_AGAIN)
        case ssl.SSLError():
            return SourceError(f"no secure connection to {host} ({error.reason})", TRY_AGAIN)
        case FileChangedError():
            reason = f"{host} sends another file than it announced"
            return SourceError(reason, TRY_AGAIN, transient=True)
        case TimeoutError():
            return SourceError(f"{host} does not respond", TRY_AGAIN, transient=True)
    return None


def _from_status(status: int, host: str, response: Any) -> SourceError:
    """The reason for an HTTP status; Retry-After is a number of seconds or a date."""
    again = status in TRANSIENT_STATUS
    wait_s = _retry_after_s(response.headers.get("Retry-After", "")) if again else 0.0
    if wait_s:
        reason = (
            f"{host} is overloaded (HTTP status {status}) and asks to wait {wait_s:.0f} seconds"
        )
        return SourceError(reason, "run the command again later", True, wait_s)
    if status == 429:
        reason = f"{host} answers no more requests for now (HTTP status 429)"
        return SourceError(reason, "run the command again later", True)
    return SourceError(f"{host} returned HTTP status {status}", TRY_AGAIN, again)


def _retry_after_s(text: str) -> float:
    """Seconds to wait; 0 for a header that is absent, past or not understood."""
    if text.strip().isdigit():
        return float(min(int(text.strip()[:9]), 1_000_000))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, moment.timestamp() - time.time())
