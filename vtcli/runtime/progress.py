"""The callback by which long work reports its progress; who shows it, and where, is not its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

ProgressCallback: TypeAlias = Callable[[str, int, "int | None"], None]
"""Called with the name of the item (a file, a video), the steps done, and all steps; None where
their number is not known. A step is a byte of a download, a video, a window or a frame.
"""


def no_progress(name: str, done: int, total: int | None) -> None:
    """A `ProgressCallback` that shows nothing."""


class CountedFile:
    """A binary file that reports the bytes written to it, of `total`."""

    def __init__(self, file: IO[bytes], name: str, total: int, on_bytes: ProgressCallback) -> None:
        self._file, self._name, self._total, self._on_bytes = file, name, total, on_bytes
        self._done = 0

    def write(self, data: Any) -> int:
        """Write bytes; returns their number."""
        written = self._file.write(data)
        self._done += written
        # The header comes on top of the tensors' bytes; the last report is not before the end.
        self._on_bytes(self._name, min(self._done, self._total), self._total)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def counted_tensors(
    tensors: Mapping[str, Tensor], what: str, on_bytes: ProgressCallback
) -> Iterator[tuple[str, Tensor]]:
    """The items of a mapping; reports the bytes of those that are done."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    done = 0
    for name, tensor in tensors.items():
        yield name, tensor
        done += tensor.nbytes
        on_bytes(what, done, total)
