"""Files that appear under their final name only when they are whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import DataError

_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_write(path: Path, size: int = 0, make_folder: bool = True) -> Iterator[Path]:
    """A path to write to instead of `path`; moved there at the end, with all that lies beside it.

    size: bytes that are going to be written, for which there must be room. Whatever goes wrong,
    nothing is left. What is no file (a pipe, /dev/null) is written to as it is, and a link stays
    one. Raises `DataError` where the disk is full or the folder cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            yield path
        except OSError as error:
            raise write_error(path, error) from error
        return
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", dir=path.parent))
    except OSError as error:
        raise write_error(path, error) from error
    try:
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, "")
        yield folder / path.name
        for beside in folder.iterdir():
            if beside.name != path.name:
                beside.replace(path.parent / beside.name)
        (folder / path.name).replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what writers that were killed left in a folder that nobody else writes to."""
    for left in folder.glob(".*.*"):
        if _UNFINISHED.fullmatch(left.name) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def write_error(path: Path | str, error: OSError) -> DataError:
    """Why a file cannot be written, and the way out."""
    if error.errno in _FULL:
        return DataError(
            f"cannot write {path}: the disk is full; make room or choose another place"
        )
    reason = error.strerror or str(error)
    return DataError(f"cannot write {path}: {reason}; choose another place with -o")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
