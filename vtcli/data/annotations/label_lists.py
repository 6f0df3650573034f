"""Lists without a header of videos and their classes, in either order, with any separator.

`video,class` with a comma is the form of Moments in Time (moments.py); numbers after a path are
read by lists.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vtcli.data.annotations.base import (
    Annotation,
    AnnotationRow,
    Label,
    annotation_error,
    candidate_paths,
    csv_fields,
    read_lines,
)
from vtcli.data.annotations.lists import NUMBER
from vtcli.errors import DataError
from vtcli.video.extensions import has_video_suffix

_WORD_AND_VIDEO = re.compile(r"(\S+)\s+(.+)")


class Form(NamedTuple):
    """The separator of the two fields of a line, None for white space, and their order."""

    mark: str | None
    video_first: bool

    def __str__(self) -> str:
        shown = {"\t": "tab", None: "white space"}.get(self.mark, f"'{self.mark}'")
        order = "video, class" if self.video_first else "class, video"
        return f"list '{order}', separator {shown}"


_FORMS = (*(Form(mark, first) for mark in "\t,;|" for first in (True, False)), Form(None, False))


def form_of(path: Path, lines: Sequence[tuple[int, str]]) -> Form | None:
    """The form that most lines have; None if they have none, or are paths of files as they are.

    White space may be in a path: after a class, the rest of a line must be a file.
    """
    for form in _FORMS:
        found = [_split(line, form) for _, line in lines]
        if 2 * sum(fields is not None for fields in found) <= len(lines):
            continue
        first = next(line for (_, line), fields in zip(lines, found, strict=True) if fields)
        video = next(fields[0] for fields in found if fields)
        if (path.parent / first).exists() or (
            form.mark is None and not (path.parent / video).exists()
        ):
            return None
        return form
    return None


def read_label_list(path: Path) -> Annotation:
    """One row per video, labeled by class name or, where the class comes first, by number.

    Raises `DataError` for a file that is not such a list, naming a line that does not fit.
    """
    lines = read_lines(path)
    form = form_of(path, lines[:1000])
    if form is None:
        raise DataError(
            f"{path} is not a list of videos and classes; name its columns in a first line "
            "path,label"
        )
    rows = []
    for number, line in lines:
        found = _split(line, form)
        if found is None:
            text = (
                f"does not fit the {form}; fix the line, or name the columns in line 1: path,label"
            )
            raise annotation_error(path, number, text)
        video, label = found
        rows.append(AnnotationRow(candidate_paths(video), (label,), number))
    return Annotation(path, str(form), rows)


def _split(line: str, form: Form) -> tuple[str, Label] | None:
    """The video and the class of a line; None if it has another form."""
    if form.mark is None:
        match = _WORD_AND_VIDEO.fullmatch(line)
        fields = list(match.groups()) if match else []
    else:
        fields = csv_fields(line, form.mark)
    if len(fields) != 2:
        return None
    video, label = fields if form.video_first else reversed(fields)
    if not has_video_suffix(video) or not label or has_video_suffix(label):
        return None
    is_number = all(NUMBER.fullmatch(word) for word in label.split())
    if not is_number:
        return video, label
    if form.video_first or not label.isdecimal():
        return None
    return video, int(label)
