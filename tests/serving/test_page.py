"""The page of `vt serve` in a browser: a file in, its top classes and its timeline out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import vtcli
from tests import tiny
from tests.browser import Tab, browser, in_a_browser
from tests.serving.running import MODEL, Running
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline

pytestmark = [pytest.mark.slow, in_a_browser]

TEXTS = "[...document.querySelectorAll('{} li')].map((row) => row.innerText.split('\\n'))"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running.start("-j", "1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_a_file_shows_its_top_classes_and_its_timeline(
    tab: Tab, server: Running, tmp_path: Path
) -> None:
    clip = tiny.video(tmp_path / "clip one.mp4", 125)
    (expected,) = vtcli.predict(clip, model=MODEL, topk=5)
    (timeline,) = TimelinePredictor(vtcli.Predictor(MODEL), 2.0).predict([clip])
    assert isinstance(timeline, Timeline)
    tab.open(f"http://127.0.0.1:{server.port}/", width=400)
    tab.wait("document.querySelector('#model').options.length > 0")
    tab.choose("#file", clip)
    tab.wait("!document.querySelector('#srt').disabled")

    shown = tab.run(TEXTS.format("#top"))
    wanted = [[p.label, f"{100 * p.score:.1f} %"] for p in expected.predictions]
    assert [[cell for cell in row if cell] for row in shown] == wanted
    segments = tab.run(TEXTS.format("#segments"))
    labels = [[cell for cell in row if cell][1] for row in segments]
    assert labels == [segment.label for segment in timeline]
    assert tab.run("document.querySelectorAll('#strip button').length") == len(timeline.segments)
    assert tab.run("document.querySelector('#status').textContent") == (
        f"clip one.mp4: {len(timeline.segments)} segments"
    )

    tab.run("document.querySelector('#strip button:last-child').click()")
    start = timeline.segments[-1].start
    tab.wait(f"Math.abs(document.querySelector('#player').currentTime - {start}) < 0.1")
    for width in (400, 1280):
        tab.resize(width)
        assert tab.run("document.documentElement.scrollWidth") <= width
    origin = f"http://127.0.0.1:{server.port}/"
    assert [url for url in tab.requests if not url.startswith((origin, f"blob:{origin}"))] == []
    assert tab.problems == []


def test_a_file_that_is_not_a_video_is_said_in_one_sentence(
    tab: Tab, server: Running, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"not a video")
    tab.open(f"http://127.0.0.1:{server.port}/", dark=True)
    tab.wait("document.querySelector('#model').options.length > 0")
    tab.choose("#file", noise)
    tab.wait("document.querySelector('#status').className === 'error'")
    assert "is not a video" in tab.run("document.querySelector('#status').textContent")
