"""Weights that are on this machine already: the user's files come first, and are never removed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, point_client_at, running_hub
from tests.weights.downloads import (
    GOOD,
    NAME,
    OTHER,
    REPO,
    SHA256,
    failed,
    https_source,
    hub_source,
    row,
)
from vtcli.errors import DataError
from vtcli.weights import download
from vtcli.weights.cache import cache_dir, checkpoint_path, lock
from vtcli.weights.registry import Source


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        point_client_at(server, tmp_path, monkeypatch)
        yield server


def test_a_local_source_is_taken_before_any_other(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(GOOD)
    local = Source("local", "official", "pickle", file=str(tmp_path / "mine.pth"), sha256=SHA256)
    fetched = download.fetch(row(hub_source(hub), local))
    assert (fetched.path, fetched.source) == (tmp_path / "mine.pth", local)
    assert hub.requests == []


def test_a_missing_local_source_is_named_and_the_next_one_taken(hub: Hub, tmp_path: Path) -> None:
    local = Source("local", "official", "pickle", file=str(tmp_path / "gone.pth"))
    failed(row(local), tmp_path, str(tmp_path / "gone.pth"), "No such file")
    assert download.fetch(row(local, hub_source(hub))).source.kind == "hub"


@pytest.fixture
def folder(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of weights, named in VT_WEIGHTS."""
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("VT_WEIGHTS", str(path))
    return path


@pytest.mark.parametrize("name", [NAME, "tiny.k400-8f.pth", "tiny.k400-8f.pyth"])
def test_a_file_of_the_users_folder_serves_a_dead_source(hub: Hub, folder: Path, name: str) -> None:
    (folder / name).write_bytes(GOOD)
    dead = https_source(hub, link_status="dead")
    fetched = download.fetch(row(dead))
    assert (fetched.path, fetched.source) == (folder / name, dead)
    assert hub.requests == []


def test_the_users_file_is_taken_for_the_source_whose_digest_it_has(hub: Hub, folder: Path) -> None:
    (folder / "tiny.k400-8f.pth").write_bytes(GOOD)
    unknown = https_source(hub)
    known = hub_source(hub, sha256=SHA256)
    assert download.fetch(row(unknown, known)).source == known


def test_a_wrong_file_in_the_users_folder_is_passed_over_and_kept(hub: Hub, folder: Path) -> None:
    (folder / NAME).write_bytes(OTHER)
    assert download.fetch(row(hub_source(hub, sha256=SHA256))).path.read_bytes() == GOOD
    assert (folder / NAME).read_bytes() == OTHER


@pytest.mark.parametrize(("known", "is_taken"), [({}, False), ({"sha256": SHA256}, True)])
def test_a_name_that_any_model_has_counts_only_with_a_digest(
    hub: Hub, folder: Path, known: dict[str, str], is_taken: bool
) -> None:
    hub.add_repo(REPO, {"pytorch_model.bin": GOOD})
    (folder / "pytorch_model.bin").write_bytes(GOOD)
    source = hub_source(hub, file="pytorch_model.bin", **known)
    assert (download.fetch(row(source)).path.parent == folder) is is_taken


def test_a_folder_that_is_not_there_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VT_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"VT_WEIGHTS names .*gone"):
        download.fetch(row(hub_source(hub)))


def test_a_lock_keeps_the_second_one_waiting(tmp_path: Path) -> None:
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


def test_the_cache_lies_where_the_environment_says(
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
