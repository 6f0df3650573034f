"""Why a request failed, in a few words, from the exceptions of the Hub's client, network and disk.

The exceptions of three libraries (the Hub's client, its HTTP library, sockets) arrive nested in
each other; the chain is searched from the outside in for the first one with a known reason.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from vtcli.errors import DataError

T = TypeVar("T")

BACKOFF_S = (1.0, 2.0, 4.0)
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}

SET_TOKEN = "set HF_TOKEN or run `hf auth login`"
GO_ONLINE = "run the command once without HF_HUB_OFFLINE"
TRY_AGAIN = "check the connection and run the command again"
USE_OWN_COPY = "set VT_WEIGHTS to a folder with your own copy of the file"


class SourceError(Exception):
    """Why one source failed: the reason, the fix (`hint`), and whether a retry may help."""

    def __init__(self, reason: str, hint: str, transient: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.transient = transient


def with_retries(action: Callable[[], T], host: str) -> T:
    """Call `action`, and again with increasing waits after a transient failure.

    Raises `SourceError` when retries are used up or cannot help, and `DataError` for disk errors.
    """
    from huggingface_hub.errors import HTTPError

    waits_s = iter(BACKOFF_S)
    while True:
        try:
            return action()
        # The Hub's transfer of large files reports its failures as RuntimeError.
        except (OSError, RuntimeError, HTTPError) as error:
            failure = explain(error, host)
            wait_s = next(waits_s, None) if failure.transient else None
            if wait_s is None:
                raise failure from error
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
            return SourceError(f"gated, {closed}", f"accept its terms on the Hub, {SET_TOKEN}")
        case errors.RepositoryNotFoundError():
            return SourceError(f"private or missing, {closed}", SET_TOKEN)
        case errors.RevisionNotFoundError():
            return SourceError("404, no such revision", USE_OWN_COPY)
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return SourceError(f"{error.response.status_code}, {closed}", SET_TOKEN)
    return None


def _from_network(error: BaseException, host: str) -> SourceError | None:
    """The reason, if it is an HTTP status or a network error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (404, 410):
        return SourceError(f"{status}, no such file", USE_OWN_COPY)
    if status is not None:
        again = status in TRANSIENT_STATUS
        return SourceError(f"{host} returned HTTP status {status}", TRY_AGAIN, again)
    match error:
        case socket.gaierror():
            return SourceError(f"unknown host {host}", TRY_AGAIN)
        case ConnectionRefusedError():
            return SourceError(f"{host} refuses connections", TRY_AGAIN)
        case ssl.SSLError():
            return SourceError(f"no secure connection to {host} ({error.reason})", TRY_AGAIN)
        case TimeoutError():
            return SourceError(f"{host} does not respond", TRY_AGAIN, transient=True)
    return None
