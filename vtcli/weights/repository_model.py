"""The file of ours for a model repository: its own if `vt` wrote it, else what it is converted to.

Converted files are kept in the cache, under a name that changes with the repository's content.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from functools import cache
from pathlib import Path

from vtcli._version import __version__
from vtcli.errors import UnknownModelError, WeightsError
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.pipeline import Pipeline
from vtcli.weights.cache import checkpoint_path, lock
from vtcli.weights.checkpoint import WEIGHTS_FILE, read_card
from vtcli.weights.convert import convert
from vtcli.weights.converted_card import remarks
from vtcli.weights.formats.transformers_repo import Repository
from vtcli.weights.registry import Checkpoint, Registry, load_registry
from vtcli.weights.repository import (
    HUB_PREFIX,
    FolderFiles,
    HubName,
    RepositoryFiles,
    hub_name,
    open_hub,
)

_log = logging.getLogger(__name__)


def registered(name: HubName, registry: Registry) -> Checkpoint | None:
    """The registry's entry that a repository is the first Hub source of, at a known revision.

    Raises `UnknownModelError` for a repository that has several checkpoints.
    """
    found = []
    for entry in registry.checkpoints.values():
        hub = [source for source in entry.sources if source.kind == "hub"]
        if hub and hub[0].repo == name.repo:
            revisions = {source.revision for source in hub if source.repo == name.repo}
            if not name.revision or name.revision in revisions:
                found.append(entry)
    if len(found) > 1:
        ids = ", ".join(entry.id for entry in found[:4]) + (", ..." if len(found) > 4 else "")
        raise UnknownModelError(f"{name} has {len(found)} checkpoints; name one of them: {ids}")
    return found[0] if found else None


def file_of(files: RepositoryFiles, registry: Registry | None) -> Path:
    """One of our files with the weights of a repository.

    Raises `LayoutError` and `DataError` for what cannot be read for sure, `FetchError` for a failed
    download.
    """
    repository = Repository(files)
    may_be_ours = repository.is_ours or not repository.is_video_model
    if may_be_ours and WEIGHTS_FILE in files.names:
        if not repository.is_ours:
            repository.refuse_other_models()
        if repository.is_ours or repository.holds_card():
            return repository.card()
    return _converted(repository, registry)


def _converted(repository: Repository, registry: Registry | None) -> Path:
    files = repository.files
    place = re.sub(r"[^\w.-]+", "-", files.place.removeprefix(HUB_PREFIX)).strip("-")[-60:]
    is_folder = isinstance(files, FolderFiles)
    known = os.path.abspath(files.place) if is_folder else files.place
    same = f"{place}.{hashlib.sha256(known.encode()).hexdigest()[:8]}"
    version = hashlib.sha256(f"{files.version} {__version__}".encode()).hexdigest()[:8]
    path = checkpoint_path(same, version)
    if not path.is_file():
        with lock(path):
            if not path.is_file():
                convert(repository, path, registry=registry)
        # A folder that a training writes again and again leaves one file here, not many.
        for old in path.parent.glob(f"{same}.*.safetensors") if is_folder else ():
            if old != path:
                old.unlink(missing_ok=True)
    for sentence in remarks(read_card(path)):
        _say(f"{files.place}: {sentence}")
    return path


def is_video_repository(name: str, progress: ProgressCallback | None = None) -> bool:
    """Whether a folder or a repository of the Hub holds a video model; False if it is not there.

    Asks the Hub for its files and reads its `config.json`.
    """
    hub = hub_name(name)
    if hub is None:
        folder = Path(name).expanduser()
        return folder.is_dir() and Repository(FolderFiles(folder)).is_video_model
    try:
        repository = Repository(open_hub(hub, progress, name.startswith(HUB_PREFIX)))
        return registered(hub, load_registry()) is not None or repository.is_video_model
    except (WeightsError, UnknownModelError):
        return False


@cache
def _say(sentence: str) -> None:
    """Log a sentence once per process, however often a model is resolved."""
    _log.warning("%s", sentence)


def compare_pixels(entry: Checkpoint, name: HubName) -> None:
    """Warn if the files of a registered repository prepare other pixels than its entry.

    Without a connection there is nothing to compare with.
    """
    try:
        stated = Repository(open_hub(name)).stated()
    except WeightsError:
        return
    own = stated.pipeline
    if own is None or stated.facts.get("pixels", "").startswith("not stated"):
        return
    here, there = value_range(entry.pipeline), value_range(own)
    if here != there:
        pipelines = load_registry().pipelines
        same = [n for n, p in pipelines.items() if n.startswith(entry.arch)]
        same = [n for n in same if value_range(pipelines[n]) == there]
        way = f"; --pipeline {same[0]} follows the repository" if same else ""
        _say(
            f"warning: {name}: the registry prepares pixels for {entry.id} with values {here}, "
            f"{stated.facts['pixels']} of the repository with values {there}; the registry is "
            f"followed{way}"
        )


def value_range(pipeline: Pipeline) -> str:
    """The values that black and white have after normalization."""
    import torch

    from vtcli.video.transforms import normalize_clip

    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 1).T[:, None, None]
    clip = normalize_clip(black_and_white, pipeline.normalize, pipeline.mean, pipeline.std)
    return f"{clip.min().item():.3g} to {clip.max().item():.3g}"
