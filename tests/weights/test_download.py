"""Fetching: every file that comes back is whole and verified, every failure is one sentence.

The real client of the Hugging Face Hub talks to a server on loopback; files are a few kilobytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Fault, Hub, point_client_at, running_hub
from tests.weights.downloads import (
    GOOD,
    NAME,
    OTHER,
    REPO,
    SHA256,
    failed,
    https_source,
    hub_source,
    kept_files,
    row,
)
from vtcli.errors import DataError, DigestError, FetchError
from vtcli.weights import download, download_errors
from vtcli.weights.registry import Source


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        point_client_at(server, tmp_path, monkeypatch)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server


# --- the Hub --------------------------------------------------------------------------------------


def test_a_hub_file_comes_whole_with_its_digest_and_source(hub: Hub) -> None:
    source = hub_source(hub)
    fetched = download.fetch(row(source))
    assert fetched.path.read_bytes() == GOOD
    assert (fetched.source, fetched.sha256, fetched.size) == (source, SHA256, len(GOOD))


def test_a_pinned_hub_file_is_fetched_once_and_then_taken_from_the_cache(hub: Hub) -> None:
    checkpoint = row(hub_source(hub, sha256=SHA256, bytes=len(GOOD)))
    first = download.fetch(checkpoint)
    assert len(hub.asked("GET", "/objects/")) == 1
    hub.requests.clear()
    assert download.fetch(checkpoint) == first
    assert hub.requests == []


def test_a_branch_is_asked_for_news_but_not_fetched_again(hub: Hub) -> None:
    checkpoint = row(hub_source(hub, revision="main"))
    download.fetch(checkpoint)
    hub.requests.clear()
    download.fetch(checkpoint)
    assert [r.method for r in hub.requests] == ["HEAD"]


def test_a_hub_transfer_that_breaks_off_is_taken_up_where_it_stopped(hub: Hub) -> None:
    hub.faults[NAME] = Fault(cut_after=4096, times=1)
    assert download.fetch(row(hub_source(hub))).path.read_bytes() == GOOD
    assert [r.range for r in hub.asked("GET", NAME)] == ["", "bytes=4096-"]


def test_a_hub_transfer_that_always_breaks_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(cut_after=0)
    failed(row(hub_source(hub)), tmp_path, "hf://org/repo/weights.pth", "broke", "run it again")
    assert kept_files(tmp_path) == []


def test_a_hub_file_with_a_wrong_digest_is_removed(hub: Hub, tmp_path: Path) -> None:
    wanted = hashlib.sha256(OTHER).hexdigest()
    error = failed(row(hub_source(hub, sha256=wanted)), tmp_path, wanted, SHA256, "VT_WEIGHTS")
    assert isinstance(error, DigestError)
    assert kept_files(tmp_path) == []


def test_a_hub_file_of_the_wrong_size_is_removed(hub: Hub, tmp_path: Path) -> None:
    error = failed(
        row(hub_source(hub, bytes=7)), tmp_path, "expected 7 bytes", f"found {len(GOOD)}"
    )
    assert isinstance(error, DigestError)
    assert kept_files(tmp_path) == []


def test_a_damaged_copy_in_the_hub_cache_is_replaced(hub: Hub, tmp_path: Path) -> None:
    checkpoint = row(hub_source(hub, sha256=SHA256))
    download.fetch(checkpoint).path.write_bytes(OTHER)
    assert download.fetch(checkpoint).sha256 == SHA256
    assert kept_files(tmp_path) == [GOOD, GOOD]


@pytest.mark.parametrize("prefix", [SHA256[:8], SHA256[:8].upper()])
def test_a_digest_prefix_is_enough(hub: Hub, prefix: str) -> None:
    assert download.fetch(row(hub_source(hub, sha256_prefix=prefix))).sha256 == SHA256


def test_a_wrong_digest_prefix_is_refused(hub: Hub, tmp_path: Path) -> None:
    failed(row(hub_source(hub, sha256_prefix="00000000")), tmp_path, "00000000", SHA256[:8])
    assert kept_files(tmp_path) == []


def test_a_missing_hub_file_is_named(hub: Hub, tmp_path: Path) -> None:
    failed(row(hub_source(hub, file="gone.pth")), tmp_path, "gone.pth", "404, no such file")


def test_a_missing_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    failed(row(hub_source(hub, revision="0" * 40)), tmp_path, "000000000000", "no such revision")


def test_a_missing_repository_asks_for_a_token(hub: Hub, tmp_path: Path) -> None:
    failed(row(hub_source(hub, repo="org/gone")), tmp_path, "org/gone", "not there", "HF_TOKEN")


@pytest.mark.parametrize(("closed", "word"), [("private", "private"), ("gated", "gated")])
def test_a_closed_repository_needs_a_token(
    hub: Hub, tmp_path: Path, closed: str, word: str
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, **{closed: True})
    words = (word, "needs a token", "set HF_TOKEN or run `hf auth login`")
    failed(row(hub_source(hub)), tmp_path, *words)
    assert kept_files(tmp_path) == []


def test_a_token_opens_a_private_repository_and_stays_with_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert download.fetch(row(hub_source(hub))).sha256 == SHA256
    assert hub.asked("HEAD", "/resolve/")[0].authorization == "Bearer hf_reader"
    assert hub.asked("GET", "/objects/")[0].authorization == ""


def test_a_token_that_is_not_known_is_said_to_be_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {NAME: GOOD}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    failed(row(hub_source(hub)), tmp_path, "closed to the token in use", "HF_TOKEN")


def test_an_unknown_hub_is_named_at_once(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = row(hub_source(hub))
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.url = "http://hub.invalid"
    point_client_at(hub, tmp_path, monkeypatch)
    failed(checkpoint, tmp_path, "unknown host hub.invalid", "check the connection")
    assert waits == []


def test_an_overloaded_hub_is_asked_again(hub: Hub) -> None:
    hub.faults[NAME] = Fault(status=503, times=1)
    assert download.fetch(row(hub_source(hub))).sha256 == SHA256


def test_a_broken_hub_is_named_with_its_status(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(status=500)
    failed(row(hub_source(hub)), tmp_path, "HTTP status 500", "run it again")


CHILD = """
import json, sys
from vtcli.errors import VtError
from vtcli.weights import download
from vtcli.weights.registry import Checkpoint, Source
source = Source("hub", "hf", "pickle", repo="org/repo", file="weights.pth", revision=sys.argv[1])
named = ("tiny.k400-8f", "vivit", "tiny", "k400")
row = Checkpoint(*named, (), 8, 224, None, "1x1", sources=(source,))
try:
    print(json.dumps(str(download.fetch(row).path)))
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


def test_an_https_file_is_fetched_once_and_then_taken_from_the_cache(hub: Hub) -> None:
    checkpoint = row(https_source(hub, sha256=SHA256))
    first = download.fetch(checkpoint)
    assert first.path.read_bytes() == GOOD
    hub.requests.clear()
    assert download.fetch(checkpoint) == first
    assert hub.requests == []


def test_files_of_one_name_from_two_addresses_are_kept_apart(hub: Hub) -> None:
    first, second = (hub.add_file(f"{n}/checkpoint", n.encode()) for n in "ab")
    for url, content in ((first, b"a"), (second, b"b"), (first, b"a")):
        fetched = download.fetch(row(Source("https", "scenic", "msgpack", url=url)))
        assert fetched.path.read_bytes() == content


def test_an_https_transfer_that_breaks_off_is_taken_up_where_it_stopped(hub: Hub) -> None:
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    assert download.fetch(row(https_source(hub))).path.read_bytes() == GOOD
    assert [r.range for r in hub.asked("GET", NAME)] == ["", "bytes=3000-"]


def test_a_later_run_takes_up_what_an_earlier_one_left(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_errors, "BACKOFF_S", ())
    checkpoint = row(https_source(hub, sha256=SHA256))
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    failed(checkpoint, tmp_path, "broke", "run it again")
    assert kept_files(tmp_path) == []
    assert download.fetch(checkpoint).path.read_bytes() == GOOD
    assert hub.requests[-1].range == "bytes=3000-"
    assert list(tmp_path.glob("vt/downloads/*.part*")) == []


def test_a_file_that_changed_meanwhile_is_not_glued_together(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_errors, "BACKOFF_S", ())
    checkpoint = row(https_source(hub))
    hub.faults[NAME] = Fault(cut_after=3000, times=1)
    failed(checkpoint, tmp_path, "broke")
    hub.add_file(NAME, OTHER)
    assert download.fetch(checkpoint).path.read_bytes() == OTHER
    assert hub.requests[-1].range == "bytes=3000-"


def test_a_part_that_was_whole_already_is_used(hub: Hub, tmp_path: Path) -> None:
    source = https_source(hub, sha256=SHA256)
    target = download.fetch(row(source)).path
    part = target.rename(f"{target}.part")
    Path(f"{part}.etag").write_text(f'"{hashlib.md5(GOOD).hexdigest()}"')
    assert download.fetch(row(source)).path.read_bytes() == GOOD
    assert hub.requests[-1].range == f"bytes={len(GOOD)}-"


def test_a_part_of_another_length_is_fetched_anew(hub: Hub) -> None:
    source = https_source(hub)
    target = download.fetch(row(source)).path
    part = target.rename(f"{target}.part")
    part.write_bytes(GOOD + b"more")
    Path(f"{part}.etag").write_text(f'"{hashlib.md5(GOOD).hexdigest()}"')
    assert download.fetch(row(source)).path.read_bytes() == GOOD


def test_an_https_file_with_a_wrong_digest_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.faults[NAME] = Fault(body=OTHER)
    error = failed(row(https_source(hub, sha256=SHA256)), tmp_path, "/files/weights.pth", SHA256)
    assert isinstance(error, DigestError)
    assert [p.name for p in (tmp_path / "vt/downloads").iterdir() if p.suffix != ".lock"] == []


def test_an_https_file_of_the_wrong_size_is_removed(hub: Hub, tmp_path: Path) -> None:
    failed(row(https_source(hub, bytes=7)), tmp_path, "expected 7 bytes", f"found {len(GOOD)}")
    assert kept_files(tmp_path) == []


def test_a_damaged_download_is_replaced(hub: Hub) -> None:
    checkpoint = row(https_source(hub, sha256=SHA256))
    download.fetch(checkpoint).path.write_bytes(OTHER)
    assert download.fetch(checkpoint).path.read_bytes() == GOOD


def test_a_missing_https_file_is_named(hub: Hub, tmp_path: Path) -> None:
    url = f"{hub.store_url}/files/gone.pth"
    gone = Source("https", "official", "pickle", url=url)
    failed(row(gone), tmp_path, url, "404, no such file", "VT_WEIGHTS")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://weights.invalid/a.pth", "unknown host weights.invalid"),
        ("http://127.0.0.1:1/a.pth", "127.0.0.1:1 refuses connections"),
    ],
)
def test_a_host_that_is_not_there_is_named(hub: Hub, tmp_path: Path, url: str, reason: str) -> None:
    source = Source("https", "official", "pickle", url=url)
    failed(row(source), tmp_path, url, reason, "check the connection and run it again")


def test_offline_mode_holds_for_https_too(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = row(https_source(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    failed(checkpoint, tmp_path, "/files/weights.pth", "offline mode is on", "HF_HUB_OFFLINE")
    assert hub.requests == []


def test_a_full_disk_is_a_data_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(DataError, match=r"the disk is full.*VT_CACHE") as caught:
        download.fetch(row(https_source(hub)))
    assert caught.value.exit_code == 7


def test_a_cache_that_cannot_be_written_is_a_data_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match=r"cannot be written.*set VT_CACHE"):
        download.fetch(row(https_source(hub)))


# --- several sources ------------------------------------------------------------------------------


def test_the_next_source_is_taken_where_one_fails(hub: Hub) -> None:
    first = hub_source(hub, file="gone.pth")
    second = https_source(hub, sha256=SHA256)
    assert download.fetch(row(first, second)).source == second


def test_the_next_source_is_taken_where_one_gives_a_wrong_file(hub: Hub, tmp_path: Path) -> None:
    bad = Source("https", "official", "pickle", url=hub.add_file("bad.pth", OTHER), sha256=SHA256)
    good = hub_source(hub, sha256=SHA256)
    assert download.fetch(row(bad, good)).source == good
    assert set(kept_files(tmp_path)) == {GOOD}


def test_every_source_that_failed_is_named_with_its_reason(hub: Hub, tmp_path: Path) -> None:
    absent = hub_source(hub, file="gone.pth")
    wrong = https_source(hub, bytes=7)
    error = failed(row(absent, wrong), tmp_path, "gone.pth", "404", NAME, "wrong size")
    assert not isinstance(error, DigestError)


def test_a_dead_source_is_never_asked(hub: Hub, tmp_path: Path) -> None:
    dead = https_source(hub, link_status="dead", checked="2026-08-14")
    other = https_source(hub, convertible=False)
    words = ("dead when last checked, 2026-08-14", "cannot be converted", "use near-1 or near-2")
    failed(row(dead, other), tmp_path, *words, alternatives=["near-1", "near-2"])
    assert hub.requests == []


def test_a_checkpoint_without_sources_was_never_published(hub: Hub, tmp_path: Path) -> None:
    failed(row(), tmp_path, "never published", "VT_WEIGHTS")


def test_alternatives_are_named_where_a_living_source_fails(hub: Hub, tmp_path: Path) -> None:
    failed(row(hub_source(hub, file="gone")), tmp_path, "use near instead", alternatives=["near"])


# --- around it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hub_source, https_source])
def test_progress_hears_of_every_byte_and_stdout_of_none(
    hub: Hub, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[str, int, int | None]] = []
    download.fetch(row(make(hub)), progress=lambda *news: heard.append(news))
    assert heard[-1] == (NAME, len(GOOD), len(GOOD))
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert capsys.readouterr().out == ""


def test_the_first_name_that_a_repository_has_is_fetched(hub: Hub) -> None:
    hub.add_repo(REPO, {"model.safetensors": GOOD})
    path = download.fetch_hub_file(REPO, None, ["absent.safetensors", "model.safetensors"])
    assert path.name == "model.safetensors"
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        (REPO, ("absent.safetensors", "404, no such file", "look on the Hub")),
        ("org/gone", ("hf://org/gone", "private or not there", "HF_TOKEN")),
        ("a/b/c", ("hf://a/b/c", "not the name of a repository", "hf://org/name")),
    ],
)
def test_a_repository_that_does_not_serve_is_named(
    hub: Hub, repo: str, words: tuple[str, ...]
) -> None:
    hub.add_repo(REPO, {"model.safetensors": GOOD})
    with pytest.raises(FetchError) as caught:
        download.fetch_hub_file(repo, None, ["absent.safetensors"])
    for word in words:
        assert word in str(caught.value)
