"""Downloads: every file is complete and verified, and every failure is one sentence.

The real client of the Hugging Face Hub talks to a server on localhost; files are a few kilobytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Fault, Hub, point_client_at
from tests.weights.downloads import (
    GOOD,
    NAME,
    OTHER,
    REPO,
    SHA256,
    entry,
    failed,
    final_files,
    https_source,
    hub_source,
)
from vtcli.errors import DataError, DigestError, FetchError
from vtcli.weights import download, download_errors, transfer
from vtcli.weights.registry import Source


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return hub


# --- the Hub --------------------------------------------------------------------------------------


def test_a_hub_file_is_complete_and_has_its_digest_and_source(hub: Hub) -> None:
    source = hub_source(hub)
    fetched = download.fetch(entry(source))
    assert fetched.path.read_bytes() == GOOD
    assert (fetched.source, fetched.sha256, fetched.size) == (source, SHA256, len(GOOD))


def test_a_pinned_hub_file_is_downloaded_once_and_then_cached(hub: Hub) -> None:
    checkpoint = entry(hub_source(hub, sha256=SHA256, bytes=len(GOOD)))
    first = download.fetch(checkpoint)
    assert len(hub.asked("GET", "/objects/")) == 1
    hub.requests.clear()
    assert download.fetch(checkpoint) == first
    assert hub.requests == []


def test_a_branch_is_checked_for_changes_but_not_downloaded_again(hub: Hub) -> None:
    checkpoint = entry(hub_source(hub, revision="main"))
    download.fetch(checkpoint)
    hub.requests.clear()
    download.fetch(checkpoint)
    assert [r.method for r in hub.requests] == ["HEAD"]


def test_an_interrupted_hub_download_is_resumed(hub: Hub) -> None:
    hub.faults[NAME] = Fault(cut_after=4096, times=1)
    assert download.fetch(entry(hub_source(hub))).path.read_bytes() == GOOD
    assert [r.range for r in hub.asked("GET", NAME)] == ["", "bytes=4096-"]


def test_a_hub_download_that_is_always_interrupted_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(cut_after=0)
    failed(
        entry(hub_source(hub)),
        tmp_path,
        "hf://org/repo/weights.pth",
        "was lost",
        "run the command again",
    )
    assert final_files(tmp_path) == []


def test_a_hub_file_with_a_wrong_digest_is_removed(hub: Hub, tmp_path: Path) -> None:
    wanted = hashlib.sha256(OTHER).hexdigest()
    error = failed(entry(hub_source(hub, sha256=wanted)), tmp_path, wanted, SHA256, "VT_WEIGHTS")
    assert isinstance(error, DigestError)
    assert final_files(tmp_path) == []


def test_a_hub_file_of_the_wrong_size_is_removed(hub: Hub, tmp_path: Path) -> None:
    error = failed(
        entry(hub_source(hub, bytes=7)), tmp_path, "expected 7 bytes", f"found {len(GOOD)}"
    )
    assert isinstance(error, DigestError)
    assert final_files(tmp_path) == []


def test_a_damaged_copy_in_the_hub_cache_is_replaced(hub: Hub, tmp_path: Path) -> None:
    checkpoint = entry(hub_source(hub, sha256=SHA256))
    download.fetch(checkpoint).path.write_bytes(OTHER)
    assert download.fetch(checkpoint).sha256 == SHA256
    assert final_files(tmp_path) == [GOOD, GOOD]


@pytest.mark.parametrize("prefix", [SHA256[:8], SHA256[:8].upper()])
def test_a_digest_prefix_is_enough(hub: Hub, prefix: str) -> None:
    assert download.fetch(entry(hub_source(hub, sha256_prefix=prefix))).sha256 == SHA256


def test_a_wrong_digest_prefix_is_refused(hub: Hub, tmp_path: Path) -> None:
    failed(entry(hub_source(hub, sha256_prefix="00000000")), tmp_path, "00000000", SHA256[:8])
    assert final_files(tmp_path) == []


def test_a_missing_hub_file_is_named(hub: Hub, tmp_path: Path) -> None:
    failed(entry(hub_source(hub, file="gone.pth")), tmp_path, "gone.pth", "404, no such file")


def test_a_missing_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    failed(entry(hub_source(hub, revision="0" * 40)), tmp_path, "000000000000", "no such revision")


def test_a_missing_repository_asks_for_a_token(hub: Hub, tmp_path: Path) -> None:
    failed(entry(hub_source(hub, repo="org/gone")), tmp_path, "org/gone", "missing", "HF_TOKEN")


@pytest.mark.parametrize(("closed", "word"), [("private", "private"), ("gated", "gated")])
def test_a_closed_repository_needs_a_token(
    hub: Hub, tmp_path: Path, closed: str, word: str
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, **{closed: True})
    words = (word, "needs a token", "set HF_TOKEN or run `hf auth login`")
    failed(entry(hub_source(hub)), tmp_path, *words)
    assert final_files(tmp_path) == []


def test_a_token_opens_a_private_repository_and_stays_with_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert download.fetch(entry(hub_source(hub))).sha256 == SHA256
    assert hub.asked("HEAD", "/resolve/")[0].authorization == "Bearer hf_reader"
    assert hub.asked("GET", "/objects/")[0].authorization == ""


def test_the_error_for_an_unknown_token_says_so(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    failed(entry(hub_source(hub)), tmp_path, "the token in use has no access", "HF_TOKEN")


def test_an_unknown_hub_is_named_at_once(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = entry(hub_source(hub))
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.url = "http://hub.invalid"
    point_client_at(hub, tmp_path, monkeypatch)
    failed(checkpoint, tmp_path, "unknown host hub.invalid", "check the connection")
    assert waits == []


def test_a_request_to_an_overloaded_hub_is_retried(hub: Hub) -> None:
    hub.faults[NAME] = Fault(status=503, times=1)
    assert download.fetch(entry(hub_source(hub))).sha256 == SHA256


def test_the_error_of_a_broken_hub_names_its_status(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(status=500)
    failed(entry(hub_source(hub)), tmp_path, "HTTP status 500", "run the command again")


CHILD = """
import json, sys
from vtcli.errors import VtError
from vtcli.weights import download
from vtcli.weights.registry import Checkpoint, Source
source = Source("hub", "hf", "pickle", repo="org/repo", file="weights.pth", revision=sys.argv[1])
named = ("tiny.k400-8f", "vivit", "tiny", "k400")
entry = Checkpoint(*named, (), 8, 224, None, "1x1", sources=(source,))
try:
    print(json.dumps(str(download.fetch(entry).path)))
except VtError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""


def test_the_environment_of_the_hubs_client_is_honored(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, {NAME: GOOD}, private=True).commit

    def child(home: Path, **variables: str) -> Any:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_reader"}
        run = subprocess.run(
            [sys.executable, "-c", CHILD, commit],
            env={**os.environ, **own, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        )
        return json.loads(run.stdout)

    path = Path(child(tmp_path / "home"))
    assert path.read_bytes() == GOOD
    assert path.is_relative_to(tmp_path / "home")
    assert child(tmp_path / "home", HF_HUB_OFFLINE="1") == str(path)
    code, message = child(tmp_path / "empty", HF_HUB_OFFLINE="1")
    assert code == 5
    assert "hf://org/repo/weights.pth" in message
    assert "offline mode is on (HF_HUB_OFFLINE)" in message


# --- https ----------------------------------------------------------------------------------------


def test_an_https_file_is_downloaded_once_and_then_cached(hub: Hub) -> None:
    checkpoint = entry(https_source(hub, sha256=SHA256))
    first = download.fetch(checkpoint)
    assert first.path.read_bytes() == GOOD
    hub.requests.clear()
    assert download.fetch(checkpoint) == first
    assert hub.requests == []


def test_files_of_one_name_from_two_addresses_are_kept_apart(hub: Hub) -> None:
    first, second = (hub.add_file(f"{n}/checkpoint", n.encode()) for n in "ab")
    for url, content in ((first, b"a"), (second, b"b"), (first, b"a")):
        fetched = download.fetch(entry(Source("https", "scenic", "msgpack", url=url)))
        assert fetched.path.read_bytes() == content


def test_an_interrupted_https_download_is_resumed(hub: Hub) -> None:
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    assert download.fetch(entry(https_source(hub))).path.read_bytes() == GOOD
    assert [r.range for r in hub.asked("GET", NAME)] == ["", "bytes=3000-"]


def test_a_later_run_resumes_an_earlier_download(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_errors, "BACKOFF_S", ())
    checkpoint = entry(https_source(hub, sha256=SHA256))
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    failed(checkpoint, tmp_path, "was lost", "run the command again")
    assert final_files(tmp_path) == []
    assert download.fetch(checkpoint).path.read_bytes() == GOOD
    assert hub.requests[-1].range == "bytes=3000-"
    assert list(tmp_path.glob("vt/downloads/*.part*")) == []


def test_a_file_that_has_changed_is_downloaded_from_the_start(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_errors, "BACKOFF_S", ())
    checkpoint = entry(https_source(hub))
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    failed(checkpoint, tmp_path, "was lost")
    hub.add_file(NAME, OTHER)
    assert download.fetch(checkpoint).path.read_bytes() == OTHER
    assert hub.requests[-1].range == "bytes=3000-"


def test_a_complete_part_file_is_used(hub: Hub, tmp_path: Path) -> None:
    source = https_source(hub, sha256=SHA256)
    target = download.fetch(entry(source)).path
    part = target.rename(f"{target}.part")
    Path(f"{part}.etag").write_text(f'"{hashlib.md5(GOOD).hexdigest()}"')
    assert download.fetch(entry(source)).path.read_bytes() == GOOD
    assert hub.requests[-1].range == f"bytes={len(GOOD)}-"


def test_a_part_file_of_another_length_is_downloaded_again(hub: Hub) -> None:
    source = https_source(hub)
    target = download.fetch(entry(source)).path
    part = target.rename(f"{target}.part")
    part.write_bytes(GOOD + b"more")
    Path(f"{part}.etag").write_text(f'"{hashlib.md5(GOOD).hexdigest()}"')
    assert download.fetch(entry(source)).path.read_bytes() == GOOD


def test_an_https_file_with_a_wrong_digest_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(body=OTHER)
    error = failed(entry(https_source(hub, sha256=SHA256)), tmp_path, "/files/weights.pth", SHA256)
    assert isinstance(error, DigestError)
    assert [p.name for p in (tmp_path / "vt/downloads").iterdir() if p.suffix != ".lock"] == []


def test_an_https_file_of_the_wrong_size_is_removed(hub: Hub, tmp_path: Path) -> None:
    failed(entry(https_source(hub, bytes=7)), tmp_path, "expected 7 bytes", f"found {len(GOOD)}")
    assert final_files(tmp_path) == []


def test_a_damaged_download_is_replaced(hub: Hub) -> None:
    checkpoint = entry(https_source(hub, sha256=SHA256))
    download.fetch(checkpoint).path.write_bytes(OTHER)
    assert download.fetch(checkpoint).path.read_bytes() == GOOD


def test_a_missing_https_file_is_named(hub: Hub, tmp_path: Path) -> None:
    url = f"{hub.store_url}/files/gone.pth"
    gone = Source("https", "official", "pickle", url=url)
    failed(entry(gone), tmp_path, url, "404, no such file", "VT_WEIGHTS")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://weights.invalid/a.pth", "unknown host weights.invalid"),
        ("http://127.0.0.1:1/a.pth", "127.0.0.1:1 refuses connections"),
    ],
)
def test_an_unreachable_host_is_named(hub: Hub, tmp_path: Path, url: str, reason: str) -> None:
    source = Source("https", "official", "pickle", url=url)
    failed(entry(source), tmp_path, url, reason, "check the connection and run the command again")


def test_offline_mode_applies_to_https_too(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = entry(https_source(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    failed(checkpoint, tmp_path, "/files/weights.pth", "offline mode is on", "HF_HUB_OFFLINE")
    assert hub.requests == []


def test_a_full_disk_is_a_data_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_append", full)
    with pytest.raises(DataError, match=r"the disk is full.*VT_CACHE") as caught:
        download.fetch(entry(https_source(hub)))
    assert caught.value.exit_code == 7


def test_a_cache_that_cannot_be_written_is_a_data_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match=r"cannot be written.*set VT_CACHE"):
        download.fetch(entry(https_source(hub)))


# --- several sources ------------------------------------------------------------------------------


def test_the_next_source_is_used_if_one_fails(hub: Hub) -> None:
    first = hub_source(hub, file="gone.pth")
    second = https_source(hub, sha256=SHA256)
    assert download.fetch(entry(first, second)).source == second


def test_the_next_source_is_used_if_one_gives_a_wrong_file(hub: Hub, tmp_path: Path) -> None:
    bad = Source("https", "official", "pickle", url=hub.add_file("bad.pth", OTHER), sha256=SHA256)
    good = hub_source(hub, sha256=SHA256)
    assert download.fetch(entry(bad, good)).source == good
    assert set(final_files(tmp_path)) == {GOOD}


def test_the_error_names_every_failed_source_with_its_reason(hub: Hub, tmp_path: Path) -> None:
    absent = hub_source(hub, file="gone.pth")
    wrong = https_source(hub, bytes=7)
    error = failed(entry(absent, wrong), tmp_path, "gone.pth", "404", NAME, "wrong size")
    assert not isinstance(error, DigestError)


def test_a_dead_source_is_never_tried(hub: Hub, tmp_path: Path) -> None:
    dead = https_source(hub, link_status="dead", checked="2026-08-14")
    other = https_source(hub, convertible=False)
    words = ("dead when last checked, 2026-08-14", "cannot be converted", "use near-1 or near-2")
    failed(entry(dead, other), tmp_path, *words, alternatives=["near-1", "near-2"])
    assert hub.requests == []


def test_the_error_for_a_checkpoint_without_sources_says_so(hub: Hub, tmp_path: Path) -> None:
    failed(entry(), tmp_path, "never published", "VT_WEIGHTS")


def test_alternatives_are_suggested_if_a_source_fails(hub: Hub, tmp_path: Path) -> None:
    failed(entry(hub_source(hub, file="gone")), tmp_path, "use near instead", alternatives=["near"])


# --- other ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hub_source, https_source])
def test_progress_counts_every_byte_and_stdout_stays_empty(
    hub: Hub, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, int, int | None]] = []
    download.fetch(entry(make(hub)), progress=lambda *call: calls.append(call))
    assert calls[-1] == (NAME, len(GOOD), len(GOOD))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert capsys.readouterr().out == ""


def test_the_first_name_that_a_repository_has_is_downloaded(hub: Hub) -> None:
    hub.add_repo(REPO, {"model.safetensors": GOOD})
    path = download.fetch_hub_file(REPO, None, ["absent.safetensors", "model.safetensors"])
    assert path.name == "model.safetensors"
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        (
            REPO,
            (
                "absent.safetensors",
                "404, no such file",
                "look up the repository's files on the Hub",
            ),
        ),
        ("org/gone", ("hf://org/gone", "private or missing", "HF_TOKEN")),
        ("a/b/c", ("hf://a/b/c", "not the name of a repository", "hf://org/name")),
    ],
)
def test_the_error_of_a_repository_names_it_and_the_reason(
    hub: Hub, repo: str, words: tuple[str, ...]
) -> None:
    hub.add_repo(REPO, {"model.safetensors": GOOD})
    with pytest.raises(FetchError) as caught:
        download.fetch_hub_file(repo, None, ["absent.safetensors"])
    for word in words:
        assert word in str(caught.value)
