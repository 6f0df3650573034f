"""Exports of annotation tools and videos inside other files: ranges, labels and names as the format
defines them.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset
from vtcli.errors import DataError

SEGMENTS = [("a.mp4", 4, 14, ("Movement",)), ("b.mp4", 0, 1, ("Other",))]


def segments(dataset: Dataset) -> list[tuple[str, int | None, int | None, tuple[str, ...]]]:
    names = dataset.classes["action"]
    return [
        (s.path.name, s.first_frame, s.last_frame, tuple(names[label] for label in s.labels))
        for s in dataset.samples
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        layouts.video(tmp_path / "v" / f"{name}.mp4")
    return tmp_path


def task(video: str, *values: dict[str, object]) -> dict[str, object]:
    return {
        "id": 1,
        "data": {"video": video},
        "annotations": [{"result": [{"value": value, "type": "x"} for value in values]}],
    }


def test_timeline_labels_of_label_studio_are_segments_counted_from_1(folder: Path) -> None:
    first = {"ranges": [{"start": 5, "end": 15}], "timelinelabels": ["Movement"]}
    second = {"ranges": [{"start": 1, "end": 2}], "timelinelabels": ["Other"]}
    tasks = [
        task("/data/upload/1/0a1b2c3d-a.mp4", first),
        task("/data/local-files/?d=v/b.mp4", second),
    ]
    (folder / "export.json").write_text(json.dumps(tasks))
    dataset = open_dataset(folder / "export.json")
    assert segments(dataset) == SEGMENTS
    assert "Label Studio export, 2 segments" in dataset.summary
    assert all(sample.path.exists() for sample in dataset.samples)


def test_choices_of_label_studio_are_labels_of_whole_videos(folder: Path) -> None:
    tasks = [
        task("/data/local-files/?d=v/a.mp4", {"choices": ["walking", "talking"]}),
        task("s3://bucket/b.mp4", {"choices": ["walking"]}),
        task("c.mp4"),
    ]
    (folder / "export.json").write_text(json.dumps(tasks))
    dataset = open_dataset(folder / "export.json")
    assert segments(dataset) == [
        ("a.mp4", None, None, ("walking", "talking")),
        ("b.mp4", None, None, ("walking",)),
    ]
    assert "1 video without a label left out" in dataset.summary


def test_the_short_form_of_label_studio_is_read(folder: Path) -> None:
    common = {"annotator": 1, "annotation_id": 2, "id": 3}
    records = [
        {"video": "v/a.mp4", "choice": "x", **common},
        {"video": "v/b.mp4", "choice": "y", **common},
    ]
    (folder / "min.json").write_text(json.dumps(records))
    assert [row[3] for row in segments(open_dataset(folder / "min.json"))] == [("x",), ("y",)]


def test_fiftyone_classification_and_temporal_detections_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        layouts.video(tmp_path / "data" / f"{name}.mp4")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"classes": ["fall", "walk"], "labels": {"a": 0, "b": 1}}))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == {"action": ("fall", "walk")}
    assert segments(dataset) == [("a.mp4", None, None, ("fall",)), ("b.mp4", None, None, ("walk",))]
    assert all(sample.path.exists() for sample in dataset.samples)
    found = {
        "a": [{"label": 1, "support": [1, 3]}, {"label": 0, "timestamps": [0.5, 2.0]}],
        "b": [],
    }
    labels.write_text(json.dumps({"classes": ["fall", "walk"], "labels": found}))
    first, second = open_dataset(tmp_path).samples
    assert (first.first_frame, first.last_frame, first.labels) == (0, 2, (1,))
    assert (second.start, second.end, second.labels) == (0.5, 2.0, (0,))


CVAT = """<annotations><version>1.1</version>
<meta><task><id>1</id><source>a.mp4</source>{task}</task></meta>
<track id="0" label="walk"><box frame="2" outside="0"/><box frame="3" outside="0"/>
<box frame="4" outside="1"/><box frame="6" outside="0"/><box frame="7" outside="1"/></track>
<tag label="sit" frame="0"/><tag label="sit" frame="1"/><tag label="sit" frame="5"/>
</annotations>"""


def test_tracks_and_tags_of_cvat_are_segments_of_visible_frames(folder: Path) -> None:
    (folder / "cvat.xml").write_text(CVAT.format(task=""))
    dataset = open_dataset(folder / "cvat.xml")
    assert sorted(segments(dataset), key=lambda row: row[1] or 0) == [
        ("a.mp4", 0, 1, ("sit",)),
        ("a.mp4", 2, 3, ("walk",)),
        ("a.mp4", 5, 5, ("sit",)),
        ("a.mp4", 6, 6, ("walk",)),
    ]
    skipping = "<start_frame>10</start_frame><frame_filter>step=2</frame_filter>"
    (folder / "cvat.xml").write_text(CVAT.format(task=skipping))
    assert ("a.mp4", 14, 17, ("walk",)) in segments(open_dataset(folder / "cvat.xml"))
    (folder / "cvat.xml").write_text("<annotations><version>1.1</version></annotations>")
    with pytest.raises(DataError, match="has no labeled video"):
        open_dataset(folder / "cvat.xml")


def test_segments_of_via_are_read_in_seconds(folder: Path) -> None:
    lines = (
        "# Exported using VGG Image Annotator",
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,"
        "spatial_coordinates,metadata",
        '"1_a","[""a.mp4""]",0,"[1.5,3.25]","[]","{""1"":""wave""}"',
        '"2_b","[""b.mp4""]",0,"[0,1]","[]","{""1"":""nod""}"',
    )
    path = layouts.text(folder / "via.csv", *lines)
    dataset = open_dataset(path)
    assert [(s.start, s.end) for s in dataset.samples] == [(1.5, 3.25), (0.0, 1.0)]
    assert [row[3] for row in segments(dataset)] == [("wave",), ("nod",)]


def test_create_ml_records_are_read(folder: Path) -> None:
    records = [
        {"video": "v/a.mp4", "label": "jump", "start": 0.5, "end": 2},
        {"video": "v/b.mp4", "label": "run", "start": 0, "end": 1},
    ]
    (folder / "annotations.json").write_text(json.dumps(records))
    assert [(s.start, s.end) for s in open_dataset(folder / "annotations.json").samples] == [
        (0.5, 2.0),
        (0.0, 1.0),
    ]


def test_videos_in_parquet_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))
    data = layouts.video(tmp_path / "x.mp4").read_bytes()
    features = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    for shard in range(2):
        videos = [
            {"bytes": data + bytes([shard]), "path": "clip.mp4"},
            {"bytes": data, "path": None},
        ]
        table = pa.table({"video": videos, "label": [1, 0]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "set" / "data" / f"train-0000{shard}-of-00002.parquet")
    dataset = open_dataset(tmp_path / "set")
    assert dataset.split == "train"
    assert dataset.classes == {"action": ("no", "yes")}
    assert [s.labels for s in dataset.samples] == [(1,), (0,), (1,), (0,)]
    assert [s.path.read_bytes() for s in dataset.samples][:2] == [data + b"\0", data]
    before = [s.path.stat().st_mtime_ns for s in dataset.samples]
    assert [s.path.stat().st_mtime_ns for s in open_dataset(tmp_path / "set").samples] == before


def test_a_webdataset_tar_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))
    data = layouts.video(tmp_path / "x.mp4").read_bytes()
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train-000000.tar", "w") as archive:
        members = {"k1.mp4": data, "k1.cls": b"1", "k2.mp4": data, "k2.cls": b"0\n"}
        members["../evil.mp4"], members["../evil.cls"] = data, b"0"
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    dataset = open_dataset(tmp_path / "set")
    assert [s.labels for s in dataset.samples] == [(1,), (0,), (0,)]
    assert all((tmp_path / "cache") in s.path.parents for s in dataset.samples)
