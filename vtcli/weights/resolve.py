"""TODO-HEAD"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtcli.errors import FetchError, InputError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import ModelCard, read_card
from vtcli.weights.registry import Checkpoint, Registry, bundled_path, load_registry

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class LocalCheckpoint:
    """One of our files and its card."""

    path: Path
    card: ModelCard


def list_models(pattern: str = "*") -> list[str]:
    """Ids of all known checkpoints that fit a shell pattern, such as `uniformerv2*`."""
    return [row.id for row in load_registry().match(pattern)]


def is_path(name: str | Path) -> bool:
    """Whether a `--model` means a file rather than a name: it looks like a path, or there is such a
    file.
    """
    text = str(name)
    return isinstance(name, Path) or text.endswith(".safetensors") or os.path.isfile(text)


def lookup(name: str | Path, progress: ProgressCallback | None = None) -> ModelCard | Checkpoint:
    """What can be said of a model before its weights are here: its card, or its registry row.

    Does not import PyTorch, and touches the network only for `hf://`. Raises what `resolve` raises.
    """
    if is_path(name) or str(name).startswith("hf://"):
        return resolve(name, progress).card
    return load_registry().find(str(name))


def resolve(
    name: str | Path, progress: ProgressCallback | None = None, registry: Registry | None = None
) -> LocalCheckpoint:
    """Our file for an id, an alias, a path or `hf://org/repo[@revision]`; fetched and converted if
    need be.

    Raises `UnknownModelError` (exit 2), `InputError` (4) or `WeightsError` (5).
    """
    text = str(name)
    if text.startswith("hf://"):
        from vtcli.weights.download import fetch_hub_file

        repo, _, revision = text.removeprefix("hf://").partition("@")
        path = fetch_hub_file(repo, revision or None, ["model.safetensors"], progress=progress)
    elif is_path(name):
        path = Path(text).expanduser()
        if os.path.isfile(path) and path.suffix != ".safetensors":
            raise InputError(
                f"{path} is not one of our files; convert it first: vt convert {path} -m MODEL "
                "-o model.safetensors"
            )
    else:
        row = (registry or load_registry()).find(text)
        path = bundled_path(row) or _fetched(row, progress, registry)
    return LocalCheckpoint(path, read_card(path))


def _fetched(row: Checkpoint, progress: ProgressCallback | None, registry: Registry | None) -> Path:
    try:
        return _ensure_cached(row, progress, registry)
    except FetchError:
        path = bundled_path(row, last_resort=True)
        if path is None:
            raise
        return path


def _ensure_cached(
    row: Checkpoint, progress: ProgressCallback | None, registry: Registry | None
) -> Path:
    """The converted file of a row in the cache, made on first use and when the row has changed."""
    from vtcli.weights.cache import lock

    path = cached_path(row)
    if _is_fresh(path, row):
        return path
    from vtcli.weights.convert import convert
    from vtcli.weights.download import fetch

    registry = registry or load_registry()
    with lock(path):
        if not _is_fresh(path, row):
            fetched = fetch(row, progress=progress, alternatives=_alternatives(row, registry))
            convert(
                fetched.path,
                path,
                model=row.id,
                registry=registry,
                source=fetched.source,
                sha256=fetched.sha256,
            )
    return path


def cached_path(row: Checkpoint) -> Path:
    """Where the converted file of a row lies or will lie.

    Its name changes with what the row says of the weights, so that an older file is not taken.
    """
    from vtcli.weights.cache import checkpoint_path

    said: list[object] = [row.config, row.pipeline, [head.class_names() for head in row.heads]]
    said += [(s.address, s.layout, s.sha256, s.permutation) for s in row.sources]
    return checkpoint_path(row.id, hashlib.sha256(repr(said).encode()).hexdigest()[:8])


def _is_fresh(path: Path, row: Checkpoint) -> bool:
    """Whether a converted file is there and no older than the local files it may come from."""
    if not path.is_file():
        return False
    made = path.stat().st_mtime_ns
    local = [s.file for s in row.sources if s.kind == "local" and os.path.isfile(s.file)]
    return all(os.stat(file).st_mtime_ns <= made for file in local)


def _alternatives(row: Checkpoint, registry: Registry) -> list[str]:
    """Ids of the same dataset that can be had, those of the same model first."""
    others = [
        other
        for other in registry.checkpoints.values()
        if other.dataset == row.dataset and other.available and other.id != row.id
    ]
    others.sort(key=lambda other: (other.model != row.model, other.arch != row.arch))
    return [other.id for other in others[:3]]
