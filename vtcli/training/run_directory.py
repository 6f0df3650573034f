"""The folder of a training: training.json records what is trained, so that only the same training
is resumed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vtcli.errors import DataError
from vtcli.models.recipe import Recipe
from vtcli.runtime.files import atomic_write
from vtcli.runtime.run_lock import lock_run_directory
from vtcli.training.checkpoint import FORMAT, check_format


@contextmanager
def open_run_directory(
    folder: Path, fingerprint: Mapping[str, Any], resume: bool
) -> Iterator[bool]:
    """Lock the folder of a training and yield whether it holds a training to resume.

    `fingerprint` is `TrainPlan.fingerprint()`. Raises `DataError` where another run is writing
    there, where the folder holds a training with another recipe, model or dataset, one of another
    version of vt, or any training unless `resume`.
    """
    with lock_run_directory(folder):
        yield _check_or_create(folder, fingerprint, resume)


def _check_or_create(folder: Path, fingerprint: Mapping[str, Any], resume: bool) -> bool:
    path = folder / "training.json"
    # A run whose options were refused leaves training.json but has trained nothing.
    trained = any(file.suffix in (".safetensors", ".dcp") for file in folder.iterdir())
    if not (path.exists() and trained):
        text = json.dumps({"format": FORMAT, **fingerprint}, indent=1)
        with atomic_write(path, len(text)) as part:
            part.write_text(text, encoding="utf-8")
        return False
    if not resume:
        raise DataError(
            f"{folder} holds a training already; resume it without --no-resume, or name another "
            "folder with -o"
        )
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read; name another folder with -o") from error
    check_format(folder, old.get("format", 1))
    # Earlier versions did not record these; their values were the defaults.
    old = {"best_epoch_by": fingerprint.get("best_epoch_by"), **old}
    old["recipe"] = {**json.loads(json.dumps(asdict(Recipe()))), **old.get("recipe", {})}
    if difference := _difference(old, json.loads(json.dumps(fingerprint))):
        raise DataError(
            f"{folder} holds a training with another {difference}; name another folder with -o, or "
            "give the same options"
        )
    return True


def _difference(old: Any, new: Mapping[str, Any], prefix: str = "") -> str:
    """The first entry that differs, in words; "" where none does."""
    for name, value in new.items():
        before = old.get(name) if isinstance(old, dict) else None
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            if found := _difference(before, value, f"{name}: "):
                return found
            continue
        short = isinstance(value, str | int | float | None)
        return f"{prefix}{name} ({before}, not {value})" if short else f"{prefix}{name}"
    return ""
