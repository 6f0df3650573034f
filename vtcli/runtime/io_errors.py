"""Tells I/O errors that a later attempt may not have from those that are there to stay."""

from __future__ import annotations

import errno

_NAMES = (
    *("EIO", "EREMOTEIO", "ETIMEDOUT", "ESTALE", "EMFILE", "ENFILE"),
    *("ENOTCONN", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ENETDOWN", "ENETRESET", "ENETUNREACH"),
)
# Not every platform has all of them. ENOMEM is left out: damaged files make decoders report it.
TRANSIENT = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
"""Error numbers of a failing disk or network mount, or of a process with too many open files."""


def is_transient_io_error(error: BaseException) -> bool:
    """Whether `error`, or an error that caused it, is an `OSError` with a number in `TRANSIENT`."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OSError) and cause.errno in TRANSIENT:
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False
