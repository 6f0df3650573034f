"""What `--model` means: an id or alias before a file of the same name, or a path."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vtcli.errors import InputError, UnknownModelError
from vtcli.weights import resolve as module
from vtcli.weights.registry import bundled_path, load_registry
from vtcli.weights.resolve import is_path, lookup, resolve

ALIAS, ID = "vivit-nano", "vivit-nano.motion8"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module._warn_of_shadowed_file.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "model.pth", "model.onnx"),
        *("./uniformerv2-b", "../uniformerv2-b", "~/uniformerv2-b", "runs/best", "/runs/best"),
        Path("uniformerv2-b"),
    ],
)
def test_a_path_is_recognized_whether_the_file_exists_or_not(name: str | Path) -> None:
    assert is_path(name)


@pytest.mark.parametrize("name", ["uniformerv2", "vivit-b.k400-in21k-32f", "unknown", "hf://a/b"])
def test_a_name_is_not_a_path(name: str) -> None:
    assert not is_path(name)


@pytest.mark.parametrize("name", [ALIAS, ID])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_named_like_a_model_does_not_shadow_it(
    name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text("text") if kind == "file" else (tmp_path / name).mkdir()
    with caplog.at_level(logging.WARNING):
        assert lookup(name) is load_registry().find(ID)
        assert resolve(name).path == bundled_path(load_registry().find(ID))
    assert [record.getMessage() for record in caplog.records] == [
        f"'{name}' is the name of a model, so the file or folder '{name}' in this folder is not "
        f"used; write ./{name} to use it"
    ]
    if kind == "file":
        with pytest.raises(InputError, match="not one of our files"):
            resolve(f"./{name}")


def test_the_suggested_path_names_the_file(tmp_path: Path) -> None:
    source = bundled_path(load_registry().find("xvit-nano"))
    assert source is not None
    (tmp_path / f"{ALIAS}.safetensors").write_bytes(source.read_bytes())
    assert resolve(f"./{ALIAS}.safetensors").card.arch == "xvit"
    assert resolve(f"{ALIAS}.safetensors").card.arch == "xvit"
    assert resolve(ALIAS).card.arch == "vivit"


def test_a_file_whose_name_is_not_a_models_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(InputError, match="mine is not one of our files; convert it first"):
        resolve("mine")
    with pytest.raises(UnknownModelError, match="unknown model 'yours'"):
        resolve("yours")


def test_convert_uses_the_model_and_not_a_file_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vtcli.cli import run
    from vtcli.errors import EXIT_OK, EXIT_WEIGHTS

    (tmp_path / ALIAS).write_text("text")
    assert run(["convert", ALIAS, "--to", "scenic", "-o", "out.msgpack"]) == EXIT_OK
    assert (tmp_path / "out.msgpack").exists()
    command = ["convert", f"./{ALIAS}", "--to", "scenic", "-o", "other.msgpack"]
    assert run(command) == EXIT_WEIGHTS
    assert "is not a safetensors file" in capsys.readouterr().err
