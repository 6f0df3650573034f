"""The programs in examples/ run as their first lines say, and print what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vtcli
from tests.evaluation.harness import environment
from tests.hub import running_hub
from tests.weights.hf_models import LABELS, make_model, make_processor
from vtcli.cli import run
from vtcli.synthetic.motion8 import MOTIONS, make_motion8

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One clip of each motion."""
    folder = tmp_path_factory.mktemp("clips") / "motion8"
    make_motion8(folder, clips={"test": 8})
    return sorted(folder.rglob("*.mp4"))


def example(name: str, *words: str | Path, **variables: str) -> str:
    """The output of an example."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)],
        env={**environment(), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_python_api_predicts_eight_clips(tmp_path: Path) -> None:
    out = example("python_api.py", tmp_path)
    assert out.count("%") == 3 + 8
    assert f"logits [2, 8] of {', '.join(vtcli.load_model('videoswin-nano').labels)}" in out


@pytest.mark.slow
def test_own_classes_become_a_model() -> None:
    out = example("own_classes.py")
    labels = [line.split(": ")[1].rsplit(" ", 1)[0] for line in out.splitlines() if ".mp4:" in line]
    assert len(set(labels)) == 3
    assert set(labels) <= set(MOTIONS)


@pytest.mark.slow
def test_a_repository_of_the_hub_predicts_with_its_own_labels(
    tmp_path: Path, clips: list[Path]
) -> None:
    make_model(tmp_path / "model")
    make_processor(tmp_path / "model")
    with running_hub() as hub:
        hub.add_repo("org/vivit", {f.name: f.read_bytes() for f in (tmp_path / "model").iterdir()})
        caches = {"HF_HOME": str(tmp_path / "hf"), "VT_CACHE": str(tmp_path / "vt")}
        away = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", **caches}
        out = example("hub_repository.py", "org/vivit", clips[0], **away)
    facts, *_, answer = out.splitlines()
    assert facts == "org/vivit: vivit, 8 frames, 3 classes"
    assert answer.startswith(f"{clips[0]}: ")
    assert any(f" {label} " in answer for label in LABELS)


@pytest.mark.slow
def test_ray_data_predicts_as_a_predictor_does(tmp_path: Path) -> None:
    lines = example("ray_data.py", tmp_path).splitlines()
    folder = tmp_path / "motion8"
    clips = sorted(folder.rglob("*.mp4"))
    with vtcli.Predictor("uniformerv2-nano", topk=1, workers=1) as predictor:
        outcomes = list(predictor.predict(clips))
    assert lines == [
        f"{Path(o.path).relative_to(folder)}: "
        f"{o.error.reason if o.failed else o.predictions[0].label}"
        for o in outcomes
    ]
    assert sum(line.endswith("not_video") for line in lines) == 1


@pytest.fixture(scope="module", params=["uniformerv2-nano", "vivit-nano"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A model, and its ONNX file."""
    graph = tmp_path_factory.mktemp("onnx") / "nano.onnx"
    assert run(["convert", f"{request.param}.motion8", "--to", "onnx", "-o", str(graph)]) == 0
    return request.param, graph


@pytest.mark.slow
def test_onnx_with_plain_numpy_scores_as_vtcli_does(
    exported: tuple[str, Path], clips: list[Path]
) -> None:
    model, graph = exported
    code = (
        "import json, sys; import onnx_only; "
        "print(json.dumps([onnx_only.classify(sys.argv[1], clip) for clip in sys.argv[2:]])); "
        "assert not {'torch', 'vtcli'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(graph), *map(str, clips)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for clip, scores in zip(clips, json.loads(done.stdout), strict=True):
        ours = vtcli.predict(clip, model=model, topk=8, precision="fp32")
        expected = {p.label: p.score for p in ours.predictions}
        assert scores.keys() == expected.keys()
        assert all(abs(scores[label] - expected[label]) < 1e-4 for label in expected)
        assert next(iter(scores)) == ours.predictions[0].label
    assert example("onnx_only.py", graph, clips[0]).count("%") == 5
