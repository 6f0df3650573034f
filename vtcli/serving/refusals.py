"""Requests that are not answered with a result: status, reason and one sentence."""

from __future__ import annotations

from typing import Any

from vtcli.errors import DataError, OutOfMemoryError, UsageError, VideoDecodeError, VtError


class RequestRefusedError(VtError):
    """A request with the HTTP status it is answered with.

    `reason` is one word; `retry_after` the seconds after which it may be accepted.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.retry_after = status, reason, retry_after


def status_of(error: VtError) -> tuple[int, str]:
    """HTTP status and reason of an error."""
    if isinstance(error, RequestRefusedError):
        return error.status, error.reason
    if isinstance(error, VideoDecodeError):
        by_reason = {"not_found": 404, "limit": 413, "io_error": 502}
        return by_reason.get(error.reason, 422), error.reason
    if isinstance(error, UsageError):
        return 400, "usage"
    if isinstance(error, OutOfMemoryError):
        return 503, "out_of_memory"
    return (500, "data") if isinstance(error, DataError) else (500, "error")


def error_body(reason: str, message: str) -> dict[str, Any]:
    """The JSON body of every response that is not a result."""
    return {"error": {"reason": reason, "message": message}}
