"""UCF101 and HMDB51, each with three official train/test splits.

UCF101: classInd.txt numbers the classes from 1; trainlistNN.txt has `class/video number`,
testlistNN.txt `class/video`. HMDB51: one file per class and split, {class}_test_splitN.txt, with
`video 1` (train), `2` (test) or `0` (unused).
"""

from __future__ import annotations

import re
from pathlib import Path

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    indexed_names,
    read_lines,
    sibling,
)
from vtcli.errors import DataError
from vtcli.video.extensions import has_video_suffix

UCF_NAME = re.compile(r"(train|test)list0*([0-9]+)\.txt")
HMDB_NAME = re.compile(r"(.+)_test_split([0-9]+)\.txt")
HMDB_USES = ("0", "1", "2")


def read_ucf101(path: Path) -> Annotation:
    """One row per video, labeled by its folder; a class number after the path must agree with it.

    Raises `DataError` if classInd.txt is missing, and naming a line whose folder is not a class or
    not the class of its number.
    """
    source = sibling(path, "classInd.txt")
    if source is None:
        raise DataError(f"{path} needs the class list classInd.txt next to it; copy it there")
    names = _class_index(source)
    by_case = {name.casefold(): index for index, name in enumerate(names)}
    named = UCF_NAME.fullmatch(path.name)
    split = f"{'train' if named[1] == 'train' else ''}{named[2]}" if named else ""
    rows = []
    for line, text in read_lines(path):
        video, number = _video_and_number(text)
        folder, _, file = video.rpartition("/")
        index = by_case.get(folder.rpartition("/")[2].casefold())
        if index is None:
            text = f"'{folder}' is not a class of classInd.txt; write class/video"
            raise annotation_error(path, line, text)
        if number is not None and number != index + 1:
            text = f"has class {number}, but {names[index]} is {index + 1} in classInd.txt"
            raise annotation_error(path, line, text + "; fix one of them")
        paths = (video, f"{names[index]}/{file}")
        rows.append(AnnotationRow(paths, (index + 1,), line, split=split))
    return Annotation(path, "UCF101 list", rows, ("action",), {"action": names}, 1, True)


def _class_index(path: Path) -> tuple[str, ...]:
    """The class names of classInd.txt in index order."""
    pairs = []
    for line, text in read_lines(path):
        number, _, name = text.strip().partition(" ")
        pairs.append((line, number, name))
    return indexed_names(path, pairs, 1)


def _video_and_number(text: str) -> tuple[str, int | None]:
    video, _, number = text.rpartition(" ")
    if has_video_suffix(text) or not number.isdecimal():
        return text, None
    return video.rstrip(), int(number)


def read_hmdb51(path: Path) -> Annotation:
    """The files of all classes for one split, whichever of them is given: one row per video that
    the split uses, in the order of the class names.

    Raises `DataError` naming a line whose use is not 0, 1 or 2.
    """
    named = HMDB_NAME.fullmatch(path.name)
    if named is None:
        raise DataError(
            f"{path} is not named CLASS_test_split1.txt, as HMDB51's files are; rename it"
        )
    number = named[2]
    files = sorted(path.parent.glob(f"*_test_split{number}.txt"), key=lambda p: p.name)
    rows = [row for file in files for row in _hmdb_rows(file, number)]
    if not rows:
        raise DataError(f"{path.parent} lists no videos for split {number}; copy it again")
    names = tuple(sorted({str(row.labels[0]) for row in rows}))
    description = f"HMDB51, {len(files)} files *_test_split{number}.txt"
    return Annotation(path, description, rows, classes={"action": names}, unique_filenames=True)


def _hmdb_rows(path: Path, number: str) -> list[AnnotationRow]:
    named = HMDB_NAME.fullmatch(path.name)
    label = named[1] if named else ""
    rows = []
    for line, text in read_lines(path):
        video, _, use = text.rpartition(" ")
        if not video or use not in HMDB_USES:
            text = "is not 'video 0', 'video 1' or 'video 2'; fix the line"
            raise annotation_error(path, line, text)
        split = {"1": f"train{number}", "2": number}.get(use)
        if split:
            rows.append(AnnotationRow((f"{label}/{video.strip()}",), (label,), split=split))
    return rows
