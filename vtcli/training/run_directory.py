"""The folder of a training: training.json says what is trained, so that only the same training is
resumed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtcli.errors import DataError
from vtcli.runtime.files import atomic_write
from vtcli.runtime.run_lock import lock_run_directory
from vtcli.training.plan import SCHEMA


@contextmanager
def open_run_directory(
    folder: Path, fingerprint: Mapping[str, Any], resume: bool
) -> Iterator[bool]:
    """Lock the folder of a training and yield whether it holds a training to resume.

    Raises `DataError` where another run is writing there, where it holds a training with another
    recipe, model or dataset, or any training unless `resume`.
    """
    with lock_run_directory(folder):
        yield _claim(folder, fingerprint, resume)


def _claim(folder: Path, fingerprint: Mapping[str, Any], resume: bool) -> bool:
    path = folder / "training.json"
    # Nothing was trained where the options were refused after the folder was claimed.
    trained = any(file.suffix in (".safetensors", ".dcp") for file in folder.iterdir())
    if not (path.exists() and trained):
        text = json.dumps({"schema": SCHEMA, **fingerprint}, indent=1)
        with atomic_write(path, len(text)) as part:
            part.write_text(text, encoding="utf-8")
        return False
    if not resume:
        raise DataError(
            f"{folder} holds a training already; go on with --resume auto, or name another folder "
            "with -o"
        )
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; name another folder with -o") from error
    if differs := _difference(old, json.loads(json.dumps(fingerprint))):
        raise DataError(
            f"{folder} holds a training with another {differs}; name another folder with -o, or "
            "give the same options"
        )
    return True


def _difference(old: Any, new: Mapping[str, Any], inside: str = "") -> str:
    """The first thing that differs, in words; "" where nothing does."""
    for name, value in new.items():
        before = old.get(name) if isinstance(old, dict) else None
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            if found := _difference(before, value, f"{name}: "):
                return found
            continue
        short = isinstance(value, str | int | float | None)
        return f"{inside}{name} ({before}, not {value})" if short else f"{inside}{name}"
    return ""
