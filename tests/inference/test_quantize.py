"""An int8 graph agrees with fp32 on videos that did not calibrate it, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtcli.cli import run
from vtcli.errors import EXIT_DATA, EXIT_OK, EXIT_USAGE
from vtcli.inference.quantize import export_int8
from vtcli.synthetic.motion8 import make_motion8
from vtcli.weights.resolve import resolve


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos that the small models know, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("motion8")
    make_motion8(folder, clips={"test": 32}, seed=3)
    (folder / "test" / "noise.mp4").write_bytes(b"noise")
    return folder / "test"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_agrees_with_fp32_on_held_out_videos(
    kind: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / ("int8.onnx" if kind == "onnx" else "int8_openvino")
    words = ["convert", "vivit-nano", "--to", kind, "--int8", "--calibration", str(videos)]
    assert run([*words, "-o", str(dst)]) == EXIT_OK
    out = capsys.readouterr().out
    assert "calibrated on 16 videos" in out
    agreement = next(line for line in out.splitlines() if "agreement" in line)
    same, _, held_out = agreement.split()[1:4]
    assert held_out == "16"
    assert int(same) >= 15
    assert "speed" in out
    assert "noise.mp4" in out
    clip = str(next(videos.rglob("0000.mp4")))
    predict = ["predict", clip, "-m", str(dst), "-j", "0"]
    assert run([*predict, "--format", "json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["precision"] == "int8"
    assert run([*predict, "--precision", "fp32"]) == EXIT_USAGE


@pytest.mark.slow
def test_weights_take_less_than_half_of_the_bytes(videos: Path, tmp_path: Path) -> None:
    path = resolve("vivit-nano").path
    paths = sorted(map(str, videos.rglob("000[01].mp4")))
    report = export_int8(path, tmp_path / "ir", "openvino", paths, lambda stage: None)
    assert (report.calibration, report.held_out) == (8, 8)
    assert (tmp_path / "ir" / "model.bin").stat().st_size < 0.5 * path.stat().st_size


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--to", "onnx", "--int8"], EXIT_USAGE, "add --calibration FOLDER"),
        (["--to", "onnx", "--calibration", "."], EXIT_USAGE, "is for --int8"),
        (["--to", "triton", "--int8", "--calibration", "."], EXIT_USAGE, "not triton"),
        (["--int8", "--calibration", "."], EXIT_USAGE, "not safetensors"),
        (["--to", "onnx", "--int8", "--calibration", ".", "--verify"], EXIT_USAGE, "--verify"),
        (["--to", "onnx", "--int8", "--calibration", "."], EXIT_DATA, "0 of 1"),
    ],
)
def test_what_int8_needs_is_said(
    words: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["convert", "vivit-nano", *words]) == code
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
