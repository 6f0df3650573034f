"""`vt predict --window` and `--annotate`: how the options combine, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import tiny
from tests.evaluation.harness import model_file
from vtcli.cli import run
from vtcli.video.decode import probe, read_frames

pytestmark = pytest.mark.usefixtures("one_thread")

Streams = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """2 seconds."""
    return str(tiny.video(tmp_path / "clip.mp4", 50))


def sentence(streams: Streams, kind: str = "error") -> str:
    """The one line on stderr; stdout is empty."""
    out, err = streams.readouterr()
    assert out == ""
    assert err.startswith(f"vt: {kind}: ")
    assert err.count("\n") == 1
    return err


def test_every_format_prints_the_same_segments(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    words = ["predict", "-m", model, clip, "--window", "1s", "--stride", "500ms", "--format"]
    assert run([*words, "json"]) == 0
    segments = json.loads(capsys.readouterr().out)["results"][0]["segments"]
    counts = {
        "table": "–",
        "csv": clip,
        "srt": "-->",
        "vtt": "-->",
        "activitynet": '"label"',
        "html": "data-start",
    }
    for format, mark in counts.items():
        assert run([*words, format]) == 0
        out, err = capsys.readouterr()
        assert (out.count(mark), err) == (len(segments), ""), format
    assert run([*words[:-1], "-o", str(tmp_path / "out.vtt")]) == 0
    assert (tmp_path / "out.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")


def test_an_unexpected_result_has_a_note_on_stderr(model: str, clip: str, capsys: Streams) -> None:
    assert run(["predict", "-m", model, clip, "--window", "00:01:00", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith("vt: note: ")
    assert "less than the window" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "0s"], "--window"),
        (["--window=-1s"], "--window"),
        (["--window", "1s", "--stride", "soon"], "--stride"),
        (["--stride", "1s"], "--window 2s"),
        (["--min-score", "0.5"], "--window 2s"),
        (["--format", "srt"], "--window 2s"),
        (["--window", "1s", "--views", "2x3"], "--views"),
        (["--annotate", "out.avi"], "out.mp4"),
        (["--annotate", "."], "is a folder"),
    ],
)
def test_wrong_combinations_end_with_2(
    words: list[str], said: str, model: str, clip: str, capsys: Streams
) -> None:
    assert run(["predict", "-m", model, clip, *words]) == 2
    assert said in sentence(capsys)


def test_subtitles_and_annotated_videos_take_one_video(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    words = ["predict", "-m", model, clip, clip]
    assert run([*words, "--window", "1s", "--format", "vtt"]) == 2
    assert "one video, not 2" in sentence(capsys)
    assert run([*words, "--annotate", str(tmp_path / "out.mp4")]) == 2
    assert "one video, not 2" in sentence(capsys)
    assert run([*words, "--window", "1s", "--format", "activitynet"]) == 0


def test_an_annotated_video_is_written_in_addition_to_the_result(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    for number, more in enumerate((["--window", "1s"], [])):
        out = tmp_path / f"{number}.mp4"
        assert run(["predict", "-m", model, clip, "--annotate", str(out), *more]) == 0
        assert "%" in capsys.readouterr().out
        assert (probe(out).frames, probe(out).width) == (50, 64)


def test_the_source_is_never_overwritten(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    before = Path(clip).read_bytes()
    os.symlink(clip, tmp_path / "link.mp4")
    for name in ("clip.mp4", "link.mp4"):
        assert run(["predict", "-m", model, clip, "--annotate", str(tmp_path / name)]) == 2
        assert "overwrite" in sentence(capsys)
    assert run(["predict", "-m", model, clip, "-o", clip, "--format", "json"]) == 2
    assert "overwrite" in sentence(capsys)
    assert Path(clip).read_bytes() == before


def test_a_missing_output_folder_is_reported_first(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    target = tmp_path / "none" / "out.mp4"
    assert run(["predict", "-m", model, clip, "--annotate", str(target)]) == 7
    assert "there is no folder" in sentence(capsys)


def test_explain_draws_a_heat_map_into_the_annotated_video(
    model: str, clip: str, tmp_path: Path, capsys: Streams
) -> None:
    words = ["predict", "-m", model, clip, "--precision", "fp32", "--annotate"]
    for name, more in (("plain.mp4", []), ("heat.mp4", ["--explain"])):
        assert run([*words, str(tmp_path / name), *more]) == 0
        assert capsys.readouterr().err == ""
    plain, heat = (
        read_frames(tmp_path / name, range(50)).astype(int) for name in ("plain.mp4", "heat.mp4")
    )
    assert plain.shape == heat.shape
    redness = [(frames[..., 0] - frames[..., 2]).mean() for frames in (plain, heat)]
    assert redness[1] > redness[0] + 2
    others = ["predict", "-m", model, clip, "--explain"]
    assert run(others) == 2
    assert "add --annotate OUT.mp4" in sentence(capsys)
    assert run([*others, "--annotate", str(tmp_path / "x.mp4"), "--window", "1s"]) == 2
    assert "leave out --window" in sentence(capsys)


def test_a_failed_video_is_not_annotated(model: str, tmp_path: Path, capsys: Streams) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for words in (["--window", "1s"], []):
        source, target = str(tmp_path / "text.mp4"), tmp_path / "out.mp4"
        words = ["predict", "-m", model, source, "--annotate", str(target), *words]
        assert run(words) == 4
        assert "text.mp4" in sentence(capsys)
        assert not target.exists()


def test_subtitles_of_a_failed_video_replace_nothing(
    model: str, tmp_path: Path, capsys: Streams
) -> None:
    kept = tmp_path / "kept.srt"
    kept.write_text("mine")
    assert run(["predict", "-m", model, "none.mp4", "--window", "1s", "-o", str(kept)]) == 4
    assert "none.mp4" in sentence(capsys)
    assert kept.read_text() == "mine"


def test_some_failures_end_with_3(model: str, clip: str, capsys: Streams) -> None:
    assert run(["predict", "-m", model, clip, "none.mp4", "--window", "1s"]) == 3
    out, err = capsys.readouterr()
    assert "clip.mp4" in out
    assert "none.mp4" in err
