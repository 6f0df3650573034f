"""Why a request gave nothing, in a few words: what the Hub's client, the network and the disk say.

The exceptions of three libraries (the Hub's client, its HTTP library, sockets) arrive nested in
each other; one walk from the outside in finds the first that tells a user what to do.
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
GO_ONLINE = "run it once without HF_HUB_OFFLINE"
TRY_AGAIN = "check the connection and run it again"
USE_OWN_COPY = "put your own copy of the file into the folder that VT_WEIGHTS names"


class SourceError(Exception):
    """Why one source gave nothing: the reason, the way out, and whether a second try may help."""

    def __init__(self, reason: str, hint: str, transient: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.transient = transient


def with_retries(action: Callable[[], T], host: str) -> T:
    """Do `action`, again after a while where the connection broke.

    Raises `SourceError` once it is hopeless, and `DataError` where the disk is at fault.
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
    """What went wrong with a request to `host`; raises `DataError` where the disk was at fault."""
    chain = list(_chain(error))
    for link in chain:
        _blame_disk(link)
    for link in chain:
        known = _told_by_hub(link) or _told_by_network(link, host)
        if known is not None:
            return known
    return SourceError(f"the connection to {host} broke", TRY_AGAIN, transient=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # also where the HTTP library hides it


def _blame_disk(error: BaseException) -> None:
    """Raise `DataError` where a file could not be written."""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        raise DataError(
            "the disk is full, so the download stopped; free some room, or set VT_CACHE and HF_HOME"
            " to folders on another disk"
        ) from error
    if isinstance(error, OSError) and code in (errno.EACCES, errno.EROFS) and error.filename:
        raise DataError(
            f"{error.filename} cannot be written: {error.strerror}; set VT_CACHE and HF_HOME to"
            " folders that can"
        ) from error


def _told_by_hub(error: BaseException) -> SourceError | None:
    """What the Hub's client says, if it is one of its own errors."""
    from huggingface_hub import errors, get_token

    closed = "needs a token" if get_token() is None else "closed to the token in use"
    match error:
        case errors.OfflineModeIsEnabled():
            reason = "not in the cache, and offline mode is on (HF_HUB_OFFLINE)"
            return SourceError(reason, GO_ONLINE)
        case errors.GatedRepoError():
            return SourceError(f"gated, {closed}", f"accept its terms on the Hub, {SET_TOKEN}")
        case errors.RepositoryNotFoundError():
            return SourceError(f"private or not there, {closed}", SET_TOKEN)
        case errors.RevisionNotFoundError():
            return SourceError("404, no such revision", USE_OWN_COPY)
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return SourceError(f"{error.response.status_code}, {closed}", SET_TOKEN)
    return None


def _told_by_network(error: BaseException, host: str) -> SourceError | None:
    """What the server answered, or why it could not."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (404, 410):
        return SourceError(f"{status}, no such file", USE_OWN_COPY)
    if status is not None:
        again = status in TRANSIENT_STATUS
        return SourceError(f"{host} answers with HTTP status {status}", TRY_AGAIN, again)
    match error:
        case socket.gaierror():
            return SourceError(f"unknown host {host}", TRY_AGAIN)
        case ConnectionRefusedError():
            return SourceError(f"{host} refuses connections", TRY_AGAIN)
        case ssl.SSLError():
            return SourceError(f"no safe connection to {host} ({error.reason})", TRY_AGAIN)
        case TimeoutError():
            return SourceError(f"{host} does not answer", TRY_AGAIN, transient=True)
    return None
