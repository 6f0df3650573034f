"""Compiled networks: runs say so, later processes follow, and no batch is compiled twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.cli.bulk_runs import rows_of, values_of
from vtcli.cli import run as vt
from vtcli.errors import UsageError
from vtcli.inference import compiled as compiled_module
from vtcli.inference.compiled import compiled
from vtcli.inference.predictor import Predictor

MODEL = "uniformerv2-nano"
Streams = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the clips for which something is compiled; compiling itself does nothing."""
    shapes: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        found = [tuple(one.shape) for one in inputs if isinstance(one, torch.Tensor)]
        shapes.extend(shape for shape in found if shape[1:] == (3, 8, 32, 32))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(compiled_module, "BACKEND", backend)
    return shapes


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(tiny.video(folder / f"{n}.mp4", 20 + n, seed=n)) for n in range(5)]


def test_the_last_batch_is_not_compiled_again(
    graphs: list[tuple[int, ...]], videos: list[str]
) -> None:
    expected: dict[str, list[float]] = {}
    for is_compiled in (False, True):
        with Predictor(MODEL, precision="fp32", batch_size=2, compile=is_compiled) as one:
            for outcome in one.predict(videos):
                assert not outcome.failed
                scores = [p.score for p in outcome.predictions]
                assert scores == pytest.approx(expected.setdefault(outcome.path, scores), abs=1e-5)
    assert [shape[0] for shape in graphs] == [2]


def test_whoever_resumes_a_compiled_run_compiles(
    graphs: list[tuple[int, ...]], videos: list[str], tmp_path: Path, capsys: Streams
) -> None:
    words = ["predict", "-m", MODEL, "-b", "2", "--format", "jsonl", "-j", "1"]
    run = tmp_path / "run"
    assert vt([*words, *videos, "--compile", "--keep-logits", "-o", f"{tmp_path}/unbroken/"]) == 0
    assert vt([*words, *videos[:3], "--compile", "--keep-logits", "-o", f"{run}/"]) == 0
    settings = json.loads((run / "_vt" / "run.json").read_text())
    assert (settings["compile"], settings["keep_logits"]) == (True, True)
    graphs.clear()
    torch.compiler.reset()
    assert vt([*words, *videos, "-o", f"{run}/"]) == 0
    assert graphs
    assert values_of(run) == values_of(tmp_path / "unbroken")
    assert all(len(row["logits"]) == 8 for row in rows_of(run))
    assert vt([*words, *videos, "-o", f"{tmp_path}/plain/"]) == 0
    assert vt([*words, *videos, "--compile", "-o", f"{tmp_path}/plain/"]) == 7
    assert vt([*words, *videos, "--keep-logits", "-o", f"{tmp_path}/plain/"]) == 7
    errors = capsys.readouterr().err
    assert "holds a run with no --compile; leave it out" in errors
    assert "holds a run with no --keep-logits; leave it out" in errors


def test_without_a_compiler_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, videos: list[str], capsys: Streams
) -> None:
    def backend(graph: object, inputs: object) -> None:
        raise RuntimeError("No working C++ compiler found.\nmore")

    torch.compiler.reset()
    monkeypatch.setattr(compiled_module, "BACKEND", backend)
    assert vt(["predict", videos[0], "-m", MODEL, "--compile"]) == 2
    errors = capsys.readouterr().err
    assert "cannot be compiled on this machine" in errors
    assert "No working C++ compiler found)" in errors
    assert "or leave out --compile" in errors
    with pytest.raises(UsageError, match="an exported graph cannot be compiled"):
        compiled(object())  # type: ignore[arg-type]
