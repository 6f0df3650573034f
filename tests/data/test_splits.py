"""Training and validation splits share their classes and no video, and are the same every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data import layouts
from tests.evaluation.harness import class_folders
from vtcli.data.check import open_splits
from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset, Sample
from vtcli.data.splits import _hold_out, split_train_val
from vtcli.errors import DataError


def test_videos_are_held_out_of_every_class_and_always_the_same(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", 5, ["a", "b", "c"])
    first, again = split_train_val(root), split_train_val(root)
    assert first == again
    kept, held = first.train.samples, first.validation.samples
    assert len(kept) == 12
    assert [sum(s.labels == (c,) for s in held) for c in range(3)] == [1, 1, 1]
    assert not {s.path for s in kept} & {s.path for s in held}


def test_no_class_loses_its_only_video(tmp_path: Path) -> None:
    # Class b occurs in one video only, which also has a segment of class a.
    rows = ["path,label,start,end", *(f"{n}.mp4,a,0,1" for n in range(5)), "0.mp4,b,1,2"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    # Two nouns occur in one video only.
    heads = {"verb": ("a", "b"), "noun": ("x", "y", "z")}
    samples = [Sample(str(n), tmp_path / f"{n}.mp4", (n % 2, max(n - 6, 0))) for n in range(9)]
    dataset = Dataset("made", tuple(samples), heads, "", tmp_path)
    for seed in range(20):
        for split in (
            split_train_val(tmp_path / "list.csv", seed=seed),
            _hold_out(dataset, 0.2, seed),
        ):
            kept, held = (
                {s.path for s in part.samples} for part in (split.train, split.validation)
            )
            assert held
            assert not kept & held


def test_named_splits_are_used_and_class_indices_follow_the_training_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", 2, ["a", "b", "c"])
    class_folders(tmp_path / "data" / "val", 1, ["b", "c"])
    split = split_train_val(tmp_path / "data")
    assert split.train.classes == {"action": ("a", "b", "c")}
    assert [s.labels for s in split.validation.samples] == [(1,), (2,)]


@pytest.mark.parametrize(
    ("names", "flip_sensitive"),
    [
        (["left", "right"], True),
        (["Pushing_something_from_left_to_right", "b"], True),
        (["clockwise", "counter-clockwise"], True),
        (["leftovers", "bright"], False),
    ],
)
def test_class_names_with_a_direction_are_recognized(
    tmp_path: Path, names: list[str], flip_sensitive: bool
) -> None:
    split = split_train_val(class_folders(tmp_path / "data", 2, names))
    assert split.flip_sensitive is flip_sensitive


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"only one class \(a\)"):
        split_train_val(class_folders(tmp_path / "data", 3, ["a"]))


def test_a_class_folder_without_videos_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", 3, ["a", "b"])
    (root / "c").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/c holds no videos"):
        split_train_val(root)


def test_an_empty_class_folder_of_the_training_split_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", 2, ["a", "b"])
    class_folders(tmp_path / "data" / "val", 1, ["a", "b"])
    (tmp_path / "data" / "val" / "c").mkdir()
    split = split_train_val(tmp_path / "data")
    assert "1 folder without videos skipped ('val/c')" in split.validation.summary
    assert "skipped" not in split.train.summary
    (tmp_path / "data" / "train" / "c" / "d").mkdir(parents=True)
    with pytest.raises(DataError, match=r"class folder .*/train/c holds no videos"):
        split_train_val(tmp_path / "data")


def test_a_manifest_of_some_of_the_class_folders_trains_on_those(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(8)]
    for name in names:
        for number in range(8):
            layouts.video(tmp_path / "data" / name / f"{number}.mp4")
    (tmp_path / "data" / "empty").mkdir()
    rows = [(f"data/{name}/{n}.mp4", name) for name in names[:2] for n in range(8)]
    manifest = layouts.table(tmp_path / "two.csv", [("path", "label"), *rows])
    split = split_train_val(manifest)
    assert split.train.classes == {"action": ("class 0", "class 1")}
    assert len(split.train.samples) + len(split.validation.samples) == 16
    assert not any("skipped" in sentence for sentence in split.summary)


@pytest.mark.parametrize("below", ["", "train"])
def test_a_stray_folder_next_to_class_folders_is_skipped_and_named(
    tmp_path: Path, below: str
) -> None:
    root = class_folders(tmp_path / "data" / below, 3, ["a", "b"])
    layouts.text(root / "annotations" / "old" / "list.txt", "a/0.mp4 0")
    layouts.text(root / "thumbs" / "readme.md", "made by hand")
    split = split_train_val(tmp_path / "data")
    assert split.train.classes == {"action": ("a", "b")}
    prefix = f"{below}/" if below else ""
    words = f"2 folders without videos skipped ('{prefix}annotations', '{prefix}thumbs')"
    assert split.train.summary.endswith(words)
    assert open_dataset(tmp_path / "data").summary.endswith(words)


def test_classes_without_training_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nx.mp4,0\ny.mp4,2\n")
    with pytest.raises(DataError, match=r"1 of the 3 classes .* no training videos \('class 1'"):
        split_train_val(tmp_path / "list.csv", val_fraction=0.5)


def test_a_validation_class_without_training_videos_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", 2, ["a", "b"])
    class_folders(tmp_path / "data" / "val", 1, ["b", "d"])
    with pytest.raises(DataError, match=r"no training videos \('d'\)"):
        split_train_val(tmp_path / "data")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("path,label\nx.mp4,a\ny.mp4,b\n")
    (lists / "val.csv").write_text("path,label\nz.mp4,b\nw.mp4,d\n")
    with pytest.raises(DataError, match="labeled 'd', but no training video is"):
        split_train_val(lists)


def test_single_videos_leave_nothing_to_validate_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class of data has a second video"):
        split_train_val(class_folders(tmp_path / "data", 1, ["a", "b"]))


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened or read, by name."""
    counts: Counter[str] = Counter()
    opened = Path.open

    def counting_open(path: Path, *args: object, **options: object) -> object:
        counts[path.name] += 1
        return opened(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting_open)
    return counts


def manifest(path: Path) -> Path:
    rows = [(f"{n}.mp4", "ab"[n % 2], ("train", "val")[n // 4 % 2]) for n in range(16)]
    return layouts.table(path, [("path", "label", "split"), *rows])


def test_a_manifest_is_read_once_for_both_splits(tmp_path: Path, reads: Counter[str]) -> None:
    path = manifest(tmp_path / "all.csv")
    reads.clear()
    split = split_train_val(path)
    assert (len(split.train.samples), len(split.validation.samples)) == (8, 8)
    assert reads == {"all.csv": 1}


def test_a_manifest_is_read_once_for_all_its_splits(tmp_path: Path, reads: Counter[str]) -> None:
    path = manifest(tmp_path / "manifest.csv")
    reads.clear()
    assert [dataset.split for dataset in open_splits(tmp_path)] == ["train", "validation"]
    assert reads == {"manifest.csv": 1}
    reads.clear()
    open_dataset(path)
    assert reads == {"manifest.csv": 1}


def test_every_list_of_a_folder_is_read_once(tmp_path: Path, reads: Counter[str]) -> None:
    for name in ("train", "val"):
        layouts.text(tmp_path / f"{name}.csv", *(f"{name}/{n}.mp4,{n % 2}" for n in range(8)))
    reads.clear()
    split_train_val(tmp_path)
    assert reads == {"train.csv": 1, "val.csv": 1}


def test_an_official_file_is_read_once_for_all_its_splits(
    tmp_path: Path, reads: Counter[str]
) -> None:
    root = layouts.activitynet(tmp_path / "activitynet")
    reads.clear()
    assert len(open_splits(root)) == 3
    assert reads["activity_net.v1-3.min.json"] == 1


@pytest.mark.parametrize(
    "names", ["{split}/{label}", "{label}/{split}", "{split}_set/{label}", "{label}/{split}_set"]
)
def test_folders_of_splits_are_above_or_below_the_class_folders(tmp_path: Path, names: str) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / names.format(split=split, label=label)
            class_folders(folder.parent, 1, [folder.name])
    assert [s.labels for s in split_train_val(tmp_path).validation.samples] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a.mp4,x,tr", "b.mp4,y,te"], "splits tr, te, and none is 'train'.*--split tr"),
        (["a.mp4,x,0", "b.mp4,y,1"], "splits 0, 1, and none is 'train'"),
    ],
)
def test_a_training_split_is_asked_for_where_none_is_called_so(
    tmp_path: Path, rows: list[str], says: str
) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match=says):
        split_train_val(tmp_path / "m.csv")


def test_folders_of_splits_without_classes_and_videos_in_no_split_are_refused(
    tmp_path: Path,
) -> None:
    class_folders(tmp_path / "flat", 2, ["train", "val"])
    with pytest.raises(DataError, match="without class folders"):
        open_dataset(tmp_path / "flat")
    for name in ("a", "b"):
        class_folders(tmp_path / "inner" / name, 1, ["train", "val"])
    (tmp_path / "inner" / "a" / "loose.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"loose\.mp4 is in no split.*move it"):
        open_dataset(tmp_path / "inner")


def test_what_a_given_split_shares_or_leaves_out_is_said(tmp_path: Path) -> None:
    for part in ("train", "val"):
        class_folders(tmp_path / "data" / part, 2, ["a", "b"])
    copied = tmp_path / "data" / "train" / "a"
    content = max(copied.iterdir()).read_bytes() + b"copy"
    (copied / "one.mp4").write_bytes(content)
    (tmp_path / "data" / "val" / "a" / "two.mp4").write_bytes(content)
    assert any(
        "the content of training videos" in n for n in split_train_val(tmp_path / "data").summary
    )
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "extra")
    assert any("--val-split extra" in note for note in split_train_val(tmp_path / "data").summary)


def test_numbers_are_not_taken_for_names_of_another_list(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    (tmp_path / "val.csv").write_text("path,label\nc.mp4,0\nd.mp4,1\n")
    with pytest.raises(DataError, match="write class names in both"):
        split_train_val(tmp_path)
