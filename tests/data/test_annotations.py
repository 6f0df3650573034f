"""Every annotation format is read as it is found in practice, and errors name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data import layouts
from vtcli.data.annotations.detect import detect_file_format
from vtcli.data.open import list_splits, open_dataset
from vtcli.data.splits import split_train_val
from vtcli.errors import DataError

UNUSUAL_NAMES = (
    "with spaces/two  of them.mp4",
    "hash#1&2!(x).avi",
    "größe/日本語.mp4",
    'it\'s "quoted".mp4',
    "comma, semicolon; and 7.webm",
    "100%/file.mp4.mkv",
)


KINETICS = "label,youtube_id,time_start,time_end"
EPIC_ROW = "P01_1,P01,P01_1,,soon,00:00:01.0,1,2,x,v,0,n,0,[],[]"
COCO = json.dumps(
    {
        "videos": [{"id": 1, "file_name": "a.mp4"}, {"id": 2, "file_name": "b.mp4"}],
        "annotations": [{"video_id": 1, "category_id": 7}, {"video_id": 2, "category_id": 9}],
        "categories": [{"id": 7, "name": "x"}, {"id": 9, "name": "y"}],
    }
)
SSV2 = '[{"id": "1", "template": "A [b]"}, {"id": "2"}]'


def lines(path: Path, *content: str) -> Path:
    return layouts.text(path, *content)


def read(path: Path, **options) -> list[tuple[str, tuple[int, ...]]]:
    return [(s.id, s.labels) for s in open_dataset(path, **options).samples]


# --- lists of paths and numbers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "format", "labels"),
    [
        ("l.txt", ["a.mp4 0", "b/c.mp4 3"], "mmaction2", [(0,), (3,)]),
        ("l.txt", ["a.mp4 1 3 5", "b/c.mp4 0"], "mmaction2", [(1, 3, 5), (0,)]),
        ("l.txt", ["some/a 163 1", "b 158 0"], "mmaction2-frames", [(1,), (0,)]),
        ("l.txt", ["some/a 163 0 3 5", "b 158 1 2"], "mmaction2-frames", [(0, 3, 5), (1, 2)]),
        ("l.csv", ["a.mp4 0", "b/c.mp4 3"], "pyslowfast", [(0,), (3,)]),
        ("l.csv", ["a.mp4  0", "b/c.mp4  3"], "pyslowfast", [(0,), (3,)]),
        ("l.csv", ["a.mp4,0", "b/c.mp4,3"], "pyslowfast", [(0,), (3,)]),
        ("l.txt", ["a.mp4;0", "b/c.mp4;3"], "pyslowfast", [(0,), (3,)]),
        ("l.txt", ["a.mp4\t0", "b/c.mp4\t3"], "pyslowfast", [(0,), (3,)]),
        ("l.csv", ["a.mp4 300 0", "b/c.mp4 20 3"], "pyslowfast", [(0,), (3,)]),
        ("l.csv", ["a.mp4,300,0", "b/c.mp4,20,3"], "pyslowfast", [(0,), (3,)]),
        ("l.csv", ["74225 156 140", "116154 40 0"], "pyslowfast", [(140,), (0,)]),
        ("l.csv", ["a.mp4", "b/c.mp4"], "pyslowfast", [(), ()]),
        ("val_videofolder.txt", ["74225 156 140", "1 40 0"], "xvit", [(140,), (0,)]),
        ("l.txt", ["a.mp4 82.7 6.2 77.1 0", "b 9 0 9 3"], "uniformerv2-segments", [(0,), (3,)]),
    ],
)  # fmt: skip
def test_a_list_is_recognized_and_read(tmp_path: Path, name, content, format, labels) -> None:
    path = lines(tmp_path / name, *content)
    assert detect_file_format(path) == format
    assert [found for _, found in read(path)] == labels
    assert [found for _, found in read(path, format=format)] == labels


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_unusual_file_names_survive_a_list(tmp_path: Path, separator, ends, mark) -> None:
    path = tmp_path / "list.csv"
    text = mark + ends.join(f"{name}{separator}{n}" for n, name in enumerate(UNUSUAL_NAMES)) + ends
    path.write_bytes(text.encode())
    for name in UNUSUAL_NAMES:
        layouts.video(tmp_path / name)
    dataset = open_dataset(path)
    assert [s.path for s in dataset.samples] == [tmp_path / name for name in UNUSUAL_NAMES]
    assert [s.labels for s in dataset.samples] == [(n,) for n in range(len(UNUSUAL_NAMES))]


def test_unusual_file_names_survive_quoted_csv_and_folders(tmp_path: Path) -> None:
    rows = [(name, n) for n, name in enumerate(UNUSUAL_NAMES)]
    path = layouts.table(tmp_path / "list.csv", rows)
    assert [id_ for id_, _ in read(path)] == list(UNUSUAL_NAMES)
    for number, name in enumerate(UNUSUAL_NAMES):
        layouts.video(tmp_path / "classes" / f"ü #{number}" / name)
    assert {s.id.split("/", 1)[1] for s in open_dataset(tmp_path / "classes").samples} == set(
        UNUSUAL_NAMES
    )


def test_a_path_without_an_extension_may_contain_spaces_and_end_in_a_number(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.txt", "my clip 12 0", "other one 1")
    assert read(path) == [("my clip 12", (0,)), ("other one", (1,))]


def test_a_list_that_fits_two_formats_is_refused_with_both_names(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.txt", "a.mp4 12 0", "b.mp4 3 1")
    with pytest.raises(DataError, match="mmaction2 and pyslowfast"):
        open_dataset(path)
    assert read(path, format="mmaction2") == [("a.mp4", (12, 0)), ("b.mp4", (3, 1))]
    assert read(path, format="pyslowfast") == [("a.mp4", (0,)), ("b.mp4", (1,))]
    path = lines(tmp_path / "four.txt", "a 163 1 3 5", "b 90 0 7 2")
    with pytest.raises(DataError, match="uniformerv2-segments and mmaction2-frames"):
        open_dataset(path)


def test_segments_of_a_uniformerv2_list_are_merged_into_whole_videos(tmp_path: Path) -> None:
    content = ("v.mp4,90.5,0.0,9.5,3", "v.mp4,90.5,20.0,29.5,3", "w.mp4,50.0,0.0,1.0,0")
    path = lines(tmp_path / "list.csv", *content)
    dataset = open_dataset(path)
    assert [(s.id, s.labels, s.start) for s in dataset.samples] == [
        ("v.mp4", (3,), None),
        ("w.mp4", (0,), None),
    ]
    assert "3 segments taken as whole videos" in dataset.summary


def test_a_frame_list_gives_one_folder_per_video(tmp_path: Path) -> None:
    header = "original_vido_id video_id frame_id path labels"
    path = lines(
        tmp_path / "val.csv",
        header,
        '1 0 0 frames/1/000001.jpg "3"',
        '1 0 1 frames/1/000002.jpg "3,0"',
        '46GP8 1 0 46 GP8/46GP8-000001.jpg ""',
    )
    dataset = open_dataset(path)
    assert [(s.id, s.path, s.labels) for s in dataset.samples] == [
        ("1", tmp_path / "frames" / "1", (3, 0)),
        ("46GP8", tmp_path / "46 GP8", ()),
    ]
    lines(path, header, '1 0 0 a/1.jpg "3"', '1 0 1 b/2.jpg "3"')
    with pytest.raises(DataError, match=r"line 3.*video 1.*one folder per video"):
        open_dataset(path)


def test_absolute_paths_give_ids_that_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    inside = layouts.video(tmp_path / "videos" / "a.mp4")
    path = lines(tmp_path / "list.txt", f"{inside} 0", "/elsewhere/b.mp4 1")
    assert [s.path for s in open_dataset(path).samples] == [inside, Path("/elsewhere/b.mp4")]
    lines(path, f"{inside} 0", f"{tmp_path}/videos/c.mp4 1")
    assert [id_ for id_, _ in read(path)] == ["videos/a.mp4", "videos/c.mp4"]
    lines(path, "/elsewhere/k/a.mp4 0", "/elsewhere/l/b.mp4 1")
    assert [id_ for id_, _ in read(path)] == ["k/a.mp4", "l/b.mp4"]


# --- manifests ----------------------------------------------------------------------------------


def test_a_manifest_has_names_segments_splits_and_ids(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "mine.csv",
        "path,label,start,end,split,id",
        'a b.mp4,"jump, high",,,train,',
        "c.mp4,run,1.5,3,val,first",
        "c.mp4,run,4,,val,",
        "c.mp4,walk,9.25,10,val,",
    )
    assert list_splits(path) == ("train", "validation")
    dataset = open_dataset(path)
    assert dataset.classes == {"action": ("jump, high", "run", "walk")}
    assert [(s.id, s.labels, s.start, s.end) for s in dataset.samples] == [
        ("first", (1,), 1.5, 3.0),
        ("c.mp4:4.000-", (1,), 4.0, None),
        ("c.mp4:9.250-10.000", (2,), 9.25, 10.0),
    ]
    assert read(path, split="train") == [("a b.mp4", (0,))]
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        open_dataset(path, split="test")


def test_a_manifest_may_number_its_classes_and_be_json_lines(tmp_path: Path) -> None:
    records = [{"path": "a.mp4", "label": 0}, {"path": "b.mp4", "label": 2, "start": 0.5}]
    path = lines(tmp_path / "mine.jsonl", *(json.dumps(r) for r in records))
    dataset = open_dataset(path)
    assert dataset.classes == {"action": ()}
    assert [s.labels for s in dataset.samples] == [(0,), (2,)]
    assert "2 unnamed classes" in dataset.summary


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_manifest_may_use_another_separator(tmp_path: Path, separator: str) -> None:
    rows = (("path", "label"), ("a, b.mp4", "run"), ("c.mp4", "walk"))
    path = lines(tmp_path / "mine.csv", *(separator.join(row) for row in rows))
    assert read(path) == [("a, b.mp4", (0,)), ("c.mp4", (1,))]


def test_one_of_several_unusual_splits_must_be_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.csv", "path,label,split", "a.mp4,x,day", "b.mp4,y,night")
    with pytest.raises(DataError, match="has the splits day, night; name one"):
        open_dataset(path)
    assert read(path, split="night") == [("b.mp4", (1,))]


def test_a_hugging_face_metadata_file_is_read_by_itself(tmp_path: Path) -> None:
    path = lines(tmp_path / "meta.jsonl", '{"file_name": "a.mp4", "label": "dog", "fps": 3}')
    assert read(path) == [("a.mp4", (0,))]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.txt", ["a.mp4 0", "b.mp4", "c.mp4 1"], "line 2: has 0 numbers"),
        ("l.csv", ["a.mp4,5,0", "b.mp4,1", "c.mp4,7,1"], "line 2: has 1 numbers"),
        ("l.txt", ["a 5 0", "b 1", "c 7 1"], "line 2: has 1 numbers"),
        ("l.txt", ["a.mp4 0", "b.mp4 -1"], "line 2: label -1 is outside"),
        ("l.txt", ["a.mp4 0", "b.mp4 1.5"], "line 2: '1.5' is not a class number"),
        ("l.txt", ["a.mp4 0", "b.mp4 1", "a.mp4 1"], "line 3: 'a.mp4' is listed twice, .*line 1"),
        ("l.txt", ["a.mp4 1", "b.mp4 2"], "labels run from 1 to 2.*count from 1"),
        ("l.txt", [], "is empty"),
        ("l.txt", ["a.mp4 jumping"], "line 1: 'a.mp4 jumping' is not in a known format"),
        ("l.txt", ["\0\0"], "null bytes"),
        ("l.csv", ["path label", "a.mp4 0", "b.mp4 1"], "line 1: has 0 numbers"),
        ("l.csv", ["video,name", "a.mp4,x", "b.mp4,y"], "line 1: is not 'video,class name'"),
        ("m.csv", ["path,label"], "is empty"),
        ("m.csv", ["path,label", "a.mp4,x", "b.mp4"], "line 3: has 1 fields, but .* has 2"),
        ("m.csv", ["path,label", "a.mp4,x", "b.mp4,"], "line 3: has no label"),
        ("m.csv", ["path,label", ",x"], "line 2: has no 'path'"),
        ("m.csv", ["path,label,start", "a.mp4,x,soon"], "line 2: 'soon' is not a time"),
        ("m.csv", ["path,label,start,end", "a.mp4,x,5,4"], "line 2: ends before it begins"),
        ("m.csv", ["path,label,split", "a.mp4,x,val", "b.mp4,y,"], "line 3: names no split"),
        ("m.csv", ["path,label,id", "a.mp4,x,1", "b.mp4,x,1"], "line 3: '1' is listed twice"),
        ("m.jsonl", ['{"path": "a.mp4", "label": "x"}', "{"], "line 2: is not valid JSON"),
        ("m.jsonl", ['{"path": "a.mp4", "label": [1]}'], r"line 1: \[1\] is not a label"),
        ("k.csv", [KINETICS, "x,id,a,b"], "line 2: has a time that is not a number"),
        ("k.csv", [KINETICS, "x,i,1,2", ",j,1,2"], "line 3: has no label"),
        ("j.csv", ["1;Swiping", "2;"], "line 2: is not 'id;class name'"),
        ("e.csv", [layouts.EPIC_HEADER, EPIC_ROW], "line 2: 'soon' is not a time"),
        ("a.json", ['{"database": {}}'], "no 'database'"),
        ("a.json", ['{"database": {"x": {"duration": 3}}}'], "record 1: video x has no"),
        ("a.json", ["[", "{"], "line 3: is not valid JSON"),
        ("s.json", [SSV2], "record 2: video 2 has no template"),
        ("d.json", ['[{"vid_name": "x", "label": "y"}]'], "record 1: 'y' is not a class number"),
        ("c.json", ['{"Holding something": "0"}'], "lists only the class names"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_line(tmp_path: Path, name, content, says) -> None:
    path = lines(tmp_path / name, *content)
    with pytest.raises(DataError, match=says) as caught:
        open_dataset(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_in_another_encoding_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.mp4 0\n" + "größe.mp4 1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"list.txt, line 2: is not UTF-8 text"):
        open_dataset(path)


def test_an_unknown_class_is_refused_with_a_similar_one(tmp_path: Path) -> None:
    root = layouts.kinetics(tmp_path)
    listed = root / "annotations" / "val.csv"
    listed.write_text(listed.read_text().replace("testifying", "testifyin"))
    with pytest.raises(DataError, match=r"val.csv, line 4: 'testifyin'.*did you mean 'testifying'"):
        open_dataset("k400", root)


def test_a_number_that_contradicts_its_folder_is_refused(tmp_path: Path) -> None:
    lists = layouts.ucf101(tmp_path) / "ucfTrainTestlist"
    lines(lists / "trainlist01.txt", "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 1")
    with pytest.raises(DataError, match="line 1: has class 1, but ApplyLipstick is 2"):
        open_dataset("ucf101", tmp_path, "train1")
    (lists / "classInd.txt").unlink()
    with pytest.raises(DataError, match=r"needs the class list classInd.txt"):
        open_dataset("ucf101", tmp_path, "train1", format="ucf101")


def test_class_lists_with_gaps_or_duplicates_are_refused(tmp_path: Path) -> None:
    lists = layouts.ucf101(tmp_path) / "ucfTrainTestlist"
    for content, says in (
        (("1 ApplyEyeMakeup", "3 Archery"), "does not list class 2"),
        (("1 ApplyEyeMakeup", "1 Archery"), "line 2: class number 1 is used twice"),
        (("1 ApplyEyeMakeup", "Archery 2"), "line 2: 'Archery' is not a class number"),
    ):
        lines(lists / "classInd.txt", *content)
        with pytest.raises(DataError, match=says):
            open_dataset("ucf101", tmp_path)


def test_a_label_outside_the_class_files_of_epic_is_refused(tmp_path: Path) -> None:
    root = layouts.epic100(tmp_path)
    listed = root / "epic-kitchens-100-annotations" / "EPIC_100_validation.csv"
    listed.write_text(listed.read_text().replace("plate,2,", "plate,300,"))
    with pytest.raises(DataError, match=r"line 2: label 300 is outside the classes.* 0 to 299"):
        open_dataset("epic100", root)


def test_a_folder_format_does_not_read_a_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.txt", "a.mp4 0")
    with pytest.raises(DataError, match="is a file, but format 'class-folders' reads a folder"):
        open_dataset(path, format="class-folders")


def test_names_that_differ_only_in_case_are_said(tmp_path: Path) -> None:
    labels = ("Left", "left", "up", "-1", "1")
    rows = "".join(f"{n}.mp4,{label}\n" for n, label in enumerate(labels))
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    summary = open_dataset(tmp_path / "list.csv").summary
    assert "(warning: 'Left' and 'left' may be one class; write its name in one way)" in summary
    assert "more" not in summary


def test_the_header_of_a_list_without_labels_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n0.mp4\n1.mp4\n")
    with pytest.raises(DataError, match="has no column 'label'; the header must name path,label"):
        open_dataset(tmp_path / "list.csv")
    (tmp_path / "list.txt").write_text("0.mp4\n1.mp4\n")
    with pytest.raises(DataError, match="of list have no label; add a column 'label'"):
        split_train_val(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("m.csv", ["path|label", "a.mp4|x", "b.mp4|y"], ["x", "y"]),
        ("m.csv", ["path,fall", "a.mp4,yes", "b.mp4,no"], ["yes", "no"]),
        ("m.csv", ["path,labels", "a.mp4,\"['x', 'y']\"", "b.mp4,['y']"], ["x+y", "y"]),
        ("m.json", ['{"a.mp4": "x", "b.mp4": "y"}'], ["x", "y"]),
        ("m.json", ['{"x": ["a.mp4"], "y": ["b.mp4"]}'], ["x", "y"]),
        ("m.json", ['{"path": {"0": "a.mp4"}, "label": {"0": "x"}}'], ["x"]),
        ("m.json", ['{"path": ["a.mp4"], "label": ["x"]}'], ["x"]),
        ("m.json", ['{"clips": [{"path": "a.mp4", "label": "x"}]}'], ["x"]),
        ("m.json", ['{"path": "a", "label": "x"}', '{"path": "b", "label": "y"}'], ["x", "y"]),
        ("m.ndjson", ['{"path": "a.mp4", "label": "x"}'], ["x"]),
        ("m.csv", ["path,label", "a.mp4,e\u0301", "b.mp4,\u00e9"], ["\u00e9", "\u00e9"]),
        ("m.csv", ["path,go,stop", "a.mp4,1,0", "b.mp4,0,1"], ["go", "stop"]),
        ("m.json", [COCO], ["x", "y"]),
        ("m.csv", ["x,a.mp4", '"y, z","b, c.mp4"'], ["x", "y, z"]),
        ("m.csv", ["x;a.mp4", "y;b.mp4"], ["x", "y"]),
        ("m.csv", ["a.mp4;x", "b.mp4;y"], ["x", "y"]),
        ("m.tsv", ["x\ta.mp4", "y\tb c.mp4"], ["x", "y"]),
        ("m.tsv", ["a.mp4\tx", "b c.mp4\ty z"], ["x", "y z"]),
        ("m.txt", ["a.mp4|x", "b.mp4|y"], ["x", "y"]),
    ],
)  # fmt: skip
def test_forms_of_lists_give_the_labels_of_each_video(
    tmp_path: Path, name, content, labels
) -> None:
    dataset = open_dataset(lines(tmp_path / name, *content))
    names = dataset.classes["action"]
    assert ["+".join(names[i] for i in s.labels) for s in dataset.samples] == labels


@pytest.mark.parametrize(
    "content",
    [
        {"train": [{"video": "a.mp4", "label": "x"}], "val": [{"video": "b.mp4", "label": "y"}]},
        {"training": {"a.mp4": "x"}, "validation": {"b.mp4": "y"}, "version": "1.0"},
        {"train": {"x": ["a.mp4"]}, "val": {"y": ["b.mp4"]}},
    ],
)
def test_json_may_have_a_list_per_split(tmp_path: Path, content: dict[str, Any]) -> None:
    path = lines(tmp_path / "m.json", json.dumps(content))
    assert [s.id for s in open_dataset(path, split="train").samples] == ["a.mp4"]
    assert [s.id for s in open_dataset(path, split="validation").samples] == ["b.mp4"]


def test_segments_of_a_coco_table_keep_their_times(tmp_path: Path) -> None:
    table = json.loads(COCO)
    table["annotations"] = [
        {"video_id": 1, "category_id": 7, "start": 0, "end": 1.5},
        {"video_id": 1, "category_id": 9, "start": 2, "end": 3},
    ]
    dataset = open_dataset(lines(tmp_path / "m.json", json.dumps(table)))
    assert [(s.start, s.end, s.labels) for s in dataset.samples] == [
        (0.0, 1.5, (0,)),
        (2.0, 3.0, (1,)),
    ]


def test_the_official_json_of_kinetics_is_read_as_its_csv(tmp_path: Path) -> None:
    about = {"duration": 10.0, "subset": "train", "url": "https://host/v"}
    table = {
        "--3ouPhoy2A": {"annotations": {"label": "eating", "segment": [20.0, 30.0]}, **about},
        "-0F1": {"annotations": {"label": "zumba", "segment": [4, 14]}, **about},
    }
    path = lines(tmp_path / "train.json", json.dumps(table))
    csv = lines(
        tmp_path / "train.csv",
        f"{KINETICS},split",
        "eating,--3ouPhoy2A,20,30,train",
        "zumba,-0F1,4,14,train",
    )
    assert detect_file_format(path) == "kinetics"
    found = [("--3ouPhoy2A_000020_000030", (0,)), ("-0F1_000004_000014", (1,))]
    assert read(path) == read(csv) == found
    table["-0F1"]["annotations"] = {"label": "zumba", "segment": [4]}
    with pytest.raises(DataError, match="record 2: video -0F1 has no usable label and segment"):
        open_dataset(lines(tmp_path / "bad.json", json.dumps(table)))


def test_urls_of_files_and_paths_of_the_user_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = [layouts.video(tmp_path / "a b.mp4"), layouts.video(tmp_path / "home" / "c.mp4")]
    path = lines(tmp_path / "m.csv", "path,label", f"{found[0].as_uri()},x", "~/c.mp4,y")
    assert [sample.path for sample in open_dataset(path).samples] == found


def test_a_class_number_may_come_first(tmp_path: Path) -> None:
    assert read(lines(tmp_path / "a.csv", "3,a.mp4", "0,b.mp4")) == [
        ("a.mp4", (3,)),
        ("b.mp4", (0,)),
    ]
    path = lines(tmp_path / "b.txt", "3 a.mp4", "0 b.mp4")
    assert read(path) == [("3 a.mp4", ()), ("0 b.mp4", ())]
    (tmp_path / "a.mp4").touch()
    assert read(path) == [("a.mp4", (3,)), ("b.mp4", (0,))]
    (tmp_path / "3 a.mp4").touch()
    assert read(path) == [("3 a.mp4", ()), ("0 b.mp4", ())]


@pytest.mark.parametrize(
    ("header", "row", "segment"),
    [
        ("start,end", "0:01.5,00:01:02", (1.5, 62.0, None, None)),
        ("start_sec,end_sec", "1,2.5", (1.0, 2.5, None, None)),
        ("first_frame,last_frame", "3,9", (None, None, 3, 9)),
    ],
)
def test_parts_of_a_video_are_read_in_each_unit(tmp_path: Path, header, row, segment) -> None:
    path = lines(tmp_path / "m.csv", f"path,label,{header}", f"a.mp4,x,{row}")
    sample = open_dataset(path).samples[0]
    assert (sample.start, sample.end, sample.first_frame, sample.last_frame) == segment


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (["path,label,Label", "a.mp4,x,y"], "two columns 'label'"),
        (["path,label,start_ms,end_ms", "a.mp4,x,0,900"], "'start_ms' and 'end_ms'.*start,end"),
        (["path,label,start,duration", "a.mp4,x,0,9"], "'start' and 'duration'.*add 'end'"),
        (["path,label,first_frame,last_frame", "a.mp4,x,9,3"], "ends before it begins"),
        (["path,label", "a.mp4,x", "b.mp4,nan"], "line 3: has no label"),
        (["path,label", "a.mp4,x", "b.mp4,N/A"], "line 3: has no label"),
        (["a.mp4,x,train", "b.mp4,y,val"], "line 1: has a column 'train' without a name"),
        (["v_1 0.2 1.0", "v_2 0.5 1.0"], "line 1: '0.2' is not a frame count.*path,start,end"),
        (["x,a.mp4", "y,b.mp4", "c.mp4"], "line 3: does not fit the list 'class, video'"),
        (["PK\x03\x04"], "Excel workbook.*save it as csv"),
    ],
)  # fmt: skip
def test_lists_that_leave_something_open_are_refused(tmp_path: Path, content, says) -> None:
    with pytest.raises(DataError, match=says):
        open_dataset(lines(tmp_path / "m.csv", *content))
