"""Timelines follow the specifications of their formats: strict readers accept them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from vtcli.report.timeline import clock, make_timeline_writer

HEADER = {
    "schema": 1,
    "kind": "timeline",
    "model": "tiny",
    "window": 2.0,
    "stride": 0.5,
    "min_score": 0.25,
    "precision": "fp32",
    "device": "cpu",
}


@dataclass
class Predicted:
    """An outcome with segments, as far as a writer needs it."""

    segments: list[dict[str, Any]]
    path: str = "folder/long video.mp4"
    failed: bool = False
    windows: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "segments": self.segments, "windows": self.windows}


@dataclass
class Failed:
    path: str = "broken.mp4"
    failed: bool = True
    table: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "reason": "corrupt", "error": "broken.mp4: is damaged"}


def segment(start: float, end: float, label: str, score: float = 0.5) -> dict[str, Any]:
    return {
        "start": start,
        "end": end,
        "index": 3,
        "label": label,
        "score": score,
        "windows": 2,
    }


SEGMENTS = [
    segment(0.0, 2.5, "pulling <i>rope</i> & more --> less", 0.876),
    segment(2.5, 61.0416, "腕相撲, twice"),
    segment(3599.9996, 3661.5, 'moving "something"\n\n  down', 1.0),
]


def written(format: str, *outcomes: Predicted | Failed) -> str:
    stream = io.StringIO(newline="")
    writer = make_timeline_writer(format, stream, HEADER)
    for outcome in outcomes:
        writer.add(outcome)
    writer.close()
    return stream.getvalue()


def seconds(hours: str, minutes: str, whole: str, rest: str) -> float:
    assert int(minutes) < 60
    assert int(whole) < 60
    return 3600 * int(hours) + 60 * int(minutes) + int(whole) + int(rest) / 1000


def read_srt(text: str) -> list[tuple[float, float, str]]:
    """SubRip: a number that counts from 1, times with a comma, lines of text, an empty line."""
    time = r"(\d{2,}):(\d\d):(\d\d),(\d{3})"
    cues = []
    assert text == "" or text.endswith("\n\n")
    for number, block in enumerate(text.split("\n\n")[:-1], 1):
        counted, times, *lines = block.split("\n")
        assert counted == str(number)
        match = re.fullmatch(f"{time} --> {time}", times)
        assert match
        assert lines
        assert all(lines)
        start, end = seconds(*match.groups()[:4]), seconds(*match.groups()[4:])
        assert start < end
        cues.append((start, end, "\n".join(lines)))
    return cues


def read_vtt(text: str) -> list[tuple[float, float, str]]:
    """WebVTT, sections 4.1 and 4.2.2: a header line, then cues; text without bare & < or -->."""
    time = r"(\d{2,}):(\d\d):(\d\d)\.(\d{3})"
    header, *blocks = text.split("\n\n")
    assert header == "WEBVTT"
    assert blocks.pop() == ""
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        match = re.fullmatch(f"{time} --> {time}", times)
        assert match
        start, end = seconds(*match.groups()[:4]), seconds(*match.groups()[4:])
        assert start < end
        payload = "\n".join(lines)
        assert payload.strip()
        assert "-->" not in payload
        assert re.fullmatch(r"(?:[^&<]|&(?:amp|lt|gt|lrm|rlm|nbsp);)+", payload)
        cues.append((start, end, html.unescape(payload)))
    return cues


EXPECTED = [
    (0.0, 2.5, "pulling <i>rope</i> & more --> less (88 %)"),
    (2.5, 61.042, "腕相撲, twice (50 %)"),
    (3600.0, 3661.5, 'moving "something" down (100 %)'),
]


def test_srt_and_vtt_contain_every_segment() -> None:
    assert read_srt(written("srt", Predicted(SEGMENTS))) == EXPECTED
    assert read_vtt(written("vtt", Predicted(SEGMENTS))) == EXPECTED


@pytest.mark.parametrize("outcome", [Predicted([]), Failed()])
def test_subtitles_without_segments_are_valid(outcome: Predicted | Failed) -> None:
    assert read_srt(written("srt", outcome)) == []
    assert read_vtt(written("vtt", outcome)) == []


def test_rounded_milliseconds_carry_over() -> None:
    assert clock(59.9996) == "00:01:00.000"
    assert clock(0.0004) == "00:00:00.000"
    assert clock(360_000.0, ",") == "100:00:00,000"


def test_activitynet_json_lists_segments_by_video() -> None:
    table = json.loads(
        written(
            "activitynet",
            Predicted(SEGMENTS[:2]),
            Failed(),
            Predicted(SEGMENTS[2:], "v_-abcdefghi_.mp4"),
            Predicted([], "other/long video.mkv"),
            Predicted([], "v_run.mp4"),
        )
    )
    assert set(table) == {"version", "results", "external_data"}
    assert table["results"] == {
        "long video": [
            {"label": SEGMENTS[0]["label"], "score": 0.876, "segment": [0.0, 2.5]},
            {"label": SEGMENTS[1]["label"], "score": 0.5, "segment": [2.5, 61.0416]},
        ],
        "-abcdefghi_": [
            {"label": SEGMENTS[2]["label"], "score": 1.0, "segment": [3599.9996, 3661.5]}
        ],
        "other/long video.mkv": [],
        "v_run": [],
    }


def test_csv_has_a_row_per_segment_and_one_per_failure() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", Predicted(SEGMENTS), Failed()))))
    assert [row["label"] for row in rows] == [*(s["label"] for s in SEGMENTS), ""]
    assert [row["start"] for row in rows] == ["0.0", "2.5", "3599.9996", ""]
    assert {row["model"] for row in rows} == {"tiny"}
    assert rows[-1]["error"] == "broken.mp4: is damaged"


def window(start: float, end: float, *ranking: tuple[int, str, float]) -> dict[str, Any]:
    keys = ("index", "label", "score")
    predictions = [dict(zip(keys, values, strict=True)) for values in ranking]
    return {"start": start, "end": end, "predictions": predictions}


def test_csv_keeps_the_other_classes_of_each_segment() -> None:
    windows = [
        window(0, 2, (3, "run", 0.8), (1, "walk", 0.2)),
        window(2, 4, (3, "run", 0.6), (2, "jump", 0.3)),
        window(4, 6, (1, "walk", 0.7), (3, "run", 0.1)),
    ]
    found = Predicted([segment(0.0, 4.0, "run", 0.7)], windows=windows)
    (row,) = csv.DictReader(io.StringIO(written("csv", found)))
    # -k 2: the best class besides the segment's own; means over its two windows
    assert (row["label"], row["others"]) == ("run", "jump 0.150")


def test_json_is_one_object_and_json_lines_one_per_file() -> None:
    table = json.loads(written("json", Predicted(SEGMENTS), Failed()))
    assert (table["schema"], table["kind"]) == (1, "timeline")
    assert table["results"][0]["segments"] == SEGMENTS
    assert [f["reason"] for f in table["failures"]] == ["corrupt"]
    lines = [json.loads(line) for line in written("jsonl", Predicted([]), Failed()).splitlines()]
    assert [line["path"] for line in lines] == ["folder/long video.mp4", "broken.mp4"]


def test_a_table_has_a_line_per_segment_and_the_settings() -> None:
    lines = written("table", Failed(), Predicted(SEGMENTS[:2]), Predicted([], "b.mp4")).splitlines()
    assert lines[0] == "folder/long video.mp4"
    assert re.fullmatch(r"  00:00:00\.000 – 00:00:02\.500   87\.6 %  █{18}   +pulling .*", lines[1])
    assert "no window reaches a score of 0.25" in lines[5]
    assert lines[-1] == "tiny · 2 s every 0.5 s · fp32 on cpu"
    assert written("table", Failed()) == ""
