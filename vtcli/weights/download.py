"""Download weights: from a registry entry to a complete and verified file on this disk.

An entry's sources are tried one after the other: files that are already here, then the Hugging Face
Hub (through its client and cache) and plain https in the entry's order. Every file is checked
against the known size and sha256, a Hub file against its ETag too; a file that fails is removed.
The environment variables of the Hub's client (offline mode, proxies, certificates) apply to both.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from vtcli.errors import DataError, DigestError, FetchError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.cache import cache_dir, lock
from vtcli.weights.download_errors import (
    GO_ONLINE,
    TRY_AGAIN,
    USE_OWN_COPY,
    SourceError,
    with_retries,
)
from vtcli.weights.hub_files import HubFile, discard, hub_file
from vtcli.weights.transfer import Budget, Remote, remove_validator, transfer

if TYPE_CHECKING:
    from vtcli.weights.registry import Checkpoint, Source

BUNDLED = "uniformerv2-nano"
SHORT_ADDRESS = 60  # characters; a longer one hides the reason behind it
LOOK_AT_HUB = "look up the repository's files on the Hub"

# Any checkpoint can have such a name: in $VT_WEIGHTS it is used only if its digest is known.
COMMON_NAMES = {"model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "checkpoint"}
EXTENSIONS = {
    "safetensors": (".safetensors",),
    "pickle": (".pth", ".pyth", ".pt", ".bin", ".ckpt"),
    "msgpack": (".msgpack", ""),
}


@dataclass(frozen=True)
class Fetched:
    """A complete and verified file, its source, its sha256 (of the bytes read) and its size."""

    path: Path
    source: Source
    sha256: str
    size: int


def fetch(
    entry: Checkpoint, *, progress: ProgressCallback | None = None, alternatives: Sequence[str] = ()
) -> Fetched:
    """A checkpoint's file in its upstream's format, from the first source that has a valid one.

    `progress(name, bytes_done, bytes_total)` is called for every chunk; `alternatives` are ids to
    suggest if the download fails. Raises `FetchError` (`DigestError` if every source gave a file
    with a wrong digest) and `DataError` for a full or read-only disk.
    """
    failures: list[tuple[str, SourceError | DigestError]] = []
    for path, source in _local_files(entry):
        try:
            return _checked(path, source)
        except (SourceError, DigestError) as failure:
            failures.append((str(path), failure))
    for source in entry.sources:
        if (
            source.kind not in _DOWNLOADS
            or source.link_status == "dead"
            or not entry.may_use(source)
        ):
            continue
        if progress:
            progress(f"asking {_host(source)}", 0, None)
        try:
            return _DOWNLOADS[source.kind](source, progress)
        except (SourceError, DigestError) as failure:
            failures.append((source.address, failure))
    if not failures:
        raise FetchError(_nothing_to_try(entry, alternatives))
    raise _all_failed(entry.id, failures, alternatives)


def fetch_hub_file(
    repo: str,
    revision: str | None,
    names: Sequence[str],
    *,
    progress: ProgressCallback | None = None,
) -> Path:
    """The first of `names` that a Hub repository has, downloaded to the Hub's cache.

    Raises `FetchError` naming file, repository and reason, and `DataError` for a full disk.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    shown = revision[:12] if revision and re.fullmatch("[0-9a-f]{40}", revision) else revision
    place = f"hf://{repo}" + (f"@{shown}" if shown else "")
    for name in names:
        try:
            return hub_file(HubFile(repo, name, revision), progress)[0]
        except DigestError as failure:
            raise DigestError(
                f"cannot download {name} of {place}: {failure}; run the command again"
            ) from failure
        except SourceError as failure:
            is_absent = isinstance(failure.__cause__, RemoteEntryNotFoundError)
            if not is_absent or name == names[-1]:
                way = failure.hint if failure.hint != USE_OWN_COPY else LOOK_AT_HUB
                raise FetchError(
                    f"cannot download {name} of {place}: {failure}; {way}"
                ) from failure
    raise ValueError("fetch_hub_file needs at least one name")


# --- files that are already here ------------------------------------------------------------------


def _local_files(entry: Checkpoint) -> Iterator[tuple[Path, Source]]:
    """Local sources, then files of $VT_WEIGHTS named like a source's file or the checkpoint's id.

    Files of dead links count too. Sources with a digest come first, so that a file is matched with
    the source whose digest it has.
    """
    usable = [source for source in entry.sources if entry.may_use(source)]
    yield from ((Path(s.file).expanduser(), s) for s in usable if s.kind == "local")
    folder = _weights_folder()
    if folder is None:
        return
    for source in sorted(usable, key=lambda s: not _has_digest(s)):
        names = [entry.id + extension for extension in EXTENSIONS[source.serialization]]
        if _has_digest(source) or _file_name(source) not in COMMON_NAMES:
            names.insert(0, _file_name(source))
        yield from ((folder / name, source) for name in names if (folder / name).is_file())


def _weights_folder() -> Path | None:
    named = os.environ.get("VT_WEIGHTS")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"VT_WEIGHTS names {folder}, which is not a folder; create it or unset the variable"
        )
    return folder


def _file_name(source: Source) -> str:
    return PurePosixPath(unquote(urlsplit(source.url).path) or source.file).name


def _host(source: Source) -> str:
    """Where a source is downloaded from, in a word."""
    return urlsplit(source.url).netloc or f"hf://{source.repo}"


def _has_digest(source: Source) -> bool:
    return bool(source.sha256 or source.sha256_prefix)


# --- checking -------------------------------------------------------------------------------------


def _checked(path: Path, source: Source) -> Fetched:
    """The file with its digest; raises `DigestError` if its size or digest is not the known one."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})", USE_OWN_COPY) from error
    if source.bytes is not None and size != source.bytes:
        raise DigestError(f"wrong size, expected {source.bytes} bytes but found {size}")
    expected = (source.sha256 or source.sha256_prefix).lower()
    if not digest.startswith(expected):
        found = digest[: len(expected)]
        raise DigestError(f"wrong digest, expected sha256 {expected} but found {found}")
    return Fetched(path, source, digest, size)


# --- the Hub --------------------------------------------------------------------------------------


def _from_hub(source: Source, progress: ProgressCallback | None) -> Fetched:
    """A Hub source in the Hub's cache; a damaged copy there is removed and downloaded again."""
    file = HubFile(source.repo, source.file, source.revision or None)
    path, was_cached = hub_file(file, progress)
    try:
        return _checked(path, source)
    except DigestError:
        discard(path)
        if not was_cached:
            raise
    return _from_hub(source, progress)


# --- https ----------------------------------------------------------------------------------------


def _from_https(source: Source, progress: ProgressCallback | None) -> Fetched:
    """An https source in our downloads folder; an interrupted download is resumed."""
    # Several sources have a file named `checkpoint`: a hash of the address distinguishes them.
    tag = hashlib.sha256(source.url.encode()).hexdigest()[:8]
    target = cache_dir() / "downloads" / f"{tag}-{_file_name(source)}"
    part = target.with_name(f"{target.name}.part")
    with lock(target):
        if target.is_file():
            try:
                return _checked(target, source)
            except DigestError:
                target.unlink()
        remote, budget = Remote(source.url, _file_name(source)), Budget()
        with_retries(lambda: transfer(remote, part, budget, progress), remote.host, budget)
        remove_validator(part)
        try:
            fetched = _checked(part, source)
        except DigestError:
            part.unlink()
            raise
        part.replace(target)
    return replace(fetched, path=target)


_DOWNLOADS = {"hub": _from_hub, "https": _from_https}


# --- messages -------------------------------------------------------------------------------------


def _all_failed(
    checkpoint_id: str,
    failures: Sequence[tuple[str, SourceError | DigestError]],
    alternatives: Sequence[str],
) -> FetchError:
    """What went wrong with every source that was tried, and the ways out."""
    first_hint = getattr(failures[0][1], "hint", "")
    if first_hint in (TRY_AGAIN, GO_ONLINE) and all(
        getattr(failure, "hint", "") == first_hint for _, failure in failures
    ):
        return _no_connection(checkpoint_id, failures)
    reasons = "; ".join(f"{place}: {failure}" for place, failure in failures)
    hints = [f.hint if isinstance(f, SourceError) else USE_OWN_COPY for _, f in failures]
    only_digests = all(isinstance(failure, DigestError) for _, failure in failures)
    kind = DigestError if only_digests else FetchError
    return kind(f"cannot download {checkpoint_id} ({reasons}); {_hint(hints, alternatives)}")


def _no_connection(
    checkpoint_id: str, failures: Sequence[tuple[str, SourceError | DigestError]]
) -> FetchError:
    """Nothing could be reached: other checkpoints would come over the same network."""
    told = (f"{place}: {f}" if len(place) <= SHORT_ADDRESS else str(f) for place, f in failures)
    reasons = "; ".join(dict.fromkeys(told))
    way = getattr(failures[0][1], "hint", TRY_AGAIN)
    if way == TRY_AGAIN:
        way += "; a proxy is set with HTTPS_PROXY, a mirror of the Hub with HF_ENDPOINT"
    file = PurePosixPath(failures[0][0]).name.split("@")[0]
    return FetchError(
        f"cannot download {checkpoint_id}: {reasons}\n"
        f"  {way}\n"
        f"  or {USE_OWN_COPY}, {file}\n"
        f"  without a network: -m {BUNDLED}, which is part of vt and knows synthetic motions"
    )


def _nothing_to_try(entry: Checkpoint, alternatives: Sequence[str]) -> str:
    """One sentence about an entry whose sources are all dead or not convertible."""
    known = "; ".join(f"{source.address}: {_why_not(source)}" for source in entry.sources)
    hint = _hint([USE_OWN_COPY], alternatives)
    return f"cannot download {entry.id} ({known or 'it was never published'}); {hint}"


def _why_not(source: Source) -> str:
    if source.unverified:
        return "not proven to have the published weights"
    if source.link_status != "dead":
        return "in a format that cannot be converted"
    return f"dead when last checked, {source.checked}" if source.checked else "dead"


def _hint(hints: Sequence[str], alternatives: Sequence[str]) -> str:
    others = [f"use {' or '.join(alternatives[:3])} instead"] if alternatives else []
    in_order = sorted([*hints, *others], key=lambda hint: hint == USE_OWN_COPY)
    return ", or ".join(dict.fromkeys(in_order))
