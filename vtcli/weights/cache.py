"""Where fetched and converted checkpoints lie on this machine, and the lock on each.

The Hub's files stay in the Hub's own cache; here lie https downloads and everything converted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtcli.errors import DataError


def cache_dir() -> Path:
    """The program's own folder: $VT_CACHE, else $XDG_CACHE_HOME/vtcli, else ~/.cache/vtcli."""
    own = os.environ.get("VT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vtcli"


def checkpoint_path(checkpoint_id: str, fingerprint: str) -> Path:
    """Where the converted file of a checkpoint lies or will lie; `fingerprint` is of its row."""
    return cache_dir() / "checkpoints" / f"{checkpoint_id}.{fingerprint}.safetensors"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes from making `path` meanwhile; its folder is made when missing.

    Waits until the other process is done. Raises `DataError` where the folder cannot be written.
    """
    from filelock import FileLock

    held = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as error:
        raise DataError(
            f"folder {path.parent} cannot be written: {error.strerror}; set VT_CACHE to another"
        ) from error
    try:
        yield
    finally:
        held.release()
