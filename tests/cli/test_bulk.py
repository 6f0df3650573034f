"""`vt predict -o RUN/`: what is refused before a run begins, windows as rows, and interruptions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.cli.bulk_runs import MODEL, rows_of
from vtcli.cli import run as vt
from vtcli.errors import DataError
from vtcli.inference.same_run import refuse_other_run

Streams = pytest.CaptureFixture[str]
WINDOWS = ("--window", "0.4s", "--stride", "0.2s", "-j", "1", "--format", "jsonl")


@pytest.mark.parametrize("name", ["wrong_column.csv", "missing.csv"])
def test_a_list_that_cannot_be_read_begins_no_run(
    name: str, tmp_path: Path, capsys: Streams
) -> None:
    (tmp_path / "wrong_column.csv").write_text("name\na.mp4\n")
    run = tmp_path / "run"
    words = ["predict", "--from-file", str(tmp_path / name), "-m", MODEL, "-o", f"{run}/"]
    assert vt(words) in (2, 7)
    assert name in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("setting", "old", "new", "sentence"),
    [
        ("topk", 5, 3, "with --topk 5, not 3; give --topk 5, or name another folder with -o"),
        ("label_set", "k400", None, "with --label-set 'k400', not without it; give --label-set"),
        ("label_set", None, "k600", "with no --label-set, not with --label-set k600; leave it out"),
        ("protocol", "1x1 views", "4x3 views", "'1x1 views', not '4x3 views'; give the --views"),
        ("pipeline", {"a": 1}, {"a": 2}, "give the --pipeline that it was begun with"),
        ("compile", False, True, "with no --compile; leave it out, or name"),
        ("keep_logits", False, True, "with no --keep-logits; leave it out, or name"),
        ("model_fingerprint", "a" * 64, "b" * 64, "SHA-256 aaaaaaaaaaaa, not bbbbbbbbbbbb"),
    ],
)
def test_another_run_is_refused_in_the_words_of_the_options(
    setting: str, old: object, new: object, sentence: str
) -> None:
    with pytest.raises(DataError) as refused:
        refuse_other_run(Path("RUN"), {setting: old}, {setting: new})
    assert sentence in str(refused.value)
    assert str(refused.value).endswith("name another folder with -o")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--engine", "ray"], "--engine ray needs a folder"),
        (["-o", "RUN/", "--ray-address", "auto"], "add --engine ray"),
        (["-o", "RUN/", "--engine", "ray", "--shard", "0/2"], "leave out --shard"),
        (["-o", "RUN/", "--window", "1s", "--min-score", "0.5"], "--min-score cannot be written"),
        (["-o", "RUN/", "--window", "1s", "--keep-logits"], "leave out --window"),
        (["--window", "1s", "--compile"], "--compile is for whole videos"),
        (["--window", "1s", "--unordered"], "--unordered is for whole videos"),
        (["--live", "-", "--unordered"], "--unordered is for whole videos"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], sentence: str, capsys: Streams) -> None:
    assert vt(["predict", "clip.mp4", "-m", MODEL, *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_per_window_and_resumed_runs_have_the_same(tmp_path: Path, capsys: Streams) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        tiny.video(folder / f"{number}.mp4", 30 + number, seed=number)
    (folder / "junk.mp4").write_bytes(b"junk")
    words = ["predict", str(folder), "-m", MODEL, *WINDOWS]
    assert vt([*words, "-o", str(tmp_path / "plain.jsonl")]) == 3
    lines = (tmp_path / "plain.jsonl").read_text().splitlines()
    plain = {one["path"]: one["windows"] for one in map(json.loads, lines) if "windows" in one}
    assert vt([*words, "-o", f"{tmp_path}/run/"]) == 3
    rows = rows_of(tmp_path / "run")
    assert len(plain) == 3
    assert len(plain[str(folder / "0.mp4")]) == 5  # 1.2 s
    for path, windows in plain.items():
        own = [row for row in rows if row["path"] == path]
        assert [round(row["start"], 3) for row in own] == [one["start"] for one in windows]
        assert [round(row["end"], 3) for row in own] == [one["end"] for one in windows]
        tops = [one["predictions"][0]["score"] for one in windows]
        assert [row["scores"][0] for row in own] == pytest.approx(tops, abs=1e-6)
    assert [row["reason"] for row in rows if "reason" in row] == ["not_video"]
    check_status_and_resume(words, tmp_path, rows, capsys)


def check_status_and_resume(
    words: list[str], folder: Path, rows: list[dict[str, Any]], capsys: Streams
) -> None:
    capsys.readouterr()
    assert vt(["predict", "--status", f"{folder}/run/", "--format", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["total"], status["done"], status["failed"]) == (4, 4, 1)
    # The junk is exchanged for a video: its one row becomes several, the others stay.
    shutil.copy(folder / "videos" / "0.mp4", folder / "videos" / "junk.mp4")
    nothing_new = ["predict", str(folder / "videos" / "0.mp4"), *words[2:]]
    assert vt([*nothing_new, "-o", f"{folder}/run/", "--retry-failures"]) == 0
    again = rows_of(folder / "run")
    assert [row for row in again if "junk" not in row["path"]] == rows[:-1]
    assert len([row for row in again if "junk" in row["path"]]) == 5
    capsys.readouterr()
    assert vt(["predict", *words[2:], "-o", f"{folder}/run/"]) == 0  # inputs are known
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "words"), [("vtcli.cli.commands", []), ("vtcli.cli.eval", ["eval"])]
)
def test_ctrl_c_while_the_command_line_is_imported_prints_no_traceback(
    module: str, words: list[str]
) -> None:
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == '{module}': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from vtcli.__main__ import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "vt: error: interrupted\n")
