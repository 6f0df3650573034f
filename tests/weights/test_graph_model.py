"""An exported graph predicts what the file it was exported from does, through the same stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from vtcli.cli import run
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_USAGE, EXIT_WEIGHTS
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import VideoPrediction
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline
from vtcli.models.build import clip_shape
from vtcli.weights.export_graph import export_graph
from vtcli.weights.graph_model import find_graph, read_graph_card
from vtcli.weights.load import load_model
from vtcli.weights.resolve import resolve

ID = "tiny.k400-8f"


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def graph(vt_file: Path, request: pytest.FixtureRequest) -> Path:
    """The same model as a graph."""
    path = vt_file.with_name("model.onnx" if request.param == "onnx" else "model_openvino")
    export_graph(vt_file, path, request.param)
    return path


@pytest.mark.slow
def test_a_graph_scores_like_the_network(vt_file: Path, graph: Path, tmp_path: Path) -> None:
    clips = [tiny.video(tmp_path / f"{seed}.mp4", 40, seed=seed) for seed in range(3)]
    outcomes = []
    timelines = []
    for one in (str(vt_file), str(graph)):
        with Predictor(one, precision="fp32", workers=0, views="2x3") as predictor:
            outcomes.append(list(predictor.predict(clips)))
            assert predictor.header["model"] == ID
        with Predictor(one, precision="fp32", workers=0) as predictor:
            (timeline,) = TimelinePredictor(predictor, 0.8, 0.2).predict(clips[:1])
            assert isinstance(timeline, Timeline)
            timelines.append(timeline)
    for expected, actual in zip(*outcomes, strict=True):
        assert isinstance(expected, VideoPrediction)
        assert isinstance(actual, VideoPrediction)
        difference = expected.view_logits["action"] - actual.view_logits["action"]
        assert difference.abs().max() < 1e-4
    for window, same in zip(timelines[0].windows, timelines[1].windows, strict=True):
        assert window.best.score == pytest.approx(same.best.score, abs=1e-4)


@pytest.mark.slow
def test_the_command_takes_a_graph(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(tiny.video(tmp_path / "clip.mp4", 40))
    command = ["predict", clip, "-m", str(graph), "-j", "0"]
    assert run([*command, "--format", "json"]) == EXIT_OK
    table = json.loads(capsys.readouterr().out)
    assert (table["model"], table["precision"], table["device"]) == (ID, "fp32", "cpu")
    reduced = EXIT_OK if graph.is_dir() else EXIT_USAGE  # OpenVINO has bf16
    assert run([*command, "--precision", "bf16"]) == reduced
    assert run([*command, "--precision", "fp16"]) == EXIT_USAGE
    assert run([*command, "--label-set", "k400"]) == EXIT_USAGE
    assert run(["explain", clip, "-m", str(graph), "-o", str(tmp_path / "a.png")]) == EXIT_USAGE
    assert "a graph has no gradients" in capsys.readouterr().err
    assert run(["embed", clip, "-m", str(graph), "-o", str(tmp_path / "a.npz")]) == EXIT_USAGE


def test_what_is_not_a_graph_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    clip = str(tiny.video(tmp_path / "clip.mp4"))
    noise, bare = tmp_path / "noise.onnx", tmp_path / "bare.onnx"
    noise.write_bytes(b"noise")
    value = onnx.helper.make_tensor_value_info("clip", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["clip"], ["logits"])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), bare)
    assert run(["predict", clip, "-m", str(noise)]) == EXIT_WEIGHTS
    assert "is not a graph that onnxruntime loads" in capsys.readouterr().err
    assert run(["predict", clip, "-m", str(bare)]) == EXIT_WEIGHTS
    assert "has no model card" in capsys.readouterr().err
    assert run(["predict", clip, "-m", str(tmp_path / "gone.onnx")]) == EXIT_NO_INPUT
    assert run(["eval", "--dataset", str(tmp_path), "-m", str(bare)]) != EXIT_OK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the package as OpenVINO has it."""
    folder = tmp_path_factory.mktemp("ir") / "nano_openvino"
    assert run(["convert", "vivit-nano", "--to", "openvino", "-o", str(folder)]) == EXIT_OK
    return folder


@pytest.mark.slow
def test_openvino_keeps_the_card(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.xml"]
    card = read_graph_card(folder)
    assert card == read_graph_card(folder / "model.xml") == load_model("vivit-nano").card
    (_, files) = find_graph(folder) or (None, ())
    assert files == (folder / "model.xml", folder / "model.bin")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "sentence"),
    [
        ("model.bin", None, "lacks model.bin"),
        ("model.xml", None, "lacks model.xml"),
        ("model.bin", 1000, "is not a graph that OpenVINO loads"),
        ("model.bin", 0, "is not a graph that OpenVINO loads"),
        ("model.xml", 1000, "is not a graph that OpenVINO loads"),
        ("model.xml", 0, "is not a graph that OpenVINO loads"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    name: str,
    length: int | None,
    sentence: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    if length is None:
        (damaged / name).unlink()
    else:
        os.truncate(damaged / name, length)
    clip = str(tiny.video(tmp_path / "clip.mp4"))
    assert run(["predict", clip, "-m", str(damaged), "-j", "0"]) == EXIT_WEIGHTS
    (line,) = capfd.readouterr().err.splitlines()
    assert sentence in line
    assert f"vt convert MODEL --to openvino -o {damaged}" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("openvino", "openvino", ["predict", "clip.mp4", "-m", "FOLDER"]),
        ("openvino", "openvino", ["convert", "vivit-nano", "--to", "openvino", "-o", "new"]),
        ("onnxruntime", "export", ["predict", "clip.mp4", "-m", "new.onnx"]),
    ],
)
def test_a_missing_engine_is_named_with_its_extra(
    package: str,
    extra: str,
    words: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.video(tmp_path / "clip.mp4")
    (tmp_path / "new.onnx").touch()
    monkeypatch.setitem(sys.modules, package, None)
    assert run([str(folder) if word == "FOLDER" else word for word in words]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"pip install 'vtcli[{extra}]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniformerv2-nano", "videoswin-nano", "xvit-nano"])
def test_every_architecture_computes_in_openvino(name: str, tmp_path: Path) -> None:
    difference = export_graph(resolve(name).path, tmp_path / "ir", "openvino", verify=True)
    assert difference is not None
    assert difference < 1e-4


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_after_openvino_was_used_in_another_thread(folder: Path) -> None:
    code = (
        "import os, signal, sys, threading\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from vtcli.weights.engine_openvino import compile_graph\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('received'))\n"
        "path = Path(sys.argv[1]) / 'model.xml'\n"
        "size = [int(n) for n in sys.argv[2].split(',')]\n"
        "box = [compile_graph(path, 'cpu', 'fp32')]\n"
        "box[0](np.zeros(size, np.float32))\n"
        "thread = threading.Thread(target=box.clear)\n"
        "thread.start()\n"
        "thread.join()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    shape = clip_shape(load_model("vivit-nano").config)
    size = ",".join(map(str, (1, *shape)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), size], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "received\n"), done.stderr
