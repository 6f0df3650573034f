"""The examples in docstrings run as printed, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vtcli
from vtcli.synthetic.motion8 import make_motion8
from vtcli.weights.export_upstream import export
from vtcli.weights.registry import bundled_path, load_registry

ROOT = Path(vtcli.__file__).parent
HAVE_EXAMPLES = [
    ".".join(["vtcli", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: clip.mp4, a clockwise motion, and official.pth."""
    made = tmp_path_factory.mktemp("examples")
    make_motion8(made / "motion8", clips={"test": 8}, seed=1)
    (made / "motion8/test/clockwise/0000.mp4").rename(made / "clip.mp4")
    nano = bundled_path(load_registry().find("uniformerv2-nano"))
    assert nano is not None
    export(nano, made / "official.pth", "official")
    return made


def examples(module: ModuleType) -> Iterator[doctest.DocTest]:
    names = {"vtcli": vtcli, "np": np}
    for found in doctest.DocTestFinder().find(module, extraglobs=names):
        if found.examples:
            yield found


@pytest.mark.parametrize("name", HAVE_EXAMPLES)
def test_examples_run_as_printed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = list(examples(importlib.import_module(name)))
    assert found
    said: list[str] = []
    for example in found:
        result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
        assert not result.failed, "".join(said)


@pytest.mark.parametrize("name", [n for n in vtcli.__all__ if n != "__version__"])
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>> vtcli." in (doc := inspect.getdoc(getattr(vtcli, name)) or "") or "vtcli." in doc
    assert ">>> " in doc
