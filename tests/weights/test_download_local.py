"""Weights that are already on this machine: the user's files come first and are never removed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.weights.downloads import (
    GOOD,
    NAME,
    OTHER,
    REPO,
    SHA256,
    entry,
    failed,
    https_source,
    hub_source,
)
from vtcli.errors import DataError
from vtcli.weights import download
from vtcli.weights.cache import cache_dir, checkpoint_path, lock
from vtcli.weights.registry import Source


def test_a_local_source_is_used_before_any_other(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(GOOD)
    local = Source("local", "official", "pickle", file=str(tmp_path / "mine.pth"), sha256=SHA256)
    fetched = download.fetch(entry(hub_source(hub), local))
    assert (fetched.path, fetched.source) == (tmp_path / "mine.pth", local)
    assert hub.requests == []


def test_a_missing_local_source_is_named_and_the_next_one_is_used(hub: Hub, tmp_path: Path) -> None:
    local = Source("local", "official", "pickle", file=str(tmp_path / "gone.pth"))
    failed(entry(local), tmp_path, str(tmp_path / "gone.pth"), "No such file")
    assert download.fetch(entry(local, hub_source(hub))).source.kind == "hub"


@pytest.fixture
def folder(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of weights, named in VT_WEIGHTS."""
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("VT_WEIGHTS", str(path))
    return path


@pytest.mark.parametrize("name", [NAME, "tiny.k400-8f.pth", "tiny.k400-8f.pyth"])
def test_a_file_of_the_users_folder_replaces_a_dead_source(
    hub: Hub, folder: Path, name: str
) -> None:
    (folder / name).write_bytes(GOOD)
    dead = https_source(hub, link_status="dead")
    fetched = download.fetch(entry(dead))
    assert (fetched.path, fetched.source) == (folder / name, dead)
    assert hub.requests == []


def test_a_users_file_is_matched_with_the_source_whose_digest_it_has(
    hub: Hub, folder: Path
) -> None:
    (folder / "tiny.k400-8f.pth").write_bytes(GOOD)
    unknown = https_source(hub)
    known = hub_source(hub, sha256=SHA256)
    assert download.fetch(entry(unknown, known)).source == known


def test_a_wrong_file_in_the_users_folder_is_skipped_and_not_removed(
    hub: Hub, folder: Path
) -> None:
    (folder / NAME).write_bytes(OTHER)
    assert download.fetch(entry(hub_source(hub, sha256=SHA256))).path.read_bytes() == GOOD
    assert (folder / NAME).read_bytes() == OTHER


@pytest.mark.parametrize(("known", "is_used"), [({}, False), ({"sha256": SHA256}, True)])
def test_a_common_file_name_is_used_only_with_a_known_digest(
    hub: Hub, folder: Path, known: dict[str, str], is_used: bool
) -> None:
    hub.add_repo(REPO, {"pytorch_model.bin": GOOD})
    (folder / "pytorch_model.bin").write_bytes(GOOD)
    source = hub_source(hub, file="pytorch_model.bin", **known)
    assert (download.fetch(entry(source)).path.parent == folder) is is_used


def test_the_error_for_a_missing_folder_names_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VT_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"VT_WEIGHTS names .*gone"):
        download.fetch(entry(hub_source(hub)))


def test_a_second_lock_waits_for_the_first(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with lock(tmp_path / "deep" / "file"):
            entered.set()

    with lock(tmp_path / "deep" / "file"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    thread.join()


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    assert checkpoint_path("a.b-8f", "0f") == tmp_path / "checkpoints" / "a.b-8f.0f.safetensors"
    monkeypatch.delenv("VT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "vtcli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "vtcli"
