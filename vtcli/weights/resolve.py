"""From what `--model` names to one of our files: an id or alias, a path, or hf://org/repo.

An id is downloaded and converted on first use; the converted file is kept in the cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vtcli.errors import FetchError, InputError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import ModelCard, read_card
from vtcli.weights.registry import Checkpoint, Registry, bundled_path, load_registry

HUB_PREFIX = "hf://"
# A name that ends in one of these is a path, whether there is such a file or not.
FILE_EXTENSIONS = (
    *(".safetensors", ".onnx", ".npz", ".msgpack"),
    *(".pth", ".pyth", ".pt", ".pt2", ".bin", ".ckpt"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalCheckpoint:
    """One of our files and its model card."""

    path: Path
    card: ModelCard


def list_models(pattern: str = "*") -> list[str]:
    """Ids of all known checkpoints that match a shell pattern, such as `uniformerv2*`."""
    return [entry.id for entry in load_registry().match(pattern)]


def is_path(name: str | Path, registry: Registry | None = None) -> bool:
    """Whether a `--model` means a file and not a name.

    It does if it is a `Path`, has a folder separator or a checkpoint's file extension, or starts
    with `.` or `~`. Any other word is a checkpoint id or alias if the registry has it; only if not,
    a file of this name is meant. If both exist, a warning tells how to name the file.
    """
    text = str(name)
    if isinstance(name, Path) or _looks_like_path(text):
        return True
    if (registry or load_registry()).get(text) is None:
        return os.path.isfile(text)
    if os.path.exists(text):
        _warn_of_shadowed_file(text)
    return False


def _looks_like_path(text: str) -> bool:
    if text.startswith(HUB_PREFIX):
        return False
    has_separator = os.sep in text or "/" in text
    return has_separator or text.startswith((".", "~")) or text.endswith(FILE_EXTENSIONS)


@cache
def _warn_of_shadowed_file(name: str) -> None:
    _log.warning(
        "'%s' is the name of a model, so the file or folder '%s' in this folder is not used; write "
        "./%s to use it",
        *(name, name, name),
    )


def lookup(name: str | Path, on_download: ProgressCallback | None = None) -> ModelCard | Checkpoint:
    """What is known of a model before its weights are here: its model card or its registry entry.

    Does not import PyTorch, and uses the network only for `hf://`. Raises what `resolve` raises.
    """
    if str(name).startswith(HUB_PREFIX) or is_path(name):
        return resolve(name, on_download).card
    return load_registry().find(str(name))


def resolve(
    name: str | Path, on_download: ProgressCallback | None = None, registry: Registry | None = None
) -> LocalCheckpoint:
    """Our file for an id, an alias, a path or `hf://org/repo[@revision]`.

    Downloads and converts it if needed. Raises `UnknownModelError` (exit 2), `InputError` (4) or
    `WeightsError` (5).
    """
    text = str(name)
    if text.startswith(HUB_PREFIX):
        from vtcli.weights.download import fetch_hub_file

        repo, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
        path = fetch_hub_file(repo, revision or None, ["model.safetensors"], progress=on_download)
    elif is_path(name, registry):
        path = Path(text).expanduser()
        if os.path.isfile(path) and path.suffix != ".safetensors":
            raise InputError(
                f"{path} is not one of our files; convert it first: vt convert {path} -m MODEL "
                "-o model.safetensors"
            )
    else:
        entry = (registry or load_registry()).find(text)
        path = bundled_path(entry) or _fetched(entry, on_download, registry)
    return LocalCheckpoint(path, read_card(path))


def _fetched(
    entry: Checkpoint, on_download: ProgressCallback | None, registry: Registry | None
) -> Path:
    try:
        return _ensure_cached(entry, on_download, registry)
    except FetchError:
        path = bundled_path(entry, last_resort=True)
        if path is None:
            raise
        return path


def _ensure_cached(
    entry: Checkpoint, on_download: ProgressCallback | None, registry: Registry | None
) -> Path:
    """An entry's converted file in the cache; made on first use and when the entry has changed."""
    from vtcli.weights.cache import lock

    path = cached_path(entry)
    if _is_fresh(path, entry):
        return path
    from vtcli.weights.class_order import CheckpointOrigin
    from vtcli.weights.convert import convert
    from vtcli.weights.download import fetch

    registry = registry or load_registry()
    with lock(path):
        if not _is_fresh(path, entry):
            alternatives = _alternatives(entry, registry)
            fetched = fetch(entry, progress=on_download, alternatives=alternatives)
            if fetched.source.layout == "vt":  # one of our files, such as a mirror's
                return fetched.path
            origin = CheckpointOrigin(entry, fetched.source, fetched.sha256)
            convert(fetched.path, path, registry=registry, origin=origin)
    return path


def cached_path(entry: Checkpoint) -> Path:
    """The path of an entry's converted file in the cache, whether it exists or not.

    It contains a hash of what the entry says of the weights, so that an outdated file is not used.
    """
    from vtcli.weights.cache import checkpoint_path

    facts: list[object] = [entry.config, entry.pipeline, [head.labels for head in entry.heads]]
    facts += [(s.address, s.layout, s.sha256, s.permutation) for s in entry.sources]
    return checkpoint_path(entry.id, hashlib.sha256(repr(facts).encode()).hexdigest()[:8])


def _is_fresh(path: Path, entry: Checkpoint) -> bool:
    """Whether a converted file exists and is at least as new as the entry's local source files."""
    if not path.is_file():
        return False
    made = path.stat().st_mtime_ns
    local = [s.file for s in entry.sources if s.kind == "local" and os.path.isfile(s.file)]
    return all(os.stat(file).st_mtime_ns <= made for file in local)


def _alternatives(entry: Checkpoint, registry: Registry) -> list[str]:
    """Ids of other available checkpoints of the same dataset, those of the same model first."""
    others = [
        other
        for other in registry.checkpoints.values()
        if other.dataset == entry.dataset and other.available and other.id != entry.id
    ]
    others.sort(key=lambda other: (other.model != entry.model, other.arch != entry.arch))
    return [other.id for other in others[:3]]
