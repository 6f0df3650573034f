"""One error type per kind of failure, each with the exit code the command ends with.

Every message is one sentence that names the thing, the reason and the way out; the commands print
it after `vt: error:` and keep the traceback for `--debug`.
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
    """Base of every failure that has a sentence for the user instead of a traceback."""

    exit_code = EXIT_BUG


class UsageError(VtError):
    """The command or call was put together wrongly (exit 2)."""

    exit_code = EXIT_USAGE


class UnknownModelError(UsageError):
    """No checkpoint, alias or file has this name (exit 2)."""


class InputError(VtError):
    """An input file is missing or cannot be used at all (exit 4)."""

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
    """A video that cannot be read as asked.

    Attributes: `path`; `reason`, one of the `VideoReason` words; `backend_messages`, what each
    decoder that was tried said.
    """

    def __init__(
        self,
        path: str | Path,
        reason: VideoReason,
        message: str,
        backend_messages: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.reason = reason
        self.backend_messages = tuple(backend_messages)


class WeightsError(VtError):
    """Weights that cannot be fetched, read, verified or fitted to a model (exit 5)."""

    exit_code = EXIT_WEIGHTS


class FetchError(WeightsError):
    """No source of a checkpoint could be fetched."""


class DigestError(FetchError):
    """A fetched file has the wrong size or digest and was removed."""


class UnsafeFileError(WeightsError):
    """A file that could only be read by running code it carries."""


class LayoutError(WeightsError):
    """Tensors that do not fit the layout or the model: missing, left over or mis-shaped."""


class OutOfMemoryError(VtError):
    """The device has too little memory for what was asked (exit 6)."""

    exit_code = EXIT_OUT_OF_MEMORY


class DataError(VtError):
    """Data, labels, numbers (NaN) or a folder that do not fit what is asked, or a full disk (exit
    7).
    """

    exit_code = EXIT_DATA


class ShapeError(UsageError, ValueError):
    """A clip or an option whose frame count or resolution the network cannot take (exit 2)."""
