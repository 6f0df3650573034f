"""What `vt datasets export` writes has the form that the tools define, and is read back equal."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.cli import run
from vtcli.data.export import WRITERS
from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset, Sample

# The clip has 8 frames at 12 per second.
WHOLE = [("k/a.mp4", ["run & jump"], {}), ("k/b.mp4", ["sit"], {}), ("l/a.mp4", ["sit"], {})]
SEVERAL = [("k/a.mp4", ["sit", "talk"], {}), ("k/b.mp4", ["walk"], {}), ("l/a.mp4", ["sit"], {})]
SEGMENTS = [
    ("k/a.mp4", ["sit", "talk"], {"start": 0.0, "end": 0.25}),
    ("k/a.mp4", ["sit"], {"start": 0.25, "end": 0.5}),
    ("l/a.mp4", ["walk"], {"start": 0.25, "end": 8 / 12}),
]
ONE_LABEL = [row for row in SEGMENTS if len(row[1]) == 1]
NAMES = {
    "manifest": "out.jsonl",
    "label-studio": "out.json",
    "fiftyone": "out",
    "cvat": "out.xml",
    "via": "out.json",
    "createml": "out.json",
    "videofolder": "out",
    "parquet": "out.parquet",
    "webdataset": "out.tar",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(("k/a.mp4", "k/b.mp4", "l/a.mp4")):
        path = layouts.video(tmp_path / "set" / name)
        # A box of 9 bytes that players skip: each file has its own bytes.
        path.write_bytes(path.read_bytes() + b"\0\0\0\x09free" + bytes([number]))
    return tmp_path / "set"


def manifest(folder: Path, rows: list[tuple[str, list[str], dict[str, float]]]) -> Path:
    path = folder / "list.jsonl"
    records = [{"path": video, "label": labels, **times} for video, labels, times in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def frames(sample: Sample) -> tuple[int, int] | None:
    """The first and last frame at 12 frames per second; None for a whole video."""
    if sample.first_frame is not None and sample.last_frame is not None:
        return sample.first_frame, sample.last_frame
    if sample.start is None or sample.end is None:
        return None
    return round(12 * sample.start), round(12 * sample.end) - 1


def content(dataset: Dataset) -> set[tuple[str, tuple[int, int] | None, frozenset[str]]]:
    names = dataset.classes["action"]
    found = [
        (
            hashlib.sha256(sample.path.read_bytes()).hexdigest(),
            frames(sample),
            frozenset(names[label] for label in sample.labels),
        )
        for sample in dataset.samples
    ]
    assert len(set(found)) == len(found)
    return set(found)


def export(source: Path, to: str, name: str = "") -> Path:
    out = source.parent / (name or NAMES[to])
    assert run(["datasets", "export", str(source), "--to", to, "-o", str(out)]) == 0
    return out


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("rows", [WHOLE, SEVERAL, SEGMENTS], ids=["whole", "several", "segments"])
def test_what_is_written_is_read_back_equal(folder: Path, to: str, rows: list) -> None:
    rows = ONE_LABEL if to == "createml" and rows is SEGMENTS else rows
    rows = WHOLE if to == "createml" and rows is SEVERAL else rows
    source = manifest(folder, rows)
    before = open_dataset(source)
    assert content(open_dataset(export(source, to))) == content(before)


def test_an_export_elsewhere_finds_its_videos(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, WHOLE)
    for to in ("manifest", "label-studio", "cvat", "via", "createml"):
        out = export(source, to, f"../other/{NAMES[to]}")
        assert content(open_dataset(out)) == content(open_dataset(source)), to


def test_frames_are_counted_as_each_tool_counts_them(folder: Path) -> None:
    source = manifest(folder, SEGMENTS)
    tasks = json.loads(export(source, "label-studio").read_text())
    values = [r["value"] for r in tasks[0]["annotations"][0]["result"]]
    assert values[1] == {"ranges": [{"start": 4, "end": 6}], "timelinelabels": ["sit"]}
    assert tasks[0]["data"]["video"] == "/data/local-files/?d=k/a.mp4"
    labels = json.loads((export(source, "fiftyone") / "labels.json").read_text())
    assert labels["classes"] == ["sit", "talk", "walk"]
    assert labels["labels"]["l__a"] == [{"label": 2, "support": [4, 8]}]
    assert (folder / "out" / "data" / "l__a.mp4").is_file()
    root = ET.parse(export(source, "cvat")).getroot()
    shapes = [
        [(box.get("frame"), box.get("outside")) for box in track] for track in root.iter("track")
    ]
    assert shapes[-2:] == [[("3", "0"), ("5", "0"), ("6", "1")], [("3", "0"), ("7", "0")]]
    assert root.findtext(".//task/size") == "8"
    project = json.loads(export(source, "via").read_text())
    assert [entry["z"] for entry in project["metadata"].values()][-1] == [0.25, 8 / 12]


@pytest.mark.parametrize(
    ("to", "name", "says"),
    [
        ("cvat", "out.json", "does not end in .xml; write -o out.xml"),
        ("createml", "out.json", "use --to manifest"),
        ("videofolder", "list.jsonl", "is not a new or empty folder"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, to: str, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = manifest(folder, SEVERAL)
    args = ["datasets", "export", str(source), "--to", to, "-o", str(folder / name)]
    assert run(args) == 7
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize(
    "names", [("1", "10", "2"), (" up", "down ", "x")], ids=["digits", "spaces"]
)
def test_names_that_text_cannot_hold_survive_or_are_refused(
    folder: Path, to: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, video in zip(names, ("k/a.mp4", "k/b.mp4", "l/a.mp4"), strict=True):
        (folder / "classes" / name).mkdir(parents=True)
        (folder / video).rename(folder / "classes" / name / f" {video[0]}{video[2]}.mp4")
    source = folder / "classes"
    before = open_dataset(source)
    assert set(before.classes["action"]) == set(names)
    out = folder / NAMES[to]
    code = run(["datasets", "export", str(source), "--to", to, "-o", str(out)])
    if to in ("manifest", "createml", "videofolder", "webdataset"):
        assert code == 7
        assert f"from {to}; use --to parquet" in (err := capsys.readouterr().err) or (
            f"in {to}; use --to parquet" in err
        )
        assert not out.exists()
    else:
        assert code == 0
        assert content(open_dataset(out)) == content(before)


def test_a_path_in_json_may_begin_with_a_space(folder: Path) -> None:
    (folder / "k" / "a.mp4").rename(folder / "k" / "a.mp4 ")
    (folder / "k").rename(folder / " k")
    source = manifest(folder, [(" k/a.mp4 ", ["sit"], {}), (" k/b.mp4", ["run"], {})])
    for to in ("manifest", "label-studio", "createml"):
        assert content(open_dataset(export(source, to))) == content(open_dataset(source)), to


def test_classes_without_names_keep_their_numbers(folder: Path) -> None:
    rows = [("k/a.mp4", 0), ("k/b.mp4", 2), ("l/a.mp4", 4)]
    source = layouts.table(folder / "list.csv", [("path", "label"), *rows])
    for to in WRITERS:
        out = export(source, to)
        labels = sorted(sample.labels for sample in open_dataset(out).samples)
        classes = open_dataset(out).classes["action"]
        found = [classes[index] if classes else str(index) for (index,) in labels]
        assert found == ["0", "2", "4"], to
        out.rename(folder / f"done-{to}")
