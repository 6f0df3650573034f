"""Commands are imported when they are called; what is listed of them is their own help."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any, get_args

import pytest
import typer

from vtcli.cli import app, run
from vtcli.cli.commands import SUMMARIES
from vtcli.errors import EXIT_OK, EXIT_USAGE
from vtcli.video.pipeline import SamplingName
from vtcli.video.sampling import SAMPLERS


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_summaries_are_those_of_the_commands() -> None:
    root: Any = typer.main.get_command(app)
    found = {name: command.help.split("\n\n")[0] for name, command in root.commands.items()}
    assert {name: " ".join(text.split()) for name, text in found.items()} == SUMMARIES
    assert {name: command.name for name, command in root.commands.items()} == {
        name: name for name in SUMMARIES
    }


def test_help_imports_no_command_and_nothing_that_it_does_not_print() -> None:
    unused = ["vtcli.cli.predict", "vtcli.video.decode", "rich.markdown", "rich.traceback", "numpy"]
    code = (
        "import sys; from vtcli.cli import run; run(['--help']); "
        f"print([name for name in {unused} if name in sys.modules])"
    )
    shown = python(code).splitlines()
    assert shown[-1] == "[]"
    assert all(any(f"│ {name} " in line for line in shown) for name in SUMMARIES)


def test_rich_is_whole_after_the_help() -> None:
    code = (
        "from vtcli.cli import run; run(['--help']); "
        "from rich.markdown import Markdown; from rich.traceback import Traceback; "
        "print(len(Markdown('# a').parsed), Traceback.from_exception)"
    )
    assert python(code).splitlines()[-1].startswith("3 <bound method")


def test_listing_models_needs_no_arrays() -> None:
    code = (
        "import sys; from vtcli.cli import run; run(['models', 'list']); "
        "print([name for name in ('numpy', 'torch', 'av') if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_names_of_sampling_rules_are_those_of_the_rules() -> None:
    assert get_args(SamplingName) == tuple(SAMPLERS)


@pytest.mark.parametrize("typed", ["vt fin", "vt models fe"])
def test_a_shell_completes_commands(typed: str) -> None:
    asked = {"_VT_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    words = {**os.environ, **asked, "COMP_CWORD": str(len(typed.split()) - 1)}
    shown = subprocess.run(
        [sys.executable, "-m", "vtcli"], env=words, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.split() == ["finetune" if typed == "vt fin" else "fetch"]


def test_without_a_command_the_help_is_shown() -> None:
    shown = io.StringIO()
    with redirect_stdout(shown):
        code = run([])
    assert code in (EXIT_OK, EXIT_USAGE)
    assert all(name in shown.getvalue() for name in SUMMARIES)
