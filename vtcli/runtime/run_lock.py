"""One writer per run directory: training and evaluation lock the folder that they write to.

What a folder holds, and whether a run may be resumed in it, is decided by the room that writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import DataError
from vtcli.runtime.files import remove_partial_files, write_error


@contextmanager
def lock_run_directory(folder: Path) -> Iterator[None]:
    """Create `folder` if it does not exist, and keep other runs out until the block ends.

    Files that a killed run left half-written are removed. Raises `DataError` where another run is
    writing to the folder, or where it cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"{folder} is being written by another run; wait for it, or name another folder with -o"
        ) from error
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        remove_partial_files(folder)
        yield
    finally:
        lock.release()
