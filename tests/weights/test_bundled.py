"""The four small models come with the package: whole, small, and what their rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

import vtcli
from vtcli.errors import EXIT_OK
from vtcli.models import get_architecture
from vtcli.runtime.files import file_sha256
from vtcli.synthetic.motion8 import MOTIONS
from vtcli.weights.model_config import model_config
from vtcli.weights.registry import Checkpoint, bundled_path, load_registry
from vtcli.weights.resolve import resolve

REGISTRY = load_registry(extra=())
ROWS = [row for row in REGISTRY.checkpoints.values() if row.dataset == "motion8"]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def test_there_is_one_of_each_architecture() -> None:
    assert {row.id for row in ROWS} == {
        f"{arch}-nano.motion8" for arch in ("uniformerv2", "videoswin", "vivit", "xvit")
    }
    for row in ROWS:
        assert REGISTRY.find(row.model) is row


@every_row
def test_a_file_is_small_and_the_one_its_row_means(row: Checkpoint) -> None:
    path = bundled_path(row)
    assert path is not None
    assert path.stat().st_size <= 1_500_000
    assert path.stat().st_size == row.sources[0].bytes
    assert file_sha256(path) == row.sources[0].sha256


@every_row
def test_a_file_says_of_itself_what_its_row_says(row: Checkpoint) -> None:
    found = resolve(row.id)
    assert found.path == bundled_path(row)
    card, config = found.card, model_config(row.id)[1]
    assert (card.id, card.arch, card.model, card.dataset) == (
        row.id,
        row.arch,
        row.model,
        row.dataset,
    )
    assert card.pipeline == row.pipeline
    assert card.labels == row.heads[0].labels == tuple(sorted(MOTIONS))
    assert get_architecture(row.arch).read_config(card.config) == config
    assert "vt finetune" in card.notes
    assert "--seed" in card.notes
    assert card.license == row.license == "Apache-2.0"


@every_row
def test_it_loads_without_cache_and_network(
    row: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert vtcli.load_model(row.model).labels == tuple(sorted(MOTIONS))
    assert not (tmp_path / "cache").exists()


def test_a_users_source_in_front_of_it_is_taken_instead(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[[checkpoint]]\nid = "vivit-nano.motion8"\n[[checkpoint.source]]\nkind = "local"\n'
        'layout = "vt"\ntrust = "safetensors"\nfile = "mine.safetensors"\n'
    )
    assert bundled_path(load_registry([mine]).find("vivit-nano")) is None


def test_they_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from vtcli.cli import run

    assert run(["models", "show", "vivit-nano"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert "vivit-nano.motion8.safetensors" in shown
    assert "comes with this package" in shown


def test_it_is_there_where_nothing_that_comes_first_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = ROWS[0]
    (tmp_path / "mine.toml").write_text(
        f'[[checkpoint]]\nid = "{row.id}"\nsource = [{{ kind = "local", layout = "official", '
        f'serialization = "pickle", link_status = "alive", file = "{tmp_path / "gone.pth"}" }}]\n'
    )
    monkeypatch.setenv("VT_REGISTRY", str(tmp_path / "mine.toml"))
    changed = load_registry().find(row.id)
    assert bundled_path(changed) is None
    assert resolve(row.id).path == bundled_path(row)
