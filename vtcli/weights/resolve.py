"""From what `--model` names to one of our files: an id or alias, a path, a folder or a repository
of the Hub.

An id is downloaded and converted on first use; the converted file is kept in the cache. So are
folders and repositories in another library's form (`repository_model.py`).
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
from vtcli.weights import graph_model
from vtcli.weights.checkpoint import ModelCard, read_card, require_classifier
from vtcli.weights.formats.transformers_repo import CONFIG, INDEX
from vtcli.weights.registry import Checkpoint, Registry, bundled_path, load_registry
from vtcli.weights.repository import FILE_EXTENSIONS, HUB_PREFIX, FolderFiles, hub_name, open_hub

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalCheckpoint:
    """One of our files and its model card."""

    path: Path
    card: ModelCard


def list_models(pattern: str = "*") -> list[str]:
    """Ids of all known checkpoints that match a shell pattern, such as `uniformerv2*`.

    >>> vtcli.list_models("vivit-nano*")
    ['vivit-nano.motion8']
    """
    return [entry.id for entry in load_registry().match(pattern)]


def is_path(name: str | Path, registry: Registry | None = None) -> bool:
    """Whether a `--model` means a file and not a name.

    It does if it is a `Path`, has a folder separator or a checkpoint's file extension, or starts
    with `.` or `~`. Any other word is a checkpoint id or alias if the registry has it; only if not,
    a file or folder of this name is meant. If both exist, a warning tells how to name the file.
    """
    text = str(name)
    if isinstance(name, Path) or _looks_like_path(text):
        return True
    if (registry or load_registry()).get(text) is None:
        return os.path.exists(text)
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


def lookup(
    name: str | Path,
    on_download: ProgressCallback | None = None,
    needs_classifier: bool = True,
    graphs: bool = False,
) -> ModelCard | Checkpoint:
    """What is known of a model before its weights are here: its model card or its registry entry.

    Uses the network only for a repository of the Hub, which is downloaded and converted. Raises
    what `resolve` raises.
    """
    hub = hub_name(name) if isinstance(name, str) else None
    if hub is not None:
        from vtcli.weights.repository_model import registered

        entry = registered(hub, load_registry())
        if entry is not None:
            return entry
    if hub is not None or is_path(name):
        return resolve(name, on_download, needs_classifier=needs_classifier, graphs=graphs).card
    return load_registry().find(str(name))


def resolve(
    name: str | Path,
    on_download: ProgressCallback | None = None,
    registry: Registry | None = None,
    needs_classifier: bool = True,
    graphs: bool = False,
) -> LocalCheckpoint:
    """Our file for an id, an alias, a path, a folder or `[hf://]org/repo[@revision]`.

    Downloads and converts it if needed. Without `needs_classifier` it may be a network that has
    none; with `graphs` it may be an exported graph. Raises `UnknownModelError` (exit 2),
    `InputError` (4) or `WeightsError` (5).
    """
    if is_path(name, registry) and graph_model.find_graph(Path(name).expanduser()) is not None:
        return _graph(Path(name).expanduser(), graphs)
    path = _find(name, on_download, registry)
    card = read_card(path)
    if needs_classifier:
        require_classifier(card, name)
    return LocalCheckpoint(path, card)


def _graph(path: Path, allowed: bool) -> LocalCheckpoint:
    if not allowed:
        raise InputError(
            f"{path} is an exported graph, which only vt predict and vt serve take; use the "
            ".safetensors file that it was exported from"
        )
    return LocalCheckpoint(path, graph_model.read_graph_card(path))


def _find(
    name: str | Path, on_download: ProgressCallback | None, registry: Registry | None
) -> Path:
    text = str(name)
    hub = hub_name(name) if isinstance(name, str) else None
    if hub is not None:
        # Not at module level: it converts, for which PyTorch is loaded.
        from vtcli.weights import repository_model

        entry = repository_model.registered(hub, registry or load_registry())
        if entry is None:
            files = open_hub(hub, on_download, text.startswith(HUB_PREFIX))
            return repository_model.file_of(files, registry)
        repository_model.compare_pixels(entry, hub)
    elif is_path(name, registry):
        return _path(Path(text).expanduser(), registry)
    else:
        entry = (registry or load_registry()).find(text)
    return bundled_path(entry) or _fetched(entry, on_download, registry)


def _path(path: Path, registry: Registry | None) -> Path:
    if path.is_dir():
        from vtcli.weights import repository_model

        return repository_model.file_of(FolderFiles(path), registry)
    if path.name == CONFIG or path.name.endswith(INDEX):
        raise InputError(f"{path} is not a model but a file of one; name its folder, {path.parent}")
    if os.path.isfile(path) and path.suffix != ".safetensors":
        raise InputError(
            f"{path} is not one of our files; convert it first: vt convert {path} -m MODEL "
            "-o model.safetensors"
        )
    return path


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
    from vtcli.weights.downloaded import named_by_source

    registry = registry or load_registry()
    with lock(path):
        if not _is_fresh(path, entry):
            alternatives = _alternatives(entry, registry)
            fetched = fetch(entry, progress=on_download, alternatives=alternatives)
            if fetched.source.layout == "vt":  # one of our files, such as a mirror's
                return fetched.path
            origin = CheckpointOrigin(entry, fetched.source, fetched.sha256)
            with named_by_source(fetched.path, fetched.source.address):
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
