"""Options across commands: one name, short form and help each, and help that is complete."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.evaluation.harness import class_folders
from tests.training.harness import model_file
from vtcli.cli import app, run
from vtcli.cli.examples import EXAMPLES
from vtcli.cli.options import RENAMED_OPTIONS
from vtcli.data.export import SUFFIXES

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
    ("embed", "--output"): "a file or a folder",
    ("review", "--output"): "one file",
    ("explain", "--output"): "one file",
    ("predict", "--views"): "`auto` is possible",
    ("eval calibrate", "--views"): "a switch",
    ("search", "--labels"): "labels of videos, not of classes",
    ("search", "--topk"): "clips, not classes",
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


@pytest.mark.parametrize("width", ["50", "80", "120"])
@pytest.mark.parametrize("name", ["", *(name for name, _ in commands())])
def test_help_is_never_cut_off(
    name: str, width: str, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert run([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert not re.search(r"[a-z]\.\.\.$", out, re.MULTILINE)
    # Choices are never broken: in a narrow terminal they stand on a line of their own.
    lines = [line for line in out.splitlines() if width != "50" or not line.startswith("  --")]
    assert max(map(len, lines)) <= int(width)


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


def test_recipes_are_named_in_the_help_and_link_states_below_the_list(capsys: Streams) -> None:
    from vtcli.models import list_architectures
    from vtcli.training.recipes import list_recipes

    command = dict(commands())["finetune"]
    (recipe,) = (option for option in command.params if "--recipe" in option.opts)
    named = set(list_architectures()) | {"paper", "small", "scratch", "nano"}
    assert all(name in recipe.help for name in named)
    assert set(list_recipes()) <= named | {f"{arch}-something" for arch in list_architectures()}
    assert run(["models", "list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for state in ("alive", "likely", "dead"):
        assert f"{state}: " in text


def test_no_workers_means_this_process(tmp_path: Path, capsys: Streams) -> None:
    words = ["datasets", "make", "motion8", str(tmp_path / "made"), "--train", "0", "--val", "0"]
    assert run([*words, "--test", "8", "-j", "0"]) == 0
    assert len(list((tmp_path / "made").rglob("*.mp4"))) == 8
    assert run(["datasets", "check", str(tmp_path / "made"), "-j", "0"]) == 0
    assert "8 can be decoded to the end" in capsys.readouterr().out.replace("8 videos: ", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "nosuch"], "'nosuch' is not one of 'table', 'json'"),
        (["-b", "0"], "it must be greater than or equal to 1."),
        (["-b", "x"], "it must be a valid integer."),
    ],
)
def test_a_wrong_value_is_named_in_plain_words(
    words: list[str], sentence: str, capsys: Streams
) -> None:
    assert run(["predict", "a.mp4", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Input should" not in error
    assert "Value error" not in error


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_help_has_two_examples_that_can_be_typed(name: str, capsys: Streams) -> None:
    command = dict(commands())[name]
    assert len(EXAMPLES[name]) == 2
    known = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
    for example in EXAMPLES[name]:
        words = shlex.split(example.removeprefix("VT_API_KEY=secret "))
        assert words[: len(name.split()) + 1] == ["vt", *name.split()]
        rest = words[len(name.split()) + 1 :]
        assert {word for word in rest if word.startswith("-")} <= known
        command.make_parser(command.context_class(command)).parse_args(rest)
    assert run([*name.split(), "--help"]) == 0
    assert " ".join(EXAMPLES[name][0].split()) in " ".join(capsys.readouterr().out.split())


def test_an_example_of_an_export_has_the_extension_of_its_format() -> None:
    for example in EXAMPLES["datasets export"]:
        words = shlex.split(example)
        format, output = words[words.index("--to") + 1], words[words.index("-o") + 1]
        assert Path(output).suffix == SUFFIXES[format]


def test_no_command_lacks_examples() -> None:
    assert {name for name, command in commands() if name} - {"models", "datasets"} == set(EXAMPLES)
