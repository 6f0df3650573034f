"""Copies and cuts of one source stay on one side of a held-out split."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.data.grouping import source_name
from vtcli.data.splits import split_train_val
from vtcli.errors import UsageError


def sides(folder: Path, group_by: str | None = None, seed: int = 0) -> tuple[set[str], set[str]]:
    split = split_train_val(folder, val_fraction=0.3, seed=seed, group_by=group_by)
    return {s.id for s in split.train.samples}, {s.id for s in split.validation.samples}


def write(root: Path, names: dict[str, list[str]]) -> Path:
    """Class folders of files whose bytes are their own paths."""
    for label, files in names.items():
        for file in files:
            path = root / label / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path))
    return root


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("v_Archery_g01_c02", "v_archery_g01"),
        ("clip_003_part2", "clip_003"),
        ("Movie-part-10", "movie"),
        ("game7.seg04", "game7"),
        ("-0IErS_cisg_000017_000027", "-0iers_cisg"),
        ("interview_cut3", "interview"),
        *((name, "") for name in ("clip_003", "part2", "IMG_20200101_123456", "a", "apart2", "17")),
        *((name, "") for name in ("haircut3", "left_017", "000123", "screenshot1")),
    ],
)
def test_the_source_of_a_cut_is_in_its_name(stem: str, source: str) -> None:
    assert source_name(stem) == source


@pytest.mark.parametrize("seed", range(5))
def test_cuts_of_one_source_are_on_one_side(tmp_path: Path, seed: int) -> None:
    names = [f"v_x_g{g:02}_c{c:02}.avi" for g in range(1, 7) for c in range(1, 5)]
    root = write(tmp_path, {label: [n.replace("x", label) for n in names] for label in "ab"})
    train, validation = sides(root, seed=seed)
    assert not {id_[:10] for id_ in train} & {id_[:10] for id_ in validation}
    assert len(validation) == 2 * 4  # 30 % of 24 are 7: one group of 4 for each class
    assert len(train) + len(validation) == 48


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_on_one_side_whatever_their_names(tmp_path: Path, seed: int) -> None:
    root = write(tmp_path, {label: [f"{n}.mp4" for n in range(10)] for label in "ab"})
    for label in "ab":
        for n in range(0, 10, 2):
            (root / label / f"{n + 1}.mp4").write_bytes((root / label / f"{n}.mp4").read_bytes())
    train, validation = sides(root, seed=seed)
    contents = [{(root / id_).read_text() for id_ in side} for side in (train, validation)]
    assert validation
    assert not contents[0] & contents[1]
    split = split_train_val(root)
    assert any("20 videos in 10 groups with the same content" in s for s in split.summary)


def test_a_column_or_a_pattern_names_the_groups(tmp_path: Path) -> None:
    names = {label: [f"s{n % 4}-take-{n}.mp4" for n in range(12)] for label in ("walk", "run")}
    root = write(tmp_path / "data", names)
    train, validation = sides(root, group_by=r"s(\d)-")
    subject = {id_.split("/")[1][:2] for id_ in train}
    assert not subject & {id_.split("/")[1][:2] for id_ in validation}
    rows = [(f"data/{label}/{name}", label, name[:2]) for label in names for name in names[label]]
    listed = layouts.table(tmp_path / "list.csv", [("path", "label", "Subject"), *rows])
    split = split_train_val(listed, group_by="subject")
    found = [{s.path.name[:2] for s in part.samples} for part in (split.train, split.validation)]
    assert not found[0] & found[1]
    assert any("24 videos in 4 groups by subject" in s for s in split.summary)
    with pytest.raises(UsageError, match=r"neither a column of list \(.*subject\) nor found"):
        split_train_val(listed, group_by="person")
    with pytest.raises(UsageError, match="neither a column nor a regular expression"):
        split_train_val(listed, group_by="s(")


def test_a_group_that_is_most_of_a_class_is_warned_about(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "a": [f"one_part{n}.mp4" for n in range(5)] + ["x.mp4"],
            "b": [f"{n}.mp4" for n in range(6)],
        },
    )
    summary = split_train_val(root).summary
    assert any("5 of the 6 videos of class 'a' are one group" in s for s in summary)


def test_a_class_whose_files_are_all_named_alike_is_still_divided(tmp_path: Path) -> None:
    root = write(tmp_path, {x: [f"{x}_clip_{n}.mp4" for n in range(10)] for x in ("a", "b")})
    split = split_train_val(root)
    assert len(split.validation.samples) == 4
    assert sum("named like cuts of one source" in s for s in split.summary) == 2
