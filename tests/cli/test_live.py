"""`vt predict --live`: lines while the stream runs, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from tests import tiny
from tests.evaluation.harness import ROOT, environment, vt_here
from tests.forked import Forked
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_USAGE
from vtcli.video import live_source


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "GROWTH_SECONDS", 0.2)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.video(tmp_path_factory.mktemp("clip") / "clip.ts", 60)


def test_windows_are_lines_of_json(stream: Path) -> None:
    done = vt_here("predict", "--live", stream, "-m", "uniformerv2-nano", "--window", "1s")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["start"], row["end"]) for row in rows] == [(0, 1), (0.5, 1.5), (1, 2), (1.4, 2.4)]
    assert all(row["source"] == str(stream) and row["dropped"] == 0 for row in rows)
    assert len(rows[0]["predictions"]) == 5
    assert done.returncode == EXIT_OK


def test_events_are_those_of_the_file(stream: Path) -> None:
    words = ["-m", "uniformerv2-nano", "--window", "1s", "--stride", "500ms", "--events"]
    words += ["--event-rule", "on=0.2,off=0.1"]
    live = vt_here("predict", "--live", stream, *words)
    rows = [json.loads(line) for line in live.stdout.splitlines()]
    file = vt_here("predict", stream, *words, "--format", "jsonl")
    expected = json.loads(file.stdout)["segments"]
    keys = ("start", "end", "label", "windows")
    assert [[r[k] for k in keys] for r in rows] == [[e[k] for k in keys] for e in expected]
    assert rows


def test_a_table_names_the_sources_where_there_are_several(stream: Path, tmp_path: Path) -> None:
    other = tiny.video(tmp_path / "other.ts", 30)
    words = ["-m", "uniformerv2-nano", "--format", "table", "--live", stream, "--live", other]
    lines = vt_here("predict", *words).stdout.splitlines()
    assert len(lines) == 3
    assert sum(line.endswith(str(other)) for line in lines) == 1
    assert lines[0].startswith("00:00:00.000 – 00:00:0")


def test_clips_of_events_and_a_preview_are_saved(stream: Path, tmp_path: Path) -> None:
    words = ["-m", "uniformerv2-nano", "--window", "1s", "--events", "--event-rule", "on=0.1,off=0"]
    clips, preview = tmp_path / "clips", tmp_path / "now.jpg"
    words += ["--save-clips", clips, "--pre-roll", "0", "--preview", preview]
    done = vt_here("predict", "--live", stream, *words)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert sorted(row["clip"] for row in rows) == sorted(map(str, clips.iterdir()))
    for row in rows:
        with av.open(row["clip"]) as clip:
            assert clip.duration / 1e6 >= row["end"] - row["start"] - 0.1
    with Image.open(preview) as picture:
        assert picture.size == (64, 48)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--live", "missing.ts"], "missing.ts: cannot be opened"),
        (["--live", "ftp://host/a"], "--live takes -, http://"),
        (["--live", "a.ts", "b.mp4"], "a video file does not go with --live"),
        (["--live", "a.ts", "--live", "a.ts"], "--live names a source twice"),
        (["--live", "a.ts", "--format", "csv"], "--live writes --format table or jsonl, not csv"),
        (["--live", "a.ts", "--event-rule", "on=1"], "add --events"),
        (["--live", "a.ts", "-o", "run/"], "--live cannot write to a folder"),
        (["--live", "a.ts", "--annotate", "b.mp4"], "--annotate does not go with --live"),
        (["--live", "a.ts", "--save-clips", "clips"], "add --events"),
        (["--live", "a.ts", "--pre-roll", "1s"], "add --save-clips DIR"),
        (["--live", "a.ts", "--preview", "a.png"], "name it a.jpg"),
        (["--live", "a.ts", "--live", "b.ts", "--preview", "a.jpg"], "--preview shows one source"),
        (["a.mp4", "--preview", "a.jpg"], "--preview is for live sources; add --live SOURCE"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(words: list[str], message: str) -> None:
    done = vt_here("predict", *words, "-m", "uniformerv2-nano")
    assert done.returncode in (EXIT_NO_INPUT, EXIT_USAGE)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_code_0(stream: Path, number: int) -> None:
    words = ["predict", "--live", "-", "-m", "uniformerv2-nano", "--window", "1s"]
    with Forked(words, environment(), ROOT) as process:
        os.write(process.stdin.fileno(), stream.read_bytes())  # and the pipe stays open
        assert json.loads(process.stdout.readline())["start"] == 0
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (EXIT_OK, "")
