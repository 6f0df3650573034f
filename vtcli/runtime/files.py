"""Atomic writes: a file appears under its final name only when it is complete."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import DataError
from vtcli.runtime.progress import ProgressCallback, no_progress

_RESERVED_SECONDS = 60.0
_HASHED_AT_ONCE = 1 << 22  # bytes

_PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Raised by `write`, which does not name its file; no read fails with these.
_WRITE_ONLY = (*DISK_FULL, errno.EFBIG)


@contextmanager
def atomic_write(path: Path, size: int = 0, make_folder: bool = True) -> Iterator[Path]:
    """A temporary path to write to; at the end it is moved to `path`, with all files next to it.

    size: bytes that will be written and must be free on the disk. Whatever fails, nothing is left
    behind. Anything but a regular file (a pipe, /dev/null) is written to directly, and a symbolic
    link is followed. Raises `DataError` where the disk is full or the folder is not writable; other
    errors of the block are raised unchanged.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            yield path
        except OSError as error:
            if error.errno == errno.EPIPE or _concerns(error, path):
                raise write_error(path, error) from error
            raise
        return
    folder = _temporary_folder(path, make_folder)
    try:
        if shutil.disk_usage(folder).free < size:
            raise write_error(path, OSError(errno.ENOSPC, ""))
        try:
            yield folder / path.name
        except OSError as error:
            if _concerns(error, folder):
                raise write_error(path, error) from error
            raise
        _publish(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder(path: Path, make_folder: bool) -> Path:
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", dir=path.parent))
    except OSError as error:
        raise write_error(path, error) from error


def _publish(folder: Path, path: Path) -> None:
    """Move the files of a temporary folder to where they belong, `path` last."""
    try:
        for sibling in folder.iterdir():
            if sibling.name != path.name:
                sibling.replace(path.parent / sibling.name)
        (folder / path.name).replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def _concerns(error: OSError, written: Path) -> bool:
    """Whether an error of the block is about the output (a file or a folder), not another file."""
    if error.filename is None:
        return error.errno in _WRITE_ONLY
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return False
    return Path(os.path.realpath(os.fsdecode(error.filename))).is_relative_to(written)


def require_place(path: Path) -> None:
    """Raise `DataError` if a new file or folder cannot be made at `path`.

    Missing folders count as made. What exists is not tried: a run that is complete may be in a
    folder that is read only, and a pipe is none of a folder.
    """
    if os.path.lexists(path):
        return
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writers left in a folder; no other writer may be active in it."""
    for left in folder.glob(".*.*"):
        if _PARTIAL.fullmatch(left.name) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def write_error(path: Path | str, error: OSError) -> DataError:
    """The error that says why a file cannot be written, and what to do."""
    if error.errno in DISK_FULL:
        return DataError(
            f"cannot write {path}: the disk is full; free some space or choose another place"
        )
    reason = error.strerror or str(error)
    return DataError(f"cannot write {path}: {reason}; choose another place with -o")


def file_sha256(path: Path, on_bytes: ProgressCallback = no_progress) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    sha, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while block := file.read(_HASHED_AT_ONCE):
            sha.update(block)
            done += len(block)
            on_bytes(f"hashing {path.name}", done, total)
    return sha.hexdigest()


def link_without_overwrite(source: Path, target: Path) -> bool:
    """Give a complete, non-empty file its final name; False where that name is taken.

    A file system without hard links reserves the name with an empty file first. One that a kill
    left behind is free after a minute.
    """
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        if not _is_left_behind(target):
            return False
    except OSError:
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if not _is_left_behind(target):
                return False
    os.replace(source, target)
    return True


def is_complete(path: Path) -> bool:
    """Whether a file that `link_without_overwrite` publishes is there."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _is_left_behind(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == 0 and time.time() - found.st_mtime > _RESERVED_SECONDS
