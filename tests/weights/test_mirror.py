"""A mirror is complete whatever kills it, and is all that a second machine needs.

The real client of the Hub talks to a server on localhost; the checkpoints are tiny.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.hub import Hub, point_client_at, running_hub
from vtcli.errors import DataError, UsageError, WeightsError
from vtcli.weights import mirror as mirror_module
from vtcli.weights.load import load_model
from vtcli.weights.mirror import Mirrored, mirror
from vtcli.weights.registry import load_registry

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
IDS = ["tiny0.k400-8f", "tiny1.k400-8f", "tiny2.k400-8f"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        point_client_at(server, tmp_path / "first", monkeypatch)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        sources = {}
        for seed, id_ in enumerate(IDS):
            content = tiny.official_file(tmp_path / "tiny.pyth", seed).read_bytes()
            server.add_repo(f"upstream/{id_}", {"weights.pyth": content})
            where = f'repo = "upstream/{id_}"\nfile = "weights.pyth"'
            sources[id_] = tiny.SOURCE.format(kind="hub", where=where, sha256="")
        text = "".join(
            tiny.REGISTRY.format(sources=source).replace("tiny.k400-8f", id_)
            for id_, source in sources.items()
        )
        (tmp_path / "own.toml").write_text(text)
        monkeypatch.setenv("VT_REGISTRY", str(tmp_path / "own.toml"))
        yield server


def run(**options: Any) -> dict[str, Mirrored]:
    return {result.id: result for result in mirror("team", "tiny*", **options)}


def test_a_mirror_killed_twice_is_finished_and_serves_a_second_machine(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, write = mirror_module.push, mirror_module._write_registry

    def killed(*args: Any, **options: Any) -> Any:
        if args[1].endswith("tiny1.k400-8f"):
            raise KeyboardInterrupt
        return push(*args, **options)

    monkeypatch.setattr(mirror_module, "push", killed)
    with pytest.raises(KeyboardInterrupt):
        run()

    monkeypatch.setattr(mirror_module, "push", push)

    def killed_before_listing(org: str, listed: Any, private: bool) -> None:
        if IDS[2] in listed:
            raise KeyboardInterrupt
        write(org, listed, private)

    monkeypatch.setattr(mirror_module, "_write_registry", killed_before_listing)
    with pytest.raises(KeyboardInterrupt):
        run()

    monkeypatch.setattr(mirror_module, "_write_registry", write)
    results = run()
    assert [results[id_].status for id_ in IDS] == ["unchanged", "unchanged", "pushed"]
    repos = {name for name in hub.repos if name.startswith("team/")}
    assert repos == {*(f"team/{id_}" for id_ in IDS), "team/vt-registry"}
    assert all(hub.repos[name].private for name in repos)
    for id_ in IDS:
        assert sorted(hub.repos[f"team/{id_}"].files) == [
            *("README.md", "config.json", "model.safetensors")
        ]
    expected = {id_: load_model(id_).state_dict() for id_ in IDS}

    for id_ in IDS:
        del hub.repos[f"upstream/{id_}"]
    point_client_at(hub, tmp_path / "second", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    monkeypatch.setenv("VT_REGISTRY", "hf://team/vt-registry")
    clip = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    for id_ in IDS:
        model = load_model(id_)
        state = model.state_dict()
        assert all(torch.equal(state[name], t) for name, t in expected[id_].items())
        assert len(model.labels) == model(clip).shape[1] == 400
        assert model.labels[0] == "abseiling"


def test_a_finished_mirror_changes_nothing(hub: Hub) -> None:
    run()
    hub.requests.clear()
    assert {result.status for result in run().values()} == {"unchanged"}
    assert hub.asked("POST", "/commit/") == []
    assert hub.asked("GET", "weights.pyth") == []


def test_a_mirrored_file_with_other_bytes_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    repo = hub.repos[f"team/{IDS[0]}"]
    commit = repo.commit
    monkeypatch.setattr(type(repo), "commit", property(lambda self: commit))
    repo.files["model.safetensors"] = hub.repos[f"team/{IDS[1]}"].files["model.safetensors"]
    del hub.repos[f"upstream/{IDS[0]}"]
    point_client_at(hub, tmp_path / "second", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    monkeypatch.setenv("VT_REGISTRY", "hf://team/vt-registry")
    with pytest.raises(WeightsError, match=r"wrong (size|digest)"):
        load_model(IDS[0])


@pytest.mark.parametrize(
    ("license_", "reason"),
    [
        ("", "its license is not known"),
        ("Apache-2.0 (code; none stated for the weights)", "license of its weights is not known"),
        ("all rights reserved", "does not clearly allow copies"),
    ],
)
def test_a_checkpoint_that_may_not_be_copied_is_skipped_and_named(
    hub: Hub, tmp_path: Path, license_: str, reason: str
) -> None:
    path = tmp_path / "own.toml"
    text = path.read_text().replace('license = "Apache-2.0"', f'license = "{license_}"', 1)
    path.write_text(text)
    results = run(registry=load_registry([path]))
    assert results[IDS[0]].status == "skipped"
    assert reason in results[IDS[0]].reason
    assert results[IDS[1]].status == "pushed"
    assert f"team/{IDS[0]}" not in hub.repos


def test_a_failure_is_named_and_the_next_checkpoint_is_mirrored(hub: Hub) -> None:
    del hub.repos[f"upstream/{IDS[0]}"]
    results = run()
    assert results[IDS[0]].status == "failed"
    assert "private or missing" in results[IDS[0]].reason
    assert results[IDS[2]].status == "pushed"


def test_wrong_requests_are_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not the name of an organization"):
        list(mirror("../x"))
    with pytest.raises(UsageError, match="no checkpoint matches"):
        list(mirror("team", "nothing*"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsError, match="no token"):
        run()


def test_a_hub_that_cannot_be_asked_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.url = "http://127.0.0.1:1"
    point_client_at(hub, tmp_path / "first", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(WeightsError, match=r"hf://team/vt-registry: 127.0.0.1:1 refuses conn"):
        run()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "127.0.0.1")
    with pytest.raises(WeightsError, match=r"HF_ENDPOINT=127.0.0.1 is not an address; set it to"):
        run()


def test_a_registry_of_the_hub_cannot_name_files_of_this_machine(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny.REGISTRY.format(sources=tiny.local_source(Path("/etc/passwd")))
    hub.add_repo("evil/vt-registry", {"registry.toml": text.encode()})
    monkeypatch.setenv("VT_REGISTRY", "hf://evil/vt-registry")
    with pytest.raises(DataError, match=r"hf://evil/vt-registry: .* names a file of this machine"):
        load_registry()
    hub.add_repo("empty/models", {"README.md": b""})
    monkeypatch.setenv("VT_REGISTRY", "hf://empty/models")
    with pytest.raises(WeightsError, match=r"no such file; name a repository with registry\.toml"):
        load_registry()
