"""Live sources: the windows of a stream are those of the file, and what cannot be scored in time is
dropped and counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests import tiny
from tests.evaluation.harness import model_file
from tests.remote_server import FileServer, serve
from tests.rtsp_server import Camera
from tests.rtsp_server import serve as serve_rtsp
from tests.runtime.processes import children
from vtcli.errors import UsageError
from vtcli.inference import live, live_reader
from vtcli.inference.live import LiveEnd, LivePredictor, LiveWindow
from vtcli.inference.predictor import Predictor
from vtcli.inference.rolling import RollingWindows
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline, Window, plan_windows
from vtcli.video import live_source

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
]

HANGS = "the decoder does not respond; trying again in 0.1 s"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "GROWTH_SECONDS", 0.3)
    monkeypatch.setattr(live_reader, "FIRST_RETRY", 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.4 seconds of MPEG-TS at 25 frames a second."""
    return tiny.video(tmp_path_factory.mktemp("clip") / "clip.ts", 60)


def timeliner(model: Path, window: float = 0.8, stride: float = 0.4) -> TimelinePredictor:
    return TimelinePredictor(Predictor(model, precision="fp32"), window, stride)


def write_in_background(pipe: Path, data: bytes, seconds: float = 0.0) -> None:
    """Write into a named pipe, evenly over so many seconds."""
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            part = max(1, len(data) // 50) if seconds else len(data)
            for at in range(0, len(data), part):
                file.write(data[at : at + part])
                time.sleep(seconds / 50)

    threading.Thread(target=write, daemon=True).start()


def outcomes(predictor: LivePredictor) -> tuple[list[LiveWindow], list[LiveEnd]]:
    found = list(predictor.predict())
    windows = [one for one in found if isinstance(one, LiveWindow)]
    return windows, [one for one in found if isinstance(one, LiveEnd)]


def assert_same_windows(windows: list[LiveWindow], expected: Timeline) -> None:
    assert [w.prediction.window for w in windows] == [w.window for w in expected.windows]
    for one, other in zip(windows, expected.windows, strict=True):
        for mine, theirs in zip(one.prediction.heads.items(), other.heads.items(), strict=True):
            scores = {p.label: p.score for p in theirs[1]}
            assert {p.label: p.score for p in mine[1]} == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("seconds", [0.0, pytest.param(2.4, marks=pytest.mark.slow)])
def test_a_pipe_has_the_windows_of_the_file(
    tmp_path: Path, model: Path, stream: Path, seconds: float
) -> None:
    predictor = timeliner(model)
    (expected,) = predictor.predict([stream])
    assert isinstance(expected, Timeline)
    write_in_background(tmp_path / "pipe", stream.read_bytes(), seconds)
    windows, (end,) = outcomes(LivePredictor(predictor, [str(tmp_path / "pipe")]))
    assert_same_windows(windows, expected)
    assert (end.frames, end.dropped, end.windows, end.error) == (60, 0, len(windows), None)
    assert max(w.delay for w in windows) < 2


@pytest.mark.slow
def test_what_cannot_be_scored_in_time_is_dropped_and_counted(
    tmp_path: Path, model: Path, stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.5
    score = live.score_clips

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return score(*arguments)

    monkeypatch.setattr(live, "score_clips", slow)
    write_in_background(tmp_path / "pipe", stream.read_bytes())
    predictor = LivePredictor(timeliner(model, 0.2, 0.1), [str(tmp_path / "pipe")])
    windows, (end,) = outcomes(predictor)
    scored = {
        w.prediction.window.first + i for w in windows for i in range(w.prediction.window.frames)
    }
    assert 0 < end.dropped == 60 - len(scored)
    assert len(windows) + end.skipped == len(plan_windows(np.arange(61) / 25, 0.2, 0.1))
    assert windows[-1].prediction.window.end == pytest.approx(2.4)
    assert max(w.delay for w in windows) < (live_reader.MAX_WAITING + 1) * seconds + 1


def test_a_network_stream_that_breaks_off_is_opened_again(model: Path, stream: Path) -> None:
    notes: list[str] = []
    with serve(FileServer(stream.parent, ranges=False, breaks=1)) as server:
        url = f"{server.url}/{stream.name}"
        windows, (end,) = outcomes(LivePredictor(timeliner(model), [url], notes.append))
    assert end.error is None
    assert 60 < end.frames < 120
    assert [note.removeprefix(f"{url}: ") for note in notes[1:]] == ["the stream is back"]
    assert notes[0].endswith("trying again in 0.1 s")
    starts = [w.prediction.window.start for w in windows]
    assert starts == sorted(starts)
    assert all(w.prediction.window.end - w.prediction.window.start > 0.79 for w in windows)


@pytest.mark.slow
@pytest.mark.parametrize(("packets", "says_bye"), [(None, True), (40, False)])
def test_an_rtsp_camera_has_the_windows_of_its_film_and_is_opened_again(
    model: Path, stream: Path, packets: int | None, says_bye: bool
) -> None:
    predictor = timeliner(model)
    (expected,) = predictor.predict([stream])
    assert isinstance(expected, Timeline)
    notes: list[str] = []
    windows: list[LiveWindow] = []
    with serve_rtsp(Camera(stream, packets, says_bye)) as camera:
        rtsp = LivePredictor(predictor, [camera.url], notes.append)
        for one in rtsp.predict():
            if isinstance(one, LiveEnd):
                assert one.error is None
                continue
            windows.append(one)
            if len(notes) == 2:  # it was away, and is back
                rtsp.stop()
    seconds = (packets or 60) / 25 + 1e-6
    planned = tuple(w for w in expected.windows if w.window.end <= seconds)
    assert len(planned) > 1
    assert_same_windows(windows[: len(planned)], replace(expected, windows=planned))
    assert camera.played >= 2
    assert [note.removeprefix(f"{camera.url}: ") for note in notes[1:2]] == ["the stream is back"]
    assert notes[0].endswith("trying again in 0.1 s")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
def test_a_decoder_that_dies_or_hangs_is_replaced_while_the_stream_runs(
    tmp_path: Path, model: Path, stream: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(live, "HANG_SECONDS", 0.5)
    before, notes = set(children()), []
    write_in_background(tmp_path / "pipe", 2 * stream.read_bytes(), 2.4)
    predictor = LivePredictor(timeliner(model), [str(tmp_path / "pipe")], notes.append)
    windows, killed = [], False
    for one in predictor.predict():
        if isinstance(one, LiveWindow):
            windows.append(one)
            for pid in set(children()) - before if not killed else ():
                os.kill(pid, number)
            killed = True
        else:
            assert (one.error, one.windows) == (None, len(windows))
    assert len(windows) > 2
    assert [note.rpartition("pipe: ")[2].partition(" (")[0] for note in notes] == [
        "the decoder crashed" if number == signal.SIGSEGV else HANGS,
        "the stream is back",
    ]
    starts = [w.prediction.window.start for w in windows]
    assert starts == sorted(set(starts))


def test_a_camera_that_goes_away_and_comes_back_continues(
    tmp_path: Path, model: Path, stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = tmp_path / "video0"  # a file is read as a camera is, up to its end
    camera.write_bytes(stream.read_bytes())
    monkeypatch.setattr(live_source, "_open_camera", lambda source: av.open(str(camera)))
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text.removeprefix("/dev/video0: "))
        if len(notes) == 2:
            (tmp_path / "away").rename(camera)

    # In this process, which is the one that is patched.
    predictor = TimelinePredictor(Predictor(model, precision="fp32", workers=0), 0.8, 0.4)
    live_camera = LivePredictor(predictor, ["/dev/video0"], note)
    starts: list[float] = []
    for one in live_camera.predict():
        if isinstance(one, LiveEnd):
            assert one.error is None
            continue
        if not starts:
            camera.rename(tmp_path / "away")
        starts.append(one.prediction.window.start)
        if notes[-1:] == ["the stream is back"]:
            live_camera.stop()
    assert notes[0] == "the stream ended; trying again in 0.1 s"
    assert notes[1].startswith("cannot be opened (")
    assert notes[1].endswith("; trying again in 0.2 s")
    assert starts == sorted(set(starts))
    assert starts[-1] > 2.4


def test_several_sources_share_the_network(tmp_path: Path, model: Path, stream: Path) -> None:
    other = tiny.video(tmp_path / "other.ts", 40, seed=1)
    predictor = timeliner(model)
    windows, ends = outcomes(LivePredictor(predictor, [str(stream), str(other)]))
    for path, expected in zip((stream, other), predictor.predict([stream, other]), strict=True):
        assert isinstance(expected, Timeline)
        assert_same_windows([w for w in windows if w.source == str(path)], expected)
    assert {end.source for end in ends} == {str(stream), str(other)}


def test_a_source_that_cannot_be_read_does_not_end_the_others(model: Path, stream: Path) -> None:
    sources = ["missing.ts", "http://127.0.0.1:9/a.ts", str(stream)]
    windows, ends = outcomes(LivePredictor(timeliner(model), sources))
    assert {w.source for w in windows} == {str(stream)}
    reasons = {end.source: end.error and end.error.reason for end in ends}
    assert reasons == {sources[0]: "not_found", sources[1]: "not_found", sources[2]: None}


def test_stop_ends_a_pipe_to_which_nothing_is_written(tmp_path: Path, model: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writers: list[Any] = []
    opening = threading.Thread(target=lambda: writers.append((tmp_path / "pipe").open("wb")))
    opening.start()
    predictor = LivePredictor(timeliner(model), [str(tmp_path / "pipe")])
    threading.Timer(0.3, predictor.stop).start()
    windows, (end,) = outcomes(predictor)
    opening.join()
    writers[0].close()
    assert (windows, end.frames, end.error) == ([], 0, None)


@pytest.mark.parametrize("source", ["ftp://host/a.ts", "camera:front", "file:///a.ts"])
def test_what_is_not_a_live_source_is_refused(model: Path, source: str) -> None:
    with pytest.raises(UsageError, match="--live takes"):
        LivePredictor(timeliner(model), [source])


@pytest.mark.parametrize(("window", "stride"), [(2.0, 1.0), (1.0, 1.0), (0.5, 2.0), (3.0, 0.7)])
def test_rolling_windows_are_the_planned_ones(window: float, stride: float) -> None:
    random = np.random.RandomState(0)
    for frames in (1, 5, 26, 50, 51, 76, 200):
        for gaps in (np.full(frames, 0.04), random.uniform(0.001, 0.4, frames)):
            times = np.concatenate([[0.0], np.cumsum(gaps)])
            rolling: RollingWindows[int] = RollingWindows(window, stride)
            found: list[Window] = []
            for number, shown in enumerate(times[:-1]):
                for one in rolling.add(shown, number):
                    assert rolling.frames_of(one) == list(range(one.first, one.first + one.frames))
                    found.append(one)
                rolling.forget()
            for one in rolling.finish(times[-1]):
                assert rolling.frames_of(one) == list(range(one.first, one.first + one.frames))
                found.append(one)
            assert found == plan_windows(times, window, stride)
