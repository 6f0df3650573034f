"""Fetching weights: from a registry row to a whole and verified file on this disk.

A row's sources are tried one after the other: files that are already here, then the Hugging Face
Hub (through its own client and cache) and plain https in the row's order. Every file is checked
against the size and sha256 that are known; one that fails is removed. The environment variables of
the Hub's client (offline mode, proxies, certificates) hold for https too, which uses its session.
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
LOOK_AT_HUB = "look on the Hub for what the repository holds"

# Such a name could be any checkpoint: in $VT_WEIGHTS it counts only where a digest can tell.
COMMON_NAMES = {"model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "checkpoint"}
SUFFIXES = {
    "safetensors": (".safetensors",),
    "pickle": (".pth", ".pyth", ".pt", ".bin", ".ckpt"),
    "msgpack": (".msgpack", ""),
}


@dataclass(frozen=True)
class Fetched:
    """A whole and verified file, its source, its sha256 (computed from the bytes) and its size."""

    path: Path
    source: Source
    sha256: str
    size: int


def fetch(
    row: Checkpoint, *, progress: ProgressCallback | None = None, alternatives: Sequence[str] = ()
) -> Fetched:
    """The file of a checkpoint in its upstream's format, from the first source with a good one.

    `progress(name, bytes_done, bytes_total)` hears of every piece that arrives; `alternatives` are
    ids to name where nothing could be fetched. Raises `FetchError` (`DigestError` where every
    source gave a wrong file) and, for a full or closed disk, `DataError`.
    """
    failures: list[tuple[str, SourceError | DigestError]] = []
    for path, source in _local_files(row):
        try:
            return _checked(path, source)
        except (SourceError, DigestError) as failure:
            failures.append((str(path), failure))
    for source in row.sources:
        if source.kind not in _DOWNLOADS or source.state == "dead" or not source.convertible:
            continue
        try:
            return _DOWNLOADS[source.kind](source, progress)
        except (SourceError, DigestError) as failure:
            failures.append((source.address, failure))
    if not failures:
        raise FetchError(_nothing_to_try(row, alternatives))
    raise _all_failed(row.id, failures, alternatives)


def fetch_hub_file(
    repo: str,
    revision: str | None,
    names: Sequence[str],
    *,
    progress: ProgressCallback | None = None,
) -> Path:
    """The first of `names` that a Hub repository has, in the Hub's cache.

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
                raise FetchError(f"cannot fetch {name} of {place}: {failure}; {way}") from failure
    raise ValueError("fetch_hub_file needs at least one name")


# --- files that are already here ------------------------------------------------------------------


def _local_files(row: Checkpoint) -> Iterator[tuple[Path, Source]]:
    """Local sources, then files of $VT_WEIGHTS that bear a source's name or the checkpoint's id.

    A dead link's file is as good as any once the user has it. Sources with a digest come first, so
    that a file is taken for what it is.
    """
    usable = [source for source in row.sources if source.convertible]
    yield from ((Path(s.file).expanduser(), s) for s in usable if s.kind == "local")
    folder = _weights_folder()
    if folder is None:
        return
    for source in sorted(usable, key=lambda s: not _has_digest(s)):
        names = [row.id + suffix for suffix in SUFFIXES[source.trust]]
        if _has_digest(source) or _file_name(source) not in COMMON_NAMES:
            names.insert(0, _file_name(source))
        yield from ((folder / name, source) for name in names if (folder / name).is_file())


def _weights_folder() -> Path | None:
    named = os.environ.get("VT_WEIGHTS")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"VT_WEIGHTS names {folder}, which is no folder; make or unset it")
    return folder


def _file_name(source: Source) -> str:
    return PurePosixPath(unquote(urlsplit(source.url).path) or source.file).name


def _has_digest(source: Source) -> bool:
    return bool(source.sha256 or source.sha256_prefix)


# --- checking -------------------------------------------------------------------------------------


def _checked(path: Path, source: Source) -> Fetched:
    """The file with its digest; raises `DigestError` where size or digest are not as known."""
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
    """A Hub source in the Hub's cache; a damaged copy found there is removed and fetched anew."""
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
    """A Hub file in the Hub's cache, and whether it was there before; raises `SourceError`."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError

    def download() -> Path:
        if not was_cached:
            # A quick question first: the download would ask an unknown host for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision))
        bar = _progress_bar(PurePosixPath(file).name, progress)
        return Path(hub.hf_hub_download(repo, file, revision=revision, tqdm_class=bar))

    try:
        was_cached = isinstance(hub.try_to_load_from_cache(repo, file, revision=revision), str)
        return with_retries(download, urlsplit(hub.constants.ENDPOINT).netloc), was_cached
    except HFValidationError as error:
        raise SourceError("not the name of a repository", "write it as hf://org/name") from error


def _discard(path: Path) -> None:
    """Remove a file from the Hub's cache: its name in the snapshot and the blob behind it."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    path.unlink()
    if blob is not None:
        blob.unlink(missing_ok=True)


def _progress_bar(name: str, progress: ProgressCallback | None) -> Any:
    """A stand-in for the class tqdm: its instances report to `progress` and print nothing."""

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
            """Bytes on the wire, which some transfers tell apart from bytes of the file."""

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *args, **kwargs: None  # refresh, close and the like: nothing is drawn

    return Bar


# --- https ----------------------------------------------------------------------------------------


def _from_https(source: Source, progress: ProgressCallback | None) -> Fetched:
    """An https source in our downloads folder, taken up again where an earlier try broke off."""
    # Several sources have a file called `checkpoint`: the address tells them apart.
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
    """Fetch what `part` still lacks of the file at `url`; returns when it is whole.

    If-Range (RFC 9110, 13.1.5) has the server send all of a file that changed since then.
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
            raise ConnectionError("the rest of the file is refused, so it is fetched anew")
        response.raise_for_status()
        if not resumed:
            done = 0
            part.unlink(missing_ok=True)
            _keep_validator(response.headers, _validator(part))
        _append(response, part, done, name, progress)


def _append(
    response: Any, part: Path, done: int, name: str, progress: ProgressCallback | None
) -> None:
    """Write what arrives behind the `done` bytes of `part`; the session tells of an early end."""
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else None
    with part.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(name, done, total)


def _validator(part: Path) -> Path:
    """The file that notes which version of a remote file the bytes of `part` belong to."""
    return part.with_name(f"{part.name}.etag")


def _keep_validator(headers: Any, validator: Path) -> None:
    etag = headers.get("ETag", "")
    # A weak ETag does not promise equal bytes; the date of the last change is the next best.
    mark = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    if mark:
        validator.write_text(mark)
    else:
        validator.unlink(missing_ok=True)


_DOWNLOADS = {"hub": _from_hub, "https": _from_https}


# --- sentences ------------------------------------------------------------------------------------


def _all_failed(
    checkpoint_id: str,
    failures: Sequence[tuple[str, SourceError | DigestError]],
    alternatives: Sequence[str],
) -> FetchError:
    """One sentence about every source that was tried."""
    reasons = "; ".join(f"{place}: {failure}" for place, failure in failures)
    ways = [f.hint if isinstance(f, SourceError) else USE_OWN_COPY for _, f in failures]
    only_digests = all(isinstance(failure, DigestError) for _, failure in failures)
    kind = DigestError if only_digests else FetchError
    return kind(f"cannot fetch {checkpoint_id} ({reasons}); {_ways_out(ways, alternatives)}")


def _nothing_to_try(row: Checkpoint, alternatives: Sequence[str]) -> str:
    """One sentence about a row whose sources are all dead or of no use."""
    known = "; ".join(f"{source.address}: {_useless(source)}" for source in row.sources)
    ways = _ways_out([USE_OWN_COPY], alternatives)
    return f"cannot fetch {row.id} ({known or 'it was never published'}); {ways}"


def _useless(source: Source) -> str:
    if source.state != "dead":
        return "in a format that cannot be converted"
    return f"dead when last checked, {source.checked}" if source.checked else "dead"


def _ways_out(ways: Sequence[str], alternatives: Sequence[str]) -> str:
    others = [f"use {' or '.join(alternatives[:3])} instead"] if alternatives else []
    in_order = sorted([*ways, *others], key=lambda way: way == USE_OWN_COPY)
    return ", or ".join(dict.fromkeys(in_order))
