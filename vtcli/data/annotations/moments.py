"""Moments in Time: csv lines `class/video,class name,votes ...` without a header;
moments_categories.txt numbers the classes.
"""

from __future__ import annotations

from pathlib import Path

from vtcli.data.annotations.base import (
    Annotation,
    Row,
    beside,
    csv_fields,
    indexed_names,
    problem,
    read_lines,
)
from vtcli.video.extensions import has_video_suffix


def read_moments(path: Path) -> Annotation:
    """One row per video, labeled by class name.

    Raises `DataError` naming a line without a label.
    """
    rows = []
    for line, text in read_lines(path):
        video, label, *_ = [*csv_fields(text), "", ""]
        if not has_video_suffix(video) or not label:
            raise problem(path, line, "is not 'video,class name'; mend the line")
        rows.append(Row((video,), (label,), line))
    source = beside(path, "moments_categories.txt")
    classes = {"action": _categories(source)} if source else {}
    return Annotation(path, "csv 'video,class name' as of Moments in Time", rows, classes=classes)


def _categories(path: Path) -> tuple[str, ...]:
    """The names of moments_categories.txt (`name,number`) in index order."""
    pairs = []
    for line, text in read_lines(path):
        name, _, number = text.rpartition(",")
        pairs.append((line, number, name))
    return indexed_names(path, pairs, 0)
