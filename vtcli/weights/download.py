"""Download weights: from a registry entry to a complete and verified file on this disk.

An entry's sources are tried one after the other: files that are already here, then the Hugging Face
Hub (through its client and cache) and plain https in the entry's order. Every file is checked
against the known size and sha256; a file that fails is removed. The environment variables of the
Hub's client (offline mode, proxies, certificates) apply to https too, which uses its session.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vtcli.errors import DataError, DigestError, FetchError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.cache import cache_dir, lock
from vtcli.weights.download_errors import USE_OWN_COPY, SourceError, with_retries

if TYPE_CHECKING:
    from vtcli.weights.registry import Checkpoint, Source

TIMEOUT_S = 30.0
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
        if source.kind not in _DOWNLOADS or source.link_status == "dead" or not source.convertible:
            continue
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

    place = f"hf://{repo}" + (f"@{revision}" if revision else "")
    for name in names:
        try:
            return _hub_download(repo, name, revision, progress)[0]
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
    usable = [source for source in entry.sources if source.convertible]
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
    revision = source.revision or None
    path, was_cached = _hub_download(source.repo, source.file, revision, progress)
    try:
        return _checked(path, source)
    except DigestError:
        _discard(path)
        if not was_cached:
            raise
    return _from_hub(source, progress)


def _hub_download(
    repo: str, file: str, revision: str | None, progress: ProgressCallback | None
) -> tuple[Path, bool]:
    """A Hub file in the Hub's cache, and whether it was cached before; raises `SourceError`."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError

    def download() -> Path:
        if not was_cached:
            # A HEAD request first: the download would retry an unknown host for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision))
        bar = _progress_bar(PurePosixPath(file).name, progress)
        return Path(hub.hf_hub_download(repo, file, revision=revision, tqdm_class=bar))

    try:
        was_cached = isinstance(hub.try_to_load_from_cache(repo, file, revision=revision), str)
        return with_retries(download, urlsplit(hub.constants.ENDPOINT).netloc), was_cached
    except HFValidationError as error:
        raise SourceError("not the name of a repository", "write it as hf://org/name") from error


def _discard(path: Path) -> None:
    """Remove a file from the Hub's cache: the link in the snapshot and the blob it points to."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    path.unlink()
    if blob is not None:
        blob.unlink(missing_ok=True)


def _progress_bar(name: str, progress: ProgressCallback | None) -> Any:
    """A replacement for the class tqdm whose instances call `progress` and print nothing."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.total = total
            self.n = initial

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if progress is not None:
                progress(name, self.n, self.total)

        def update_transfer(self, n: float) -> None:
            """Bytes on the wire, which some transfers count separately from bytes of the file."""

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *args, **kwargs: None  # refresh, close and the like

    return Bar


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
        host = urlsplit(source.url).netloc
        with_retries(lambda: _resume(source.url, part, _file_name(source), progress), host)
        _validator(part).unlink(missing_ok=True)
        try:
            fetched = _checked(part, source)
        except DigestError:
            part.unlink()
            raise
        part.replace(target)
    return replace(fetched, path=target)


def _resume(url: str, part: Path, name: str, progress: ProgressCallback | None) -> None:
    """Download the missing rest of `part` from `url`; returns when the file is complete.

    If-Range (RFC 9110, 13.1.5) makes the server send the whole file if it has changed since then.
    """
    from huggingface_hub import get_session

    done = part.stat().st_size if part.is_file() and _validator(part).is_file() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "vtcli"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": _validator(part).read_text()}
    with get_session().stream(
        "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
    ) as response:
        piece = response.headers.get("Content-Range", "")
        if response.status_code == 416 and piece == f"bytes */{done}":
            return
        resumed = response.status_code == 206 and piece.startswith(f"bytes {done}-")
        if response.status_code in (206, 416) and not resumed:
            part.unlink(missing_ok=True)
            raise ConnectionError(
                "the server refused to resume; the file is downloaded from the start"
            )
        response.raise_for_status()
        if not resumed:
            done = 0
            part.unlink(missing_ok=True)
            _save_validator(response.headers, _validator(part))
        _append(response, part, done, name, progress)


def _append(
    response: Any, part: Path, done: int, name: str, progress: ProgressCallback | None
) -> None:
    """Append the response to the `done` bytes of `part`; the session raises if it ends early."""
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else None
    with part.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(name, done, total)


def _validator(part: Path) -> Path:
    """The file that stores which version of the remote file the bytes of `part` belong to."""
    return part.with_name(f"{part.name}.etag")


def _save_validator(headers: Any, validator: Path) -> None:
    etag = headers.get("ETag", "")
    # A weak ETag does not guarantee equal bytes; Last-Modified is the next best.
    version = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    if version:
        validator.write_text(version)
    else:
        validator.unlink(missing_ok=True)


_DOWNLOADS = {"hub": _from_hub, "https": _from_https}


# --- messages -------------------------------------------------------------------------------------


def _all_failed(
    checkpoint_id: str,
    failures: Sequence[tuple[str, SourceError | DigestError]],
    alternatives: Sequence[str],
) -> FetchError:
    """One sentence that names every source that was tried."""
    reasons = "; ".join(f"{place}: {failure}" for place, failure in failures)
    hints = [f.hint if isinstance(f, SourceError) else USE_OWN_COPY for _, f in failures]
    only_digests = all(isinstance(failure, DigestError) for _, failure in failures)
    kind = DigestError if only_digests else FetchError
    return kind(f"cannot download {checkpoint_id} ({reasons}); {_hint(hints, alternatives)}")


def _nothing_to_try(entry: Checkpoint, alternatives: Sequence[str]) -> str:
    """One sentence about an entry whose sources are all dead or not convertible."""
    known = "; ".join(f"{source.address}: {_why_not(source)}" for source in entry.sources)
    hint = _hint([USE_OWN_COPY], alternatives)
    return f"cannot download {entry.id} ({known or 'it was never published'}); {hint}"


def _why_not(source: Source) -> str:
    if source.link_status != "dead":
        return "in a format that cannot be converted"
    return f"dead when last checked, {source.checked}" if source.checked else "dead"


def _hint(hints: Sequence[str], alternatives: Sequence[str]) -> str:
    others = [f"use {' or '.join(alternatives[:3])} instead"] if alternatives else []
    in_order = sorted([*hints, *others], key=lambda hint: hint == USE_OWN_COPY)
    return ", or ".join(dict.fromkeys(in_order))
