"""The four bundled models: complete, small, and as their registry entries describe them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vtcli
from vtcli.errors import EXIT_OK
from vtcli.models import get_architecture
from vtcli.runtime.files import file_sha256
from vtcli.synthetic.motion8 import MOTIONS
from vtcli.weights.checkpoint import CARD_KEY, FORMAT, ModelCard, read_header
from vtcli.weights.model_config import model_config
from vtcli.weights.registry import Checkpoint, bundled_path, load_registry
from vtcli.weights.resolve import resolve

REGISTRY = load_registry(extra=())
ENTRIES = [entry for entry in REGISTRY.checkpoints.values() if entry.dataset == "motion8"]
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)


def test_there_is_one_model_of_each_architecture() -> None:
    assert {entry.id for entry in ENTRIES} == {
        f"{arch}-nano.motion8" for arch in ("uniformerv2", "videoswin", "vivit", "xvit")
    }
    for entry in ENTRIES:
        assert REGISTRY.find(entry.model) is entry


@every_entry
def test_a_file_is_small_and_has_the_digest_of_its_entry(entry: Checkpoint) -> None:
    path = bundled_path(entry)
    assert path is not None
    assert path.stat().st_size <= 1_500_000
    assert path.stat().st_size == entry.sources[0].bytes
    assert file_sha256(path) == entry.sources[0].sha256


@every_entry
def test_the_card_of_a_file_agrees_with_its_entry(entry: Checkpoint) -> None:
    found = resolve(entry.id)
    assert found.path == bundled_path(entry)
    card, config = found.card, model_config(entry.id)[1]
    assert (card.id, card.arch, card.model, card.dataset) == (
        entry.id,
        entry.arch,
        entry.model,
        entry.dataset,
    )
    assert card.pipeline == entry.pipeline
    assert card.labels == entry.heads[0].labels == tuple(sorted(MOTIONS))
    assert get_architecture(entry.arch).read_config(card.config) == config
    assert "vt finetune" in card.notes
    assert "--seed" in card.notes
    assert card.license == entry.license == "Apache-2.0"


@every_entry
def test_a_file_is_written_in_the_current_format(entry: Checkpoint) -> None:
    path = bundled_path(entry)
    assert path is not None
    card = json.loads(read_header(path)["__metadata__"][CARD_KEY])
    assert card["format"] == FORMAT == 2
    assert json.loads(ModelCard.from_json(json.dumps(card)).to_json()) == card


@every_entry
def test_it_loads_without_cache_and_network(
    entry: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert vtcli.load_model(entry.model).labels == tuple(sorted(MOTIONS))
    assert not (tmp_path / "cache").exists()


def test_a_users_source_is_used_before_the_bundled_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[[checkpoint]]\nid = "vivit-nano.motion8"\n[[checkpoint.source]]\nkind = "local"\n'
        'layout = "vt"\nserialization = "safetensors"\nfile = "mine.safetensors"\n'
    )
    assert bundled_path(load_registry([mine]).find("vivit-nano")) is None


def test_they_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from vtcli.cli import run

    assert run(["models", "show", "vivit-nano"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert "vivit-nano.motion8.safetensors" in shown
    assert "comes with this package" in shown


def test_the_bundled_file_is_used_if_the_sources_before_it_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = ENTRIES[0]
    (tmp_path / "mine.toml").write_text(
        f'[[checkpoint]]\nid = "{entry.id}"\nsource = [{{ kind = "local", layout = "official", '
        f'serialization = "pickle", link_status = "alive", file = "{tmp_path / "gone.pth"}" }}]\n'
    )
    monkeypatch.setenv("VT_REGISTRY", str(tmp_path / "mine.toml"))
    changed = load_registry().find(entry.id)
    assert bundled_path(changed) is None
    assert resolve(entry.id).path == bundled_path(entry)
