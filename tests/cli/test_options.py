"""Options across commands: one name, short form and help each, and help that is complete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.evaluation.harness import class_folders
from tests.training.harness import model_file
from vtcli.cli import app, run
from vtcli.cli.options import RENAMED_OPTIONS

Streams = pytest.CaptureFixture[str]

# Options whose value is another thing in some command, so that their help differs.
OWN_HELP = {
    ("convert", "--model"): "names the checkpoint that a file is",
    ("convert", "--output"): "one file, with a default name",
    ("finetune", "--batch-size"): "clips of a training step",
    ("finetune", "--split"): "one of a pair with --val-split",
    ("datasets check", "--split"): "may be repeated",
    ("datasets check", "--output"): "a manifest",
    ("datasets export", "--output"): "a file or a folder",
    ("datasets export", "--to"): "formats of labels, not of weights",
    ("demo", "--output"): "a folder",
    ("eval", "--split"): "`all` is possible",
    ("eval", "--output"): "a run directory",
    ("eval export", "--output"): "one file",
    ("eval calibrate", "--output"): "one file",
    ("finetune", "--output"): "a run directory",
    ("models list", "--dataset"): "a filter",
}
REPEATED = " May be repeated."


def commands(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """All commands of the program, by the words that call them."""
    command = typer.main.get_command(app) if command is None else command
    yield name, command
    for word, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {word}".strip())


def option_table() -> Iterator[tuple[str, Any]]:
    for name, command in commands():
        for param in command.params:
            if param.param_type_name == "option":
                yield name, param


def long_form(option: Any) -> str:
    return next(word for word in option.opts if word.startswith("--"))


def test_an_option_has_the_same_short_form_and_help_in_every_command() -> None:
    shorts, helps = defaultdict(set), defaultdict(set)
    for command, option in option_table():
        name = long_form(option)
        shorts[name].add(tuple(word for word in option.opts if not word.startswith("--")))
        if (command, name) not in OWN_HELP:
            helps[name].add(option.help.removesuffix(REPEATED))
    assert {name: words for name, words in shorts.items() if len(words) > 1} == {}
    assert {name: words for name, words in helps.items() if len(words) > 1} == {}


@pytest.mark.parametrize(
    ("name", "short"),
    [("--model", "-m"), ("--batch-size", "-b"), ("--workers", "-j"), ("--output", "-o")],
)
def test_the_documented_short_forms(name: str, short: str) -> None:
    found = [option.opts for _, option in option_table() if name in option.opts]
    assert found
    assert all(short in opts for opts in found)


def test_resume_is_on_by_default_everywhere() -> None:
    found = {command: option for command, option in option_table() if "--resume" in option.opts}
    assert found.keys() == {"eval", "finetune"}
    assert all(option.default for option in found.values())


def test_every_command_and_parameter_has_a_help_sentence() -> None:
    for name, command in commands():
        assert command.help, name
        for param in command.params:
            text = getattr(param, "help", None)
            assert text, (name, param.name)
            assert text.endswith((".", ".)")), (name, param.name, text)


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_is_never_cut_off(
    name: str, width: str, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    assert run([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= int(width)


@pytest.mark.parametrize(
    ("command", "old"),
    [
        ("finetune", "--plan"),
        ("finetune", "--train"),
        ("finetune", "--cache-gb"),
        ("predict", "--read-as"),
        ("eval", "--read-as"),
    ],
)
def test_an_old_option_name_suggests_the_new_one(command: str, old: str, capsys: Streams) -> None:
    assert run([command, old, "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"No such option: {old}" in err
    assert RENAMED_OPTIONS[old] in err


def test_a_new_name_is_suggested_only_where_it_exists(capsys: Streams) -> None:
    assert run(["predict", "--plan", "x.mp4"]) == 2
    assert "--dry-run" not in capsys.readouterr().err


def test_an_option_that_an_architecture_lacks_is_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, capsys: Streams
) -> None:

    folder = tmp_path_factory.mktemp("lacks")
    data = class_folders(folder / "data", 2)
    model = model_file(folder / "tiny.safetensors", "vivit")
    words = ["finetune", "--dataset", str(data), "-m", str(model), "-o", str(folder / "run")]
    assert run([*words, "--drop", "0.3"]) == 2
    err = capsys.readouterr().err
    assert "ViViT has no --drop" in err
    assert "--num-frames and --drop-path" in err
