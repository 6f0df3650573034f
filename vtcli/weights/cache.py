"""The cache folder of https downloads and converted checkpoints, and a lock per file.

Files of the Hugging Face Hub are kept in the Hub's own cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import DataError
from vtcli.runtime.cache import cache_dir as cache_dir


def checkpoint_path(checkpoint_id: str, fingerprint: str) -> Path:
    """The path of a checkpoint's converted file; `fingerprint` is a hash of its registry entry."""
    return cache_dir() / "checkpoints" / f"{checkpoint_id}.{fingerprint}.safetensors"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path` against other processes; its folder is created if needed.

    Waits until another holder is done. Raises `DataError` if the folder cannot be written.
    """
    from filelock import FileLock

    held = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as error:
        raise DataError(
            f"folder {path.parent} cannot be written: {error.strerror}; set VT_CACHE to another "
            "folder"
        ) from error
    try:
        yield
    finally:
        held.release()
