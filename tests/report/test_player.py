"""The page of a timeline has its scores and events, plays the video, and loads nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.browser import Tab, browser, in_a_browser
from tests.report.test_html import HOSTILE, Page
from vtcli.report import player
from vtcli.report.player import MAX_ROWS, TimelinePage, timeline_data

HEADER = {"model": "tiny", "window": 2.0, "stride": 1.0, "min_score": 0.0, "events": {"on": 0.5}}
RIGHT, LEFT = 39, 37  # codes of keys


def ranking(*scores: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"index": index, "label": f"class {index}", "score": score} for index, score in scores]


def table(path: Path | str, labels: tuple[str, ...] = ("turn", "walk")) -> dict[str, Any]:
    """A video of 4 seconds with three windows and two events."""
    rankings = [
        ranking((7, 0.9), (2, 0.1)),
        ranking((2, 0.6), (7, 0.3)),
        ranking((2, 0.8), (5, 0.2)),
    ]
    segments = [(0.0, 1.5, 7, labels[0]), (2.0, 4.0, 2, labels[1])]
    return {
        "path": str(path),
        "duration": 4.0,
        "windows": [
            {"start": float(n), "end": n + 2.0, "predictions": found}
            for n, found in enumerate(rankings)
        ],
        "segments": [
            {"start": start, "end": end, "index": index, "label": label, "score": 0.75}
            for start, end, index, label in segments
        ],
    }


class Predicted:
    path, failed = "", False

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def to_dict(self) -> dict[str, Any]:
        return self.found


def write(page: Path, found: dict[str, Any]) -> str:
    """Write a page; what is noted."""
    with page.open("w", encoding="utf-8") as stream:
        writer = TimelinePage(stream, HEADER, page.parent)
        writer.add(Predicted(found))
        writer.close()
    return writer.notice


def test_rows_are_the_classes_of_events_and_then_the_best_others() -> None:
    data = timeline_data(table("clip.mp4"))
    assert [(row["index"], row["label"]) for row in data["rows"]] == [
        *((7, "class 7"), (2, "class 2"), (5, "class 5"))
    ]
    assert [row["scores"] for row in data["rows"]] == [
        [0.9, 0.3, None],
        [0.1, 0.6, 0.8],
        [None, None, 0.2],
    ]
    assert data["spans"] == [[0.0, 1.5], [1.5, 2.5], [2.5, 4.0]]
    many = table("clip.mp4")
    many["windows"][0]["predictions"] += ranking(*((index, 0.001) for index in range(100, 150)))
    assert len(timeline_data(many)["rows"]) == MAX_ROWS


def test_a_small_video_is_in_the_page_and_a_large_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a: b").mkdir()
    clip = tiny.video(tmp_path / "a: b" / "clip #1.mp4", 100)
    assert write(tmp_path / "in.html", table(clip)) == ""
    (address,) = Page((tmp_path / "in.html").read_text("utf-8")).attributes("video", "src")
    assert address.startswith("data:video/mp4;base64,")

    monkeypatch.setattr(player, "EMBEDDED_BYTES", 10)
    note = write(tmp_path / "a: b" / "beside.html", table(clip))
    assert note == "the page plays clip #1.mp4, which must stay where it is"
    page = Page((tmp_path / "a: b" / "beside.html").read_text("utf-8"))
    assert page.attributes("video", "src") == ["./clip%20%231.mp4"]
    assert "The page plays clip #1.mp4 , which must stay where it is." in page.text
    write(tmp_path / "above.html", table(clip))
    page = Page((tmp_path / "above.html").read_text("utf-8"))
    assert page.attributes("video", "src") == ["a%3A%20b/clip%20%231.mp4"]

    write(tmp_path / "url.html", table("https://host/clip.mp4"))
    page = Page((tmp_path / "url.html").read_text("utf-8"))
    assert page.attributes("video", "src") == []
    assert "The video is at https://host/clip.mp4" in page.text


def test_names_are_escaped_and_the_policy_allows_the_video_alone(tmp_path: Path) -> None:
    clip = tiny.video(tmp_path / "clip.mp4", 10)
    for label in HOSTILE:
        write(tmp_path / "page.html", table(clip, (label, "walk")))
        page = Page((tmp_path / "page.html").read_text("utf-8"))
        assert " ".join(label.split()) in page.text
        (policy,) = (p for p in page.attributes("meta", "content") if "default-src" in p)
        assert "default-src 'none'" in policy
        assert policy.endswith("; media-src data:")


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def state(tab: Tab) -> tuple[float, str, list[str]]:
    """The time of the strip, the best class there, and the events that are marked."""
    found = tab.run(
        """[document.querySelector("#strip").getAttribute("aria-valuenow"),
            document.querySelector("#best").textContent,
            [...document.querySelectorAll("#events [aria-current=true] bdi")].map(
              (one) => one.textContent)]"""
    )
    return float(found[0]), found[1], found[2]


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize("is_embedded", [True, False])
def test_keys_pointer_and_events_move_the_video(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_embedded: bool
) -> None:
    monkeypatch.setattr(player, "EMBEDDED_BYTES", player.EMBEDDED_BYTES if is_embedded else 10)
    clip = tiny.video(tmp_path / "clip #1.mp4", 100)
    write(tmp_path / "page.html", table(clip))
    requests, problems = len(tab.requests), len(tab.problems)
    tab.open((tmp_path / "page.html").as_uri(), width=400)
    tab.wait("document.querySelector('video').readyState > 0")
    assert state(tab) == (0.0, "class 7 90.0%", ["turn"])
    tab.run("document.querySelector('#strip').focus()")
    tab.press("ArrowRight", RIGHT)
    tab.press("ArrowRight", RIGHT)
    assert state(tab) == (2.0, "class 2 60.0%", ["walk"])
    tab.press("ArrowLeft", LEFT)
    tab.wait("document.querySelector('video').currentTime === 1")
    tab.press("PageDown", 34)
    assert state(tab)[0] == 2.0
    tab.press("End", 35)
    assert state(tab)[0] == 4.0
    tab.run("document.querySelector('#events button').click()")
    assert state(tab)[0] == 0.0
    box = tab.run("JSON.stringify(document.querySelector('#strip canvas').getBoundingClientRect())")
    box = json.loads(box)
    at = {"x": box["x"] + 0.75 * box["width"], "y": box["y"] + 5}
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
    assert state(tab)[0] == pytest.approx(3.0, abs=0.1)
    for width in (400, 1280):
        tab.resize(width)
        assert tab.run("document.documentElement.scrollWidth") <= width
    names = [url.rpartition("/")[2] for url in tab.requests[requests:]]
    assert names == ["page.html", *([] if is_embedded else ["clip%20%231.mp4"])]
    assert tab.problems[problems:] == []


@pytest.mark.slow
@in_a_browser
def test_without_a_video_that_plays_the_strip_works(tab: Tab, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    shutil.copy(tiny.video(tmp_path / "clip.mp4", 10), clip)
    clip.write_bytes(b"RIFF" + bytes(100))
    write(tmp_path / "page.html", table(clip))
    tab.open((tmp_path / "page.html").as_uri(), dark=True)
    tab.wait("document.querySelector('video').hidden")
    assert tab.run("document.querySelector('video').offsetHeight") == 0
    assert "cannot play the video" in tab.run("document.querySelector('#message').textContent")
    tab.run("document.querySelectorAll('#events button')[1].click()")
    assert state(tab) == (2.0, "class 2 60.0%", ["walk"])
    tab.run("document.querySelector('#play').click()")
    tab.wait("Number(document.querySelector('#strip').getAttribute('aria-valuenow')) > 2.1")
    assert tab.run("document.querySelector('#play').textContent") == "Pause"
