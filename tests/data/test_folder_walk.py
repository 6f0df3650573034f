"""Class folders as they are on disks: nothing vanishes, and no folder is a class by mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.cli import run
from vtcli.data.open import list_splits, open_dataset
from vtcli.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        for number in range(2):
            layouts.video(tmp_path / "set" / label / f"{number}.mp4")
    return tmp_path / "set"


@pytest.mark.parametrize("extension", ["mpe", "qt", "divx", "xyz", ""])
def test_content_decides_where_an_extension_says_nothing(root: Path, extension: str) -> None:
    (root / "a" / "0.mp4").rename(
        (root / "a" / "0").with_suffix(f".{extension}" if extension else "")
    )
    assert len(open_dataset(root).samples) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda r: layouts.video(r / "x.mp4"),
            "1 video outside the class folders skipped ('x.mp4')",
        ),
        (lambda r: (r / "zzz").mkdir(), "1 folder without videos skipped ('zzz')"),
        (lambda r: (r / "a" / "x.mp4").symlink_to("no.mp4"), "1 dangling link skipped ('a/x.mp4')"),
        (
            lambda r: (r / "a" / "x").symlink_to(".."),
            "1 link to another part of the dataset skipped",
        ),
        (lambda r: (r / "a" / "x").symlink_to("../b"), "1 link to another part of the dataset"),
        (
            lambda r: (r / "x").symlink_to("."),
            "1 link to another part of the dataset skipped ('x')",
        ),
        (lambda r: (r / "a" / "x.bin").write_bytes(b"12"), "1 file that is not a video skipped"),
    ],
)
def test_what_is_passed_over_is_named_and_is_an_issue(root: Path, make, words: str, capsys) -> None:
    make(root)
    dataset = open_dataset(root)
    assert words in dataset.summary
    assert len(dataset.samples) == 4
    assert set(dataset.classes["action"]) == {"a", "b"}
    shutil.rmtree(root / "b")  # the clips of all classes are equal
    (root / "a" / "1.mp4").unlink()
    if "../b" not in words:
        run(["datasets", "check", str(root), "--format", "csv"])
        assert "skipped," in capsys.readouterr().out or "another part" in words


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "$RECYCLE.BIN", "__MACOSX", ".ipynb_checkpoints", ".Trash-1000", "lost+found"],
)
def test_system_folders_are_not_classes(root: Path, name: str) -> None:
    layouts.video(root / name / "x.mp4")
    layouts.video(root / "a" / name / "y.mp4")
    dataset = open_dataset(root)
    assert set(dataset.classes["action"]) == {"a", "b"}
    assert len(dataset.samples) == 4
    assert "2 hidden or system entries skipped" in dataset.summary


@pytest.mark.parametrize(
    ("train", "val"),
    [("training_set", "validation_set"), ("my_train", "my_val"), ("TrainSplit", "TestSplit")],
)
def test_folders_of_equal_class_folders_are_splits(root: Path, train: str, val: str) -> None:
    shutil.copytree(root, root.parent / "top" / train)
    shutil.copytree(root, root.parent / "top" / val)
    top = root.parent / "top"
    assert "train" in list_splits(top)
    assert open_dataset(top, split="train").classes == {"action": ("a", "b")}


def test_folders_inside_classes_stay_part_of_the_class(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for subject in ("s1", "s2"):
            layouts.video(tmp_path / "set" / label / subject / "0.mp4")
    dataset = open_dataset(tmp_path / "set")
    assert dataset.classes == {"action": ("a", "b")}
    assert "'s1', 's2' in each of them are read as one class" in dataset.summary


def test_splits_inside_class_folders_are_splits(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for split in ("train", "val"):
            layouts.video(tmp_path / "set" / label / split / "0.mp4")
    assert list_splits(tmp_path / "set") == ("train", "validation")
    assert len(open_dataset(tmp_path / "set", split="train").samples) == 2


def test_two_folders_of_one_split_are_refused(root: Path) -> None:
    for name in ("train_a", "train_b"):
        shutil.copytree(root, root.parent / "top" / name)
    with pytest.raises(DataError, match="two folders for the split 'train'"):
        open_dataset(root.parent / "top")


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("video_name,class", "a/0.mp4,a", "b/0.mp4,b"),
        ("filename,label,index", "a/0.mp4,a,0", "b/0.mp4,b,1"),
        ("sep=;", "path;label", "a/0.mp4;a", "b/0.mp4;b"),
        ("path,label", "a\\0.mp4,a", "b\\0.mp4,b"),
        ("path,label", "C:\\data\\a\\0.mp4,a", "C:\\data\\b\\0.mp4,b"),
        (",Path,Label", "0,a/0.mp4,a", "1,b/0.mp4,b"),
        ("path,label_id,class_name", "a/0.mp4,5,a", "b/0.mp4,7,b"),
    ],
)
def test_a_list_with_other_columns_is_read(root: Path, lines: tuple[str, ...]) -> None:
    dataset = open_dataset(layouts.text(root / "list.csv", *lines))
    assert [s.path for s in dataset.samples] == [root / "a/0.mp4", root / "b/0.mp4"]
    assert dataset.classes == {"action": ("a", "b")}
    assert [s.labels for s in dataset.samples] == [(0,), (1,)]


def test_class_numbers_as_pandas_writes_them_are_numbers(root: Path) -> None:
    path = layouts.text(root / "list.csv", "path,label", "a/0.mp4,1.0", "b/0.mp4,0.0")
    assert [s.labels for s in open_dataset(path).samples] == [(1,), (0,)]


def test_duplicates_and_blank_labels_are_issues_of_a_check(root: Path, capsys) -> None:
    (root / "b" / "0.mp4").write_bytes((root / "a" / "0.mp4").read_bytes() + b"\0")
    rows = ("path,label", "a/0.mp4,a", "a/0.mp4,b", "b/0.mp4,")
    path = layouts.text(root / "list.csv", *rows)
    assert run(["datasets", "check", str(path), "--format", "csv"]) == 3
    out = capsys.readouterr().out
    assert "listed_twice,,a/0.mp4" in out
    assert "with another label" in out
    assert "unlabeled,,b/0.mp4" in out
