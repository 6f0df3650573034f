"""Moments in Time: csv lines `class/video,class name,votes ...` without a header;
moments_categories.txt numbers the classes.
"""

from __future__ import annotations

from pathlib import Path

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    annotation_error,
    csv_fields,
    indexed_names,
    read_lines,
    sibling,
)
from vtcli.data.annotations.lists import NUMBER
from vtcli.video.extensions import has_video_suffix


def read_moments(path: Path) -> Annotation:
    """One row per video, labeled by class name.

    Raises `DataError` naming a line without a label.
    """
    rows = []
    for line, text in read_lines(path):
        video, label, *votes = [*csv_fields(text), "", ""]
        if not has_video_suffix(video) or not label:
            raise annotation_error(
                path,
                line,
                "is not 'video,class name'; fix the line, or "
                "name the columns in a first line path,label",
            )
        if unnamed := next((vote for vote in votes if vote and not NUMBER.fullmatch(vote)), ""):
            text = (
                f"has a column '{unnamed}' without a name; name it in a first line path,label,split"
            )
            raise annotation_error(path, line, text)
        rows.append(AnnotationRow((video,), (label,), line))
    source = sibling(path, "moments_categories.txt")
    classes = {"action": _categories(source)} if source else {}
    return Annotation(path, "Moments in Time csv 'video,class name'", rows, classes=classes)


def _categories(path: Path) -> tuple[str, ...]:
    """The class names of moments_categories.txt (`name,number`) in index order."""
    pairs = []
    for line, text in read_lines(path):
        name, _, number = text.rpartition(",")
        pairs.append((line, number, name))
    return indexed_names(path, pairs, 0)
