"""The files of a model repository: a folder, or one commit of a repository of the Hugging Face Hub.

Files of a Hub repository are all taken from one commit, which is looked up once; without a
connection it is the commit that the Hub's cache has.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vtcli.errors import FetchError, InputError, UnknownModelError, UsageError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.names import is_revision

_log = logging.getLogger(__name__)
HUB_PREFIX = "hf://"
# A name that ends in one of these is a path, whether there is such a file or not.
FILE_EXTENSIONS = (
    *(".safetensors", ".onnx", ".xml", ".npz", ".msgpack"),
    *(".pth", ".pyth", ".pt", ".pt2", ".bin", ".ckpt"),
)
_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}[\w])?"
_REPO = re.compile(rf"({_NAME}/{_NAME})(?:@([\w][\w./-]{{0,254}}))?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """A repository of the Hub and a branch, tag or commit; "" for the main branch."""

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName | None:
    """The Hub repository that `hf://org/repo[@revision]` or `org/repo[@revision]` names.

    A word that is a file or folder here, or that ends like a file, is not a repository. Raises
    `UsageError` for `hf://` with anything else, and for addresses such as https://.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "hf":
        raise UsageError(f"'{text[:200]}' is an address, not a model; {_way_from(scheme, rest)}")
    bare = text.removeprefix(HUB_PREFIX)
    match = _REPO.fullmatch(bare)
    if match is not None and (".." in bare or "--" in match[1] or not is_revision(match[2] or "x")):
        match = None
    if text.startswith(HUB_PREFIX):
        if match is None:
            raise UsageError(
                f"'{text}' is not a repository of the Hub; write hf://org/repo, or "
                "hf://org/repo@revision"
            )
        return HubName(match[1], match[2] or "")
    if match is None or bare.endswith(FILE_EXTENSIONS) or os.path.exists(bare):
        return None
    return HubName(match[1], match[2] or "")


def _way_from(scheme: str, rest: str) -> str:
    """What to write for an address, such as that of a repository's page."""
    page = re.sub(r"^(www\.)?(huggingface|hf)\.co/", "", rest)
    name = "/".join(page.split("/")[:2])
    if (page != rest or scheme.lower() == "hf") and _REPO.fullmatch(name):
        return f"write {HUB_PREFIX}{name}"
    return "write hf://org/repo for a repository of the Hub, or download the file and name it"


class RepositoryFiles(Protocol):
    """Named files. `place` is the repository in messages, `version` changes with its content."""

    @property
    def place(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def names(self) -> frozenset[str]: ...

    def get(self, name: str) -> Path:
        """The path of one of `names` on this disk."""
        ...


class FolderFiles:
    """The files directly inside a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder)
        try:
            entries = [entry for entry in os.scandir(folder) if entry.is_file()]
            facts = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
        except OSError as error:
            raise InputError(f"{folder} cannot be read: {error.strerror}") from error
        self.names = frozenset(name for name, _, _ in facts)
        self.version = repr(facts)

    def get(self, name: str) -> Path:
        """The path of a file."""
        return self.folder / name


class HubFiles:
    """The files of one commit of a Hub repository, downloaded to the Hub's cache when needed."""

    def __init__(
        self, name: HubName, commit: str, names: frozenset[str], progress: ProgressCallback | None
    ) -> None:
        self.repo, self.version, self.names, self.progress = name.repo, commit, names, progress
        self.place, self.revision = str(name), name.revision or "main"

    def get(self, name: str) -> Path:
        """The path of a file; raises `FetchError`."""
        from vtcli.weights.download import fetch_hub_file
        from vtcli.weights.hub_files import remember_commit

        path = fetch_hub_file(self.repo, self.version, [name], progress=self.progress)
        remember_commit(self.repo, self.revision, self.version)
        return path


_looked_up: ContextVar[dict[HubName, HubFiles] | None] = ContextVar("looked_up", default=None)


@contextmanager
def one_commit_each() -> Iterator[None]:
    """Inside, each repository of the Hub is looked up once, so that all files are of one commit."""
    token = _looked_up.set({})
    try:
        yield
    finally:
        _looked_up.reset(token)


def open_hub(
    name: HubName, progress: ProgressCallback | None = None, explicit: bool = True
) -> HubFiles:
    """A Hub repository at the commit that its revision has now, or in the Hub's cache if offline.

    `explicit`: it was named with hf://, so that no path can be meant. Raises `FetchError` and, for
    a repository that does not exist and may be a mistyped path, `UnknownModelError`.
    """
    known = _looked_up.get()
    if known is not None and name in known:
        return known[name]
    found = _open_hub(name, progress, explicit)
    if known is not None:
        known[name] = found
    return found


def _open_hub(name: HubName, progress: ProgressCallback | None, explicit: bool) -> HubFiles:
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from vtcli.weights.download_errors import (
        TRY_AGAIN,
        USE_OWN_COPY,
        SourceError,
        hub_host,
        with_retries,
    )
    from vtcli.weights.transfer import FIRST_ANSWER_S, Budget

    def look_up() -> HubFiles:
        api = hub.HfApi()
        try:
            info = api.model_info(name.repo, revision=name.revision or None, timeout=FIRST_ANSWER_S)
        except ValueError as error:  # the answer is not JSON
            raise SourceError(
                f"{hub_host()} does not answer as a Hub does", "check HF_ENDPOINT"
            ) from error
        names = frozenset(file.rfilename for file in info.siblings or ())
        return HubFiles(name, str(info.sha), names, progress)

    try:
        return with_retries(look_up, hub_host(), Budget())
    except SourceError as failure:
        is_closed = isinstance(failure.__cause__, RepositoryNotFoundError)
        cached = None if is_closed else _cached(name, progress)
        if cached is not None:
            if failure.hint == TRY_AGAIN:
                _log.warning("%s: %s, so the cached copy is used", name, failure)
            return cached
        if is_closed and not explicit and not isinstance(failure.__cause__, GatedRepoError):
            raise UnknownModelError(
                f"there is no file or folder {name.repo} here, and {name} is {failure}; "
                f"{failure.hint}"
            ) from failure
        hint = failure.hint if failure.hint != USE_OWN_COPY else "check its name and revision"
        raise FetchError(f"cannot look up {name}: {failure}; {hint}") from failure


def _cached(name: HubName, progress: ProgressCallback | None) -> HubFiles | None:
    """The repository as the Hub's cache has it; None if nothing of it is there."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    ref = root / "refs" / (name.revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else name.revision
    snapshots = root / "snapshots"
    if not commit and snapshots.is_dir():
        # Files that were fetched by their commit leave no branch behind.
        newest = sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime)
        commit = newest[-1].name if newest else ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit or "") or not (snapshots / commit).is_dir():
        return None
    files = frozenset(path.name for path in (snapshots / commit).iterdir())
    return HubFiles(name, commit, files, progress)
