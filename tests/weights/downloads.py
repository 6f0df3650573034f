"""Shared by the download tests: sources of one small file, and the check of a failure."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from vtcli.errors import FetchError, VtError
from vtcli.weights.download import fetch
from vtcli.weights.registry import Checkpoint, Source

GOOD = bytes(range(256)) * 40
OTHER = GOOD[::-1]
SHA256 = hashlib.sha256(GOOD).hexdigest()
NAME = "weights.pth"
REPO = "org/repo"


def entry(*sources: Source) -> Checkpoint:
    """A checkpoint in which only the sources matter."""
    pipeline: Any = None
    return Checkpoint(
        "tiny.k400-8f", "vivit", "tiny", "k400", (), 8, 224, pipeline, "1x1", sources=sources
    )


def hub_source(hub: Hub, **known: Any) -> Source:
    """A pinned source in a public repository that is created for it."""
    repo = hub.repos.get(REPO) or hub.add_repo(REPO, {NAME: GOOD})
    where: dict[str, Any] = {"repo": REPO, "file": NAME, "revision": repo.commit}
    return Source("hub", "hf", "pickle", **{**where, **known})


def https_source(hub: Hub, **known: Any) -> Source:
    return Source("https", "official", "pickle", url=hub.add_file(NAME, GOOD), **known)


def final_files(home: Path) -> list[bytes]:
    """The content of every file with a final name in any cache."""
    blobs = home.glob("hf/hub/models--*/blobs/*")
    names = [*home.glob("hf/hub/models--*/snapshots/*/*"), *blobs, *home.glob("vt/downloads/*")]
    unfinished = (".part", ".etag", ".lock", ".incomplete")
    return [p.read_bytes() for p in names if p.is_file() and not p.name.endswith(unfinished)]


def failed(checkpoint: Checkpoint, home: Path, *words: str, **options: Any) -> VtError:
    """The error of a download: at most four lines, all `words`, exit code 5, no bad file left."""
    with pytest.raises(FetchError) as caught:
        fetch(checkpoint, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert message.count("\n") <= 3
    assert ". " not in message
    assert checkpoint.id in message
    for word in words:
        assert word in message
    assert all(content == GOOD for content in final_files(home))
    return caught.value
