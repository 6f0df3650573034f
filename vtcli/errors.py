"""One exception type per kind of failure, each with the exit code of the command.

Every message is one sentence that names the thing, the reason and the fix; the commands print it
after `vt: error:` and show the traceback only with `--debug`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NO_INPUT = 4
EXIT_WEIGHTS = 5
EXIT_OUT_OF_MEMORY = 6
EXIT_DATA = 7
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class VtError(Exception):
    """Base of every failure that is reported in one sentence instead of a traceback.

    >>> try:
    ...     vtcli.load_model("uniformerv9")
    ... except vtcli.VtError as error:
    ...     print(type(error).__name__, error.exit_code)
    UnknownModelError 2
    """

    exit_code = EXIT_BUG


class UsageError(VtError):
    """A command or call with arguments that are wrong or do not go together (exit 2)."""

    exit_code = EXIT_USAGE


class UnknownModelError(UsageError):
    """No checkpoint, alias or file has this name (exit 2)."""


class InputError(VtError):
    """An input file that is missing or cannot be used (exit 4)."""

    exit_code = EXIT_NO_INPUT


VideoReason = Literal[
    "not_found",
    "not_video",
    "no_video_stream",
    "unsupported",
    "corrupt",
    "missing_frames",
    "io_error",
    "limit",
    "timeout",
    "crashed",
]


class VideoDecodeError(InputError, ValueError):
    """A video that cannot be read.

    Attributes: `path`; `reason`, one of `VideoReason`; `backend_messages`, the message of each
    decoder that was tried.
    """

    def __init__(
        self,
        path: str | Path,
        reason: VideoReason,
        message: str,
        backend_messages: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{path}: {message}")
        self.message = message
        self.path = str(path)
        self.reason = reason
        self.backend_messages = tuple(backend_messages)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.reason, self.message, self.backend_messages)


class WeightsError(VtError):
    """Weights that cannot be downloaded, read, verified or loaded into a model (exit 5)."""

    exit_code = EXIT_WEIGHTS


class FetchError(WeightsError):
    """No source of a checkpoint could be downloaded."""


class DigestError(FetchError):
    """A downloaded file had the wrong size or digest and was removed."""


class UnsafeFileError(WeightsError):
    """A file that could only be read by running code in it."""


class LayoutError(WeightsError):
    """Tensors that do not fit the layout or the model: missing, unexpected or mis-shaped."""


class OutOfMemoryError(VtError):
    """The device has too little memory (exit 6)."""

    exit_code = EXIT_OUT_OF_MEMORY


class DataError(VtError):
    """Data, labels or a run directory that do not fit, NaN, or a disk that is full (exit 7)."""

    exit_code = EXIT_DATA


class ShapeError(UsageError, ValueError):
    """A clip or a setting with a shape or frame count that the network does not accept (exit 2)."""
