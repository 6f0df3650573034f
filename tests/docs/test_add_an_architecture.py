"""docs/add-an-architecture.md, followed literally: the files it prints, then its commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.evaluation.harness import environment

PAGE = ROOT / "docs" / "add-an-architecture.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is after `pip install -e .`: its files, and its entry point's metadata."""
    folder = tmp_path_factory.mktemp("vt-tubelet")
    for block in blocks(PAGE):
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    entry_points = project["entry-points"]["vtcli.architectures"]
    lines = [
        "[vtcli.architectures]",
        *(f"{name} = {value}" for name, value in entry_points.items()),
    ]
    info = folder / "vt_tubelet-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vt-tubelet\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def start(words: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    if words[0] in ("vt", "python"):
        words = [sys.executable, *(["-m", "vtcli"] if words[0] == "vt" else []), *words[1:]]
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**environment(), **variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_files_and_commands_of_the_page_work(package: Path) -> None:
    variables: dict[str, str] = {}
    printed = {}
    for block in blocks(PAGE, "sh"):
        for command in block.commands:
            words = shlex.split(command)
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                variables[name] = value
                continue
            printed[command] = start(words, package, variables)
    conversion = next(text for command, text in printed.items() if "convert" in command)
    assert "Tubelet" in conversion or "tubelet" in conversion
    assert (package / "runs" / "tubelet" / "best.safetensors").is_file()
    predicted = [text for command, text in printed.items() if "predict" in command]
    assert all("%" in text for text in predicted)


def test_the_layers_it_states_are_those_that_training_uses(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.models import group_parameters

    monkeypatch.syspath_prepend(str(package))
    from vt_tubelet import ARCHITECTURE  # type: ignore[import-not-found]

    model = ARCHITECTURE.build(ARCHITECTURE.presets["tubelet-s"])
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    depth = ARCHITECTURE.presets["tubelet-s"].depth
    assert set(layers.values()) == set(range(depth + 2))
    assert layers["pos_embed"] == 0
    assert layers["head.weight"] == depth + 1
    assert len(model.transformer_blocks()) == depth
