"""Files of the Hugging Face Hub in the cache of its client, each checked against its ETag.

The ETag of a large file is its sha256, that of a small one its git blob id. The layout of the cache
is the documented one of `huggingface_hub` (blobs, snapshots, refs), which other tools share.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from vtcli.errors import DigestError
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.cache import cache_dir, lock
from vtcli.weights.download_errors import (
    GO_ONLINE,
    TRY_AGAIN,
    FileChangedError,
    SourceError,
    hub_host,
    with_retries,
)
from vtcli.weights.names import is_file, is_repo, is_revision
from vtcli.weights.transfer import (
    MAX_REDIRECTS,
    Budget,
    Remote,
    check_url,
    is_web_page,
    transfer,
    web_page,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ETAG = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a revision (None: its main branch)."""

    repo: str
    name: str
    revision: str | None = None

    def check(self) -> None:
        """Raise `SourceError` for a name that no repository can have."""
        if not is_repo(self.repo):
            raise SourceError("not the name of a repository", "write it as hf://org/name")
        if self.revision is not None and not is_revision(self.revision):
            raise SourceError("not the name of a revision", "name a branch, a tag or a commit")
        if not is_file(self.name):
            raise SourceError(f"{self.name!r} is not the name of a file there", "correct the name")


@dataclass(frozen=True)
class _Metadata:
    """What a HEAD request says of a file."""

    commit: str
    etag: str
    size: int | None
    location: str


def hub_file(file: HubFile, progress: ProgressCallback | None = None) -> tuple[Path, bool]:
    """A verified file in the Hub's cache, and whether it was there before.

    A file at a commit is downloaded once; for a branch the Hub is asked for the newest version, and
    without a connection the cached one is used. Raises `SourceError`, and `DigestError` for bytes
    that are not those of the ETag; these are removed.
    """
    file.check()
    cached = _cached(file)
    if cached is not None and file.revision and _COMMIT.fullmatch(file.revision):
        return cached, True
    host, budget = hub_host(), Budget()
    try:
        return with_retries(lambda: _download(file, budget, progress), host, budget)
    except SourceError as failure:
        if cached is None or failure.hint not in (TRY_AGAIN, GO_ONLINE):
            raise
        if failure.hint == TRY_AGAIN:
            _log.warning("hf://%s: %s, so the cached copy is used", file.repo, failure)
        return cached, True


def hub_version(file: HubFile) -> tuple[str, str] | None:
    """The ETag and the commit of a file on the Hub now; None where there is no such file.

    Raises `SourceError` if the Hub cannot be asked.
    """
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    file.check()
    host, budget = hub_host(), Budget()
    try:
        found = with_retries(lambda: _metadata(file, budget), host, budget)
    except SourceError as failure:
        if isinstance(failure.__cause__, EntryNotFoundError | RepositoryNotFoundError):
            return None
        raise
    return found.etag, found.commit


def discard(path: Path) -> None:
    """Remove a file from the Hub's cache: the link in the snapshot and the blob it points to."""
    blob = path.parent / path.readlink() if path.is_symlink() else None
    path.unlink()
    if blob is not None:
        blob.unlink(missing_ok=True)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cached(file: HubFile) -> Path | None:
    """The cached copy, if its bytes are those of its ETag; a damaged copy is removed."""
    import huggingface_hub as hub

    found = hub.try_to_load_from_cache(file.repo, file.name, revision=file.revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    try:
        _verify(path)
    except DigestError:
        discard(path)
        return None
    return path


def _download(
    file: HubFile, budget: Budget, progress: ProgressCallback | None
) -> tuple[Path, bool]:
    """Ask for the file's version, transfer what is missing of it, verify it and link it."""
    found = _metadata(file, budget)
    folder = _folder(file.repo)
    blob = folder / "blobs" / found.etag
    link = folder / "snapshots" / found.commit / file.name
    with lock(cache_dir() / "hub" / f"{file.repo.replace('/', '--')}--{found.etag}"):
        was_cached = blob.is_file()
        if not was_cached:
            blob.parent.mkdir(parents=True, exist_ok=True)
            part = blob.with_name(f"{blob.name}.incomplete")
            remote = Remote(
                found.location,
                PurePosixPath(file.name).name,
                found.size,
                found.etag,
                _headers()
                if urlsplit(found.location).netloc == urlsplit(_endpoint()).netloc
                else {},
                urlsplit(_endpoint()).netloc,
            )
            was_started = part.is_file()
            transfer(remote, part, budget, progress)
            try:
                check_digest(part, found.etag)
            except DigestError as error:
                part.unlink()
                if was_started:
                    budget.restart()
                    raise FileChangedError(str(error)) from error
                raise
            part.replace(blob)
        _link(blob, link)
        _save_reference(file.repo, file.revision or "main", found.commit)
    _verify(link)
    return link, was_cached


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers())


def _metadata(file: HubFile, budget: Budget) -> _Metadata:
    """The version of a file, from the Hub's headers; redirects within the Hub are followed."""
    import huggingface_hub as hub
    from huggingface_hub.utils import hf_raise_for_status

    url = hub.hf_hub_url(file.repo, file.name, revision=file.revision)
    host = urlsplit(_endpoint()).netloc
    remote = Remote(url, file.name, trusted_host=host)
    for _ in range(MAX_REDIRECTS):
        check_url(url, remote)
        response: Any = hub.get_session().request(
            "HEAD",
            url,
            headers={**_headers(), "Accept-Encoding": "identity"},
            timeout=budget.timeout_s,
            follow_redirects=False,
        )
        budget.answered()
        if response.status_code >= 400:
            hf_raise_for_status(response)
        target = response.headers.get("Location", "")
        is_redirect = 300 <= response.status_code < 400 and target
        # A relative redirect leads to the new name of a repository, an absolute one to the bytes.
        if not is_redirect or urlsplit(target).netloc:
            break
        url = urljoin(url, target)
    else:
        raise SourceError(f"{host} redirects in a circle", TRY_AGAIN)
    return _read_metadata(response.headers, target if is_redirect else url, file, host)


def _read_metadata(headers: Any, location: str, file: HubFile, host: str) -> _Metadata:
    etag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    commit = headers.get("X-Repo-Commit") or ""
    size = headers.get("X-Linked-Size") or ("" if location else headers.get("Content-Length", ""))
    if not _ETAG.fullmatch(etag) or ".." in etag or not _COMMIT.fullmatch(commit):
        if is_web_page(headers, file.name):
            raise web_page(host)
        if location and urlsplit(location).netloc == host and headers.get("Location"):
            raise SourceError(f"{host} redirects in a circle", TRY_AGAIN)
        raise SourceError(f"{host} does not answer as a Hub does", "check HF_ENDPOINT")
    return _Metadata(commit, etag, int(size) if size.isdigit() else None, location)


def _link(blob: Path, link: Path) -> None:
    """The entry of a snapshot: a relative link, or a copy where links are not possible."""
    import shutil

    if link.is_file() and link.resolve() == blob.resolve():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:
        shutil.copyfile(blob, link)


def _folder(repo: str) -> Path:
    """The folder of a repository in the Hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _save_reference(repo: str, revision: str, commit: str) -> None:
    if revision != commit:
        reference = _folder(repo) / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)


def remember_commit(repo: str, revision: str, commit: str) -> None:
    """Note for offline use which commit a branch or tag has; in a read-only cache, do nothing."""
    with contextlib.suppress(OSError):
        _save_reference(repo, revision, commit)


# --- digests --------------------------------------------------------------------------------------


def check_digest(path: Path, etag: str) -> None:
    """Raise `DigestError` if a file's bytes are not those of an ETag that is a digest."""
    if not _DIGEST.fullmatch(etag):
        return
    with path.open("rb") as file:
        if len(etag) == 64:
            kind, found = "sha256", hashlib.file_digest(file, "sha256").hexdigest()
        else:
            size = os.fstat(file.fileno()).st_size
            sha = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            while chunk := file.read(1 << 20):
                sha.update(chunk)
            kind, found = "git blob id", sha.hexdigest()
    if found != etag:
        raise DigestError(
            f"wrong digest, the Hub's {kind} is {etag} but that of the bytes {found}; they were "
            "removed"
        )


def _verify(path: Path) -> None:
    """Check a cached file once, and again when it has changed; the name of its blob is its ETag."""
    blob = path.resolve()
    if not _DIGEST.fullmatch(blob.name):
        return
    facts = blob.stat()
    note = f"{blob} {facts.st_size} {facts.st_mtime_ns}"
    name = hashlib.sha256(str(blob).encode()).hexdigest()[:24]
    mark = cache_dir() / "verified" / name
    if mark.is_file() and mark.read_text(errors="replace") == note:
        return
    check_digest(blob, blob.name)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(note)
    except OSError:  # a read-only cache: the file is checked again next time
        return
