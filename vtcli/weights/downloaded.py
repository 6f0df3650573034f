"""Errors about a file that was downloaded: they name where it is from, not its place in a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import VtError

_WAY = (
    "it is so at its source, so name another revision or repository, or the file of a copy of the "
    "weights"
)
# Ways out of a damaged local file, which do not help where the source itself has these bytes.
_LOCAL_WAYS = ("download", "git lfs", "vt convert")


@contextmanager
def named_by_source(path: Path, source: str) -> Iterator[None]:
    """Inside, an error that names `path`, or another file beside it, names `source` instead.

    The bytes are those of the source (its digest was checked): downloading them again does not
    help, and another way out is named.
    """
    try:
        yield
    except VtError as error:
        folder, text = f"{path.parent}/", str(error)
        if folder not in text:
            raise
        what, separator, way = text.partition("; ")
        before, _, rest = what.partition(folder)
        file, space, after = rest.partition(" ")
        colon = ":" if file.endswith(":") else ""
        what = f"{before}{file.rstrip(':')} of {source}{colon}{space}{after}"
        way = way.replace(folder, "")
        if not way or any(local in way for local in _LOCAL_WAYS):
            way = _WAY
        raise type(error)(f"{what}; {way}") from error
