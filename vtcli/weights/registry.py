"""The registry: every known checkpoint, read from weights_registry.toml and the user's own files.

An entry says what a checkpoint is, where it is stored, how it is tested and what it scores.
Everything that varies by checkpoint is data in an entry. $VT_REGISTRY names further files of the
same form (separated like $PATH), or `hf://org/repo` for the registry.toml of a repository: their
entries are added, and an entry with a known id is merged into it, its sources first.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from vtcli.errors import DataError, FetchError, UnknownModelError, UsageError
from vtcli.video.pipeline import Pipeline
from vtcli.weights.registry_entry import Checkpoint, Source
from vtcli.weights.registry_file import MergedFiles

__all__ = [
    "Checkpoint",
    "Registry",
    "Source",
    "bundled_path",
    "load_registry",
    "named_pipeline",
    "registry_path",
]

REGISTRY_NAME = "weights_registry.toml"
# The registry file of a repository on the Hub.
REGISTRY_FILE = "registry.toml"
HUB_PREFIX = "hf://"


# Networks of the field that vt does not have: no name of its own is what was meant.
OTHER_NETWORKS = (
    *("c3d", "hiera", "i3d", "internvideo", "mvit", "r2plus1d", "r3d", "s3d", "slow"),
    *("timesformer", "tsm", "tsn", "videomae", "videomamba", "vjepa", "v-jepa", "x3d"),
)


@dataclass(frozen=True)
class Registry:
    """All entries, aliases and pipelines, in the order of the files."""

    checkpoints: Mapping[str, Checkpoint]
    model_defaults: Mapping[str, str]
    dataset_defaults: Mapping[str, tuple[str, ...]]
    pipelines: Mapping[str, Pipeline]

    @property
    def names(self) -> list[str]:
        """All aliases and ids."""
        return [*self.model_defaults, *self.checkpoints]

    def get(self, name: str) -> Checkpoint | None:
        """The entry for an id or alias, or None."""
        return self.checkpoints.get(self.model_defaults.get(name, name))

    def find(self, name: str) -> Checkpoint:
        """The entry for an id or alias.

        Raises `UnknownModelError` naming the nearest names.
        """
        entry = self.get(name)
        if entry is not None:
            return entry
        raise UnknownModelError(f"unknown model '{name}'; {self._hint(name)}")

    def _hint(self, name: str) -> str:
        """What was probably meant by a name that is not in the registry."""
        spelled = name.lower().replace("_", "-")
        if self.get(spelled) is not None:
            return f"did you mean {spelled}?"
        if spelled.startswith(OTHER_NETWORKS):
            return (
                "vt has Video Swin, ViViT, X-ViT and UniFormerV2; `vt models list` shows all "
                "checkpoints"
            )
        near = difflib.get_close_matches(spelled, self.names, n=3, cutoff=0.5)
        return f"did you mean {' or '.join(near)}?" if near else "see `vt models list`"

    def match(self, pattern: str) -> list[Checkpoint]:
        """All entries whose id or model matches a shell pattern, in registry order."""
        target = self.model_defaults.get(pattern, pattern)
        return [
            entry
            for entry in self.checkpoints.values()
            if fnmatch.fnmatchcase(entry.id, target) or fnmatch.fnmatchcase(entry.model, target)
        ]

    def default_for_dataset(self, dataset: str) -> Checkpoint:
        """The best checkpoint of a dataset that is still available.

        Raises `UnknownModelError` if the registry lists none.
        """
        for checkpoint_id in self.dataset_defaults.get(dataset, ()):
            if self.checkpoints[checkpoint_id].available:
                return self.checkpoints[checkpoint_id]
        raise UnknownModelError(
            f"no available checkpoint is registered for dataset '{dataset}'; name one with --model"
        )


def registry_path() -> Path:
    """The registry file: inside the installed package, or at the top of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / REGISTRY_NAME, package.parent / REGISTRY_NAME):
        if candidate.is_file():
            return candidate
    raise DataError(f"{REGISTRY_NAME} is missing from this installation; install vtcli again")


def load_registry(extra: Iterable[str | Path] | None = None) -> Registry:
    """Read the registry and the user's own files.

    `extra` names further files; None takes those of $VT_REGISTRY. Raises `DataError` naming the
    file and the entry.
    """
    if extra is None:
        extra = _named_in(os.environ.get("VT_REGISTRY", ""))
    files = [(registry_path(), "")]
    for name in map(str, extra):
        if name.startswith(HUB_PREFIX):
            files.append((_from_hub(name, _hub_place()), name))
        elif "://" in name:
            raise DataError(f"the registry {name} is neither a file nor hf://org/repo; name one")
        else:
            files.append((Path(name).expanduser(), ""))
    return _load(tuple(files))


def _named_in(text: str) -> list[str]:
    """The names in a list that is separated like $PATH; the colon of `hf://` separates nothing."""
    return [part for part in re.split(rf"{os.pathsep}(?!//)", text) if part]


def _hub_place() -> tuple[str, str]:
    from huggingface_hub import constants

    return constants.ENDPOINT, str(constants.HF_HUB_CACHE)


@cache
def _from_hub(name: str, place: tuple[str, str]) -> Path:
    """The registry file of a repository, asked for once per process and Hub (`place`)."""
    from vtcli.weights.download_errors import USE_OWN_COPY, SourceError
    from vtcli.weights.hub_files import HubFile, hub_file

    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    try:
        return hub_file(HubFile(repo, REGISTRY_FILE, revision or None))[0]
    except SourceError as failure:
        way = failure.hint
        if way == USE_OWN_COPY:
            way = f"name a repository with {REGISTRY_FILE}, which `vt models mirror ORG` writes"
        raise FetchError(
            f"cannot load the registry {name} that VT_REGISTRY names: {failure}; {way}"
        ) from failure


@cache
def _load(files: tuple[tuple[Path, str], ...]) -> Registry:
    merged = MergedFiles()
    for path, hub_name in files:
        merged.add(path, hub_name)
    return Registry(
        merged.checkpoints(), merged.model_defaults, merged.dataset_defaults, merged.pipelines
    )


def bundled_path(entry: Checkpoint, last_resort: bool = False) -> Path | None:
    """The file of this package that holds an entry's weights, in our format.

    None if the weights have to be downloaded because another source comes first. With
    `last_resort`, a bundled file counts at any position.
    """
    for source in entry.sources if last_resort else entry.sources[:1]:
        if source.kind == "bundled":
            return Path(__file__).resolve().parent / "bundled" / source.file
    return None


def named_pipeline(name: str | None, own: Pipeline) -> Pipeline:
    """A pipeline of the registry at a checkpoint's frame count and size; its own if `name` is None.

    Raises `UsageError` for an unknown name.
    """
    if name is None:
        return own
    pipelines = load_registry().pipelines
    if name not in pipelines:
        raise UsageError(f"there is no pipeline '{name}'; known are {', '.join(pipelines)}")
    chosen = pipelines[name]
    if own.channel_order == "gray":  # a network of one channel
        chosen = replace(chosen, channel_order="gray")
    short_side = round(chosen.short_side * own.crop_size / chosen.crop_size)
    return replace(chosen, frames=own.frames, crop_size=own.crop_size, short_side=short_side)
