"""The commands: results alone on stdout; one sentence and the documented exit code for an error."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests import tiny
from tests.forked import Forked
from vtcli.__main__ import WAIT_POLICIES, let_waiting_threads_sleep
from vtcli.cli import run
from vtcli.errors import VtError


@pytest.fixture(autouse=True)
def src(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny official checkpoint that the registry knows as tiny.k400-8f."""
    path = tiny.official_file(tmp_path / "tiny.pyth")
    own = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(path))
    monkeypatch.setenv("VT_REGISTRY", str(own))
    # The Hub's client reads its environment once; another test may have imported it already.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(tiny.video(tmp_path / "clip.mp4"))


Streams = pytest.CaptureFixture[str]
PREDICT = ["predict", "-m", "tiny.k400-8f"]


def sentence(streams: Streams) -> str:
    """The one error on stderr."""
    out, err = streams.readouterr()
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("vt: error: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("own", ["", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_waiting_threads_sleep_unless_the_environment_decides(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WAIT_POLICIES:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "7")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    let_waiting_threads_sleep()
    expected = {"": "3000", "GOMP_SPINCOUNT": "7"}.get(own)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_help_does_not_import_pytorch() -> None:
    code = "import sys; from vtcli.cli import run; run(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "predict" in done.stdout


def test_predicting_imports_neither_timm_nor_torchvision(clip: str) -> None:
    code = (
        "import sys; from vtcli.cli import run; "
        f"code = run({[*PREDICT, clip]!r}); "
        "print(code, [m for m in ('timm', 'torchvision', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_table_names_classes_model_and_views(clip: str, capsys: Streams) -> None:
    assert run([*PREDICT, "-k", "3", clip]) == 0
    out = capsys.readouterr().out
    assert out.count("%") == 3
    assert "tiny.k400-8f · 1 view" in out


def test_json_is_one_object_and_nothing_else(clip: str, capsys: Streams) -> None:
    assert run([*PREDICT, "--format", "json", "--views", "paper", clip]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["views"] == "4x3"
    assert len(table["results"][0]["predictions"]) == 5


def test_csv_and_json_lines_have_a_line_per_prediction(clip: str, capsys: Streams) -> None:
    assert run([*PREDICT, "--format", "csv", "-k", "2", clip, clip]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert run([*PREDICT, "--format", "jsonl", clip, clip]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [clip, clip]


def test_the_extension_of_an_output_file_sets_the_format(
    clip: str, tmp_path: Path, capsys: Streams
) -> None:
    assert run([*PREDICT, clip, "-o", str(tmp_path / "o.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "o.json").read_text())["results"]
    assert run([*PREDICT, clip, "-o", str(tmp_path / "o.xyz")]) == 2
    assert "no known file extension" in sentence(capsys)
    assert run([*PREDICT, clip, "-o", str(tmp_path / "new" / "folder" / "o.json")]) == 0
    assert json.loads((tmp_path / "new" / "folder" / "o.json").read_text())["results"]
    assert run([*PREDICT, clip, "-o", str(Path(clip) / "o.json")]) == 7
    assert "cannot write" in sentence(capsys)


def test_some_failures_end_with_3_and_none_read_with_4(
    clip: str, tmp_path: Path, capsys: Streams
) -> None:
    missing = str(tmp_path / "missing.mp4")
    assert run([*PREDICT, missing, clip]) == 3
    assert "missing.mp4" in sentence(capsys)
    assert run([*PREDICT, missing]) == 4
    assert "missing.mp4" in sentence(capsys)


def bad_video(kind: str, folder: Path) -> Path:
    """A file that is not a readable video, of one kind."""
    path = folder / f"{kind.replace(' ', '_')}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("these are words, not a video\n" * 50)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:10,\n/etc/passwd\n")
    elif kind == "audio only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100, layout="mono")
            for _ in range(8):
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                sound.sample_rate = 44100
                container.mux(stream.encode(sound))
            container.mux(stream.encode())
    elif kind == "truncated":
        whole = tiny.video(folder / "whole.mp4", frames=40).read_bytes()
        path.write_bytes(whole[: len(whole) * 7 // 10])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "playlist", "audio only", "truncated"])
def test_a_bad_video_gets_a_sentence(kind: str, tmp_path: Path, capsys: Streams) -> None:
    assert run([*PREDICT, str(bad_video(kind, tmp_path))]) == 4
    assert kind.split()[0] in sentence(capsys)


def test_the_url_of_a_stream_is_refused(capsys: Streams) -> None:
    assert run([*PREDICT, "rtmp://example.invalid/clip.mp4"]) == 4
    assert "download" in sentence(capsys)


def test_an_unknown_model_suggests_similar_names(clip: str, capsys: Streams) -> None:
    assert run(["predict", "-m", "uniformer-b", clip]) == 2
    assert "uniformerv2-b" in sentence(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["predict"],
        ["predict", "x.mp4", "--topk", "0"],
        ["predict", "x.mp4", "--format", "yaml"],
        ["predict", "x.mp4", "--wrong"],
        ["dance"],
        ["models", "show"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], capsys: Streams) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_impossible_views_end_with_2(clip: str, capsys: Streams) -> None:
    assert run([*PREDICT, clip, "--views", "4x2"]) == 2
    assert "CLIPSxCROPS" in sentence(capsys)


def test_weights_that_cannot_be_downloaded_end_with_5(clip: str, capsys: Streams) -> None:
    assert run(["predict", "-m", "uniformerv2-b", clip]) == 5
    assert "offline" in sentence(capsys)
    assert run(["predict", "-m", "uniformerv2-b-local", clip]) == 5
    assert "dead" in sentence(capsys)


def test_converting_reports_every_tensor(src: Path, tmp_path: Path, capsys: Streams) -> None:
    out = tmp_path / "ours.safetensors"
    words = ["convert", str(src), "-m", "tiny.k400-8f", "-o", str(out), "--verify", "--tensors"]
    assert run(words) == 0
    text = capsys.readouterr().out
    assert "bit-identical after a round trip" in text
    assert "backbone.ln_pre.weight -> norm_pre.weight" in text
    assert run(["predict", "-m", str(out), str(tiny.video(tmp_path / "v.mp4"))]) == 0


def test_converting_a_bad_file_says_why(tmp_path: Path, capsys: Streams) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    assert run(["convert", str(tmp_path / "a.pth")]) == 5
    assert "no layout that is known" in sentence(capsys)
    assert run(["convert", str(tmp_path / "none.pth")]) == 4
    assert "no checkpoint file" in sentence(capsys)
    assert run(["convert", str(tmp_path / "a.pth"), "-o", str(tmp_path / "a.pth")]) == 2
    assert "overwrite" in sentence(capsys)


def test_models_can_be_listed_shown_and_fetched(capsys: Streams, tmp_path: Path) -> None:
    assert run(["models", "list", "tiny*", "--format", "json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["tiny.k400-8f"]
    assert run(["models", "list", "--dataset", "k400", "--available"]) == 0
    assert "tiny.k400-8f" in capsys.readouterr().out
    assert run(["models", "list", "nothing*"]) == 2
    assert "no checkpoint matches" in sentence(capsys)
    assert run(["models", "show", "tiny.k400-8f"]) == 0
    assert "uniformerv2_to_alpha_k400" not in capsys.readouterr().err
    assert run(["models", "show", "tiny.k400-8f", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "tiny.k400-8f"
    assert run(["models", "fetch", "tiny.k400-8f"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


def test_the_doctor_prints_facts_for_a_bug_report(capsys: Streams) -> None:
    assert run(["doctor", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vt"]["torch"] == torch.__version__.split("+")[0] or report["vt"]["torch"]
    assert "offline" in report["hub"]["reachable"]
    assert report["machine"]["--precision auto"] in ("fp32", "bf16")
    assert report["decoding"]["h264"].startswith("ok")


def test_a_bug_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, clip: str, capsys: Streams
) -> None:
    from vtcli.inference import inputs

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(inputs, "find_videos", broken)
    assert run([*PREDICT, clip]) == 1
    assert "this is a bug" in sentence(capsys)
    assert run([*PREDICT, clip, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_every_failure_has_an_exit_code_of_the_contract() -> None:
    def kinds(error: type[VtError]) -> list[type[VtError]]:
        return [error, *(k for child in error.__subclasses__() for k in kinds(child))]

    assert {kind.exit_code for kind in kinds(VtError)} <= {1, 2, 4, 5, 6, 7}


def test_a_mistyped_path_is_reported_before_weights_are_downloaded(capsys: Streams) -> None:
    assert run(["predict", "-m", "uniformerv2-b", "nowhere.mp4"]) == 4
    assert "nowhere.mp4" in sentence(capsys)


def test_a_closed_output_is_not_an_error(clip: str) -> None:
    with Forked([*PREDICT, "--format", "jsonl", *[clip] * 4], os.environ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert "error" not in process.stderr.read()


def test_writing_a_graph_never_overwrites_its_source(
    src: Path, tmp_path: Path, capsys: Streams
) -> None:
    ours = tmp_path / "ours.safetensors"
    assert run(["convert", str(src), "-m", "tiny.k400-8f", "-o", str(ours)]) == 0
    capsys.readouterr()
    before = ours.read_bytes()
    for kind in ("onnx", "torch-export", "official"):
        assert run(["convert", str(ours), "--to", kind, "-o", str(ours)]) == 2
        assert "overwrite" in sentence(capsys)
    assert ours.read_bytes() == before


def test_too_little_memory_ends_with_6(
    clip: str, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    from vtcli.inference import loading

    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(loading, "load_resolved", too_much)
    assert run([*PREDICT, clip]) == 6
    assert "too little memory" in sentence(capsys)


def test_an_empty_folder_does_not_stop_the_others(
    clip: str, tmp_path: Path, capsys: Streams
) -> None:
    (tmp_path / "empty").mkdir()
    assert run([*PREDICT, clip, str(tmp_path / "empty")]) == 3
    out, err = capsys.readouterr()
    assert "%" in out
    assert "is a folder" in err
