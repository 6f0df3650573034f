"""Each format of an annotation tool holds every segment, in the tool's own units."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from vtcli.report.event_formats import WRITERS
from vtcli.report.timeline import make_timeline_writer

SEGMENTS = [
    {"start": 1.0, "end": 2.5, "index": 0, "label": "run & jump", "score": 0.9, "windows": 3},
    {"start": 4.0, "end": 6.04, "index": 1, "label": 'say "ah"', "score": 0.5, "windows": 2},
]


class Predicted:
    def __init__(self, path: str = "films/one.mp4") -> None:
        self.path, self.failed = path, False

    def to_dict(self) -> dict[str, Any]:
        video = {"frames": 151, "fps": 25.0, "duration": 6.04, "width": 64, "height": 48}
        return {"path": self.path, **video, "segments": SEGMENTS}


class Failed:
    path, failed = "films/gone.mp4", True

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "error": "gone"}


def written(format: str, *outcomes: Any) -> str:
    stream = io.StringIO()
    writer = make_timeline_writer(format, stream, {"model": "nano"})
    for outcome in (*outcomes, Failed()):
        writer.add(outcome)
    writer.close()
    return stream.getvalue()


def test_label_studio_counts_frames_from_1() -> None:
    one, two = json.loads(written("label-studio", Predicted(), Predicted("two.mp4")))
    assert [one["data"]["video"], two["data"]["video"]] == ["films/one.mp4", "two.mp4"]
    results = one["predictions"][0]["result"]
    # 1.0 s to 2.5 s at 25 frames per second are the frames 25 to 61 of those from 0 on, 62 begins
    # at 2.48 s and is shown until 2.52 s.
    assert [r["value"]["ranges"] for r in results] == [
        [{"start": 26, "end": 62}],
        [{"start": 101, "end": 151}],
    ]
    assert results[0]["value"]["timelinelabels"] == ["run & jump"]
    assert {r["type"] for r in results} == {"timelinelabels"}
    assert [r["score"] for r in results] == [0.9, 0.5]


def test_fiftyone_names_videos_without_their_extension() -> None:
    table = json.loads(written("fiftyone", Predicted()))
    assert table["classes"] == ["run & jump", 'say "ah"']
    one, other = table["labels"]["one"]
    assert one == {"label": 0, "support": [26, 62], "confidence": 0.9}
    assert (other["label"], other["support"]) == (1, [101, 151])
    several = json.loads(written("fiftyone", Predicted(), Predicted("more/one.mp4")))
    assert list(several["labels"]) == ["one", str(Path("more/one.mp4").absolute())]


def test_cvat_has_a_track_of_the_whole_image() -> None:
    root = ElementTree.fromstring(written("cvat", Predicted()).encode())
    assert [t.get("label") for t in root.iter("track")] == ["run & jump", 'say "ah"']
    one, other = (
        [(box.get("frame"), box.get("outside")) for box in track] for track in root.iter("track")
    )
    assert one == [("25", "0"), ("61", "0"), ("62", "1")]
    assert other == [("100", "0"), ("150", "0")]
    assert [e.text for e in root.iter("name")] == ["one", "run & jump", 'say "ah"']
    size = root.find("meta/task/original_size")
    assert size is not None
    assert [e.text for e in size] == ["64", "48"]


def test_elan_has_milliseconds() -> None:
    rows = list(csv.DictReader(io.StringIO(written("elan", Predicted())), delimiter="\t"))
    assert [(r["Begin Time - msec"], r["End Time - msec"]) for r in rows] == [
        *(("1000", "2500"), ("4000", "6040")),
    ]
    assert rows[0]["Annotation"] == "run & jump"


def test_via_is_csv_of_json_cells() -> None:
    lines = written("via", Predicted()).splitlines()
    header = next(line for line in lines if line.startswith("# CSV_HEADER = "))
    names = header.removeprefix("# CSV_HEADER = ").split(",")
    rows = [
        dict(zip(names, row, strict=True))
        for row in csv.reader(line for line in lines if not line.startswith("#"))
    ]
    assert [json.loads(r["temporal_coordinates"]) for r in rows] == [[1.0, 2.5], [4.0, 6.04]]
    assert [json.loads(r["metadata"])["1"] for r in rows] == ["run & jump", 'say "ah"']
    assert {r["file_list"] for r in rows} == {'["films/one.mp4"]'}


@pytest.mark.parametrize("format", list(WRITERS))
def test_nothing_found_is_a_file_without_segments(format: str) -> None:
    text = written(format)
    assert "run" not in text
    if format in ("label-studio", "fiftyone"):
        json.loads(text)
