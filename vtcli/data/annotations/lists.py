"""Lists with one line per video that ends in numbers, as training code uses them.

mmaction2: `path label [label ...]` and, for folders of frames, `folder frames label [label ...]`.
PySlowFast and its descendants (UniFormer, VideoMAE, X-ViT): `path`, `path label` or
`path frames label` with any separator. UniFormerV2, ActivityNet: `path total start end label`.
A line is split from its end, so that a path may contain spaces, commas and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vtcli.data.annotations.base import (
    WHOLE_NUMBER,
    Annotation,
    AnnotationRow,
    annotation_error,
    candidate_paths,
    read_lines,
    whole_number,
)
from vtcli.errors import DataError
from vtcli.video.extensions import has_video_suffix

SEPARATORS = (",", "\t", ";", "|")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class _Line(NamedTuple):
    number: int
    path: str
    fields: tuple[str, ...]


class _LineFormat(NamedTuple):
    """The numbers at the end of a line: how many come before the labels, and how many labels there
    are (None: one or more).
    """

    title: str
    skipped: int
    labels: int | None
    columns: str


LINE_FORMATS = {
    "mmaction2": _LineFormat("mmaction2 video list", 0, None, "path label"),
    "mmaction2-frames": _LineFormat("mmaction2 frame list", 1, None, "folder frames label"),
    "xvit": _LineFormat("X-ViT list", 1, 1, "id frames label"),
    "uniformerv2-segments": _LineFormat("UniFormerV2 list", 3, 1, "path total start end label"),
}
_PYSLOWFAST = (
    _LineFormat("PySlowFast csv", 0, 0, "path"),
    _LineFormat("PySlowFast csv", 0, 1, "path label"),
    _LineFormat("PySlowFast csv", 1, 1, "path frames label"),
)


def separator_of(lines: Sequence[tuple[int, str]]) -> str | None:
    """The separator of path and label, after which most lines end in a number; None is white
    space.
    """
    for mark in SEPARATORS:
        ends = [line.rsplit(mark, 1)[1].strip() for _, line in lines if mark in line]
        if 2 * sum(bool(NUMBER.fullmatch(end)) for end in ends) > len(lines):
            return mark
    return None


def detect_list_format(path: Path, lines: Sequence[tuple[int, str]]) -> list[str]:
    """The formats of this family that a file fits; several if its content cannot tell."""
    separator = separator_of(lines)
    split = _split_lines(lines, separator)
    counts = Counter(len(line.fields) for line in split)
    numbers = counts.most_common(1)[0][0]
    as_videos = 2 * sum(has_video_suffix(line.path) for line in split) > len(split)
    as_csv = separator is not None or path.suffix.lower() == ".csv"
    if numbers == 0:
        return ["pyslowfast"] if as_videos else []
    if numbers == 4 and 2 * sum(_is_segment(line.fields) for line in split) > len(split):
        timed = any("." in field for line in split for field in line.fields)
        # Without extensions and decimals it could be a folder, its frame count and three labels.
        others = [] if as_videos or as_csv or timed else ["mmaction2-frames"]
        return ["uniformerv2-segments", *others]
    if as_csv and numbers <= 2:
        return ["pyslowfast"]
    if not as_videos and numbers > 1:
        return ["xvit" if path.stem.endswith("_videofolder") else "mmaction2-frames"]
    if set(counts) == {2}:
        return ["mmaction2", "pyslowfast"]  # two labels, or a frame count and a label
    return ["mmaction2"]


def read_list(path: Path, format: str) -> Annotation:
    """A list in one of `LINE_FORMATS`.

    Raises `DataError` naming a line with too few or too many numbers.
    """
    line_format = LINE_FORMATS[format]
    lines = read_lines(path)
    separator = separator_of(lines)
    split = _split_lines(lines, separator)
    rows = [_row(path, line, line_format) for line in split]
    title, columns = line_format.title, line_format.columns
    description = f"{title} '{columns}', {_describe_separator(separator)}"
    if format == "uniformerv2-segments":
        description += f", {len(rows):,} segments taken as whole videos"
        rows = _whole_videos(rows)
    return Annotation(path, description, rows)


def read_pyslowfast(path: Path) -> Annotation:
    """A PySlowFast csv; every line has the number of columns that most lines have.

    Raises `DataError` naming a line with another number of columns.
    """
    lines = read_lines(path)
    separator = separator_of(lines)
    split = _split_lines(lines, separator)
    numbers = Counter(len(line.fields) for line in split).most_common(1)[0][0]
    if numbers >= len(_PYSLOWFAST):
        raise DataError(
            f"{path} has {numbers} numbers after each path, but a PySlowFast csv has at most 2; "
            "name another format with --annotations"
        )
    line_format = _PYSLOWFAST[numbers]
    description = f"{line_format.title} '{line_format.columns}'"
    description += f", {_describe_separator(separator)}" if numbers else ""
    return Annotation(path, description, [_row(path, line, line_format) for line in split])


def _split_lines(lines: Sequence[tuple[int, str]], separator: str | None) -> list[_Line]:
    """Every line as path and numbers.

    In a list whose paths contain spaces and have no extension, a path itself may end in a number:
    there, every line has as many numbers as the line with the fewest.
    """
    split = [_split(number, line, separator) for number, line in lines]
    if all(has_video_suffix(line.path) or " " not in line.path for line in split):
        return split
    fewest = min(len(line.fields) for line in split)
    return [_shortened(line, fewest) for line in split]


def _split(number: int, line: str, separator: str | None) -> _Line:
    """The path and all numbers after it; a video extension marks the end of the path."""
    rest, fields = line, []
    while not has_video_suffix(rest):
        parts = rest.rsplit(separator, 1)
        if len(parts) < 2 or not NUMBER.fullmatch(parts[1].strip()):
            break
        fields.append(parts[1].strip())
        rest = parts[0].rstrip()
    return _Line(number, _unquoted(rest), tuple(reversed(fields)))


def _unquoted(path: str) -> str:
    """A path without the quotes that csv writers put around one that contains a separator."""
    if len(path) > 1 and path[0] == path[-1] == '"':
        return path[1:-1].replace('""', '"')
    return path


def _shortened(line: _Line, count: int) -> _Line:
    if has_video_suffix(line.path):
        return line
    cut = len(line.fields) - count
    return _Line(line.number, " ".join((line.path, *line.fields[:cut])), line.fields[cut:])


def _row(path: Path, line: _Line, line_format: _LineFormat) -> AnnotationRow:
    labels = line.fields[line_format.skipped :]
    count = len(line.fields) - line_format.skipped
    if count != line_format.labels and (line_format.labels is not None or count < 1):
        text = f"has {len(line.fields)} numbers after the path, which does not fit "
        raise annotation_error(path, line.number, f"{text}'{line_format.columns}'; fix the line")
    for label in labels:
        if "." in label and not WHOLE_NUMBER.fullmatch(label):
            text = f"'{label}' is not a class number; write a whole number"
            raise annotation_error(path, line.number, text)
    numbers = tuple(int(float(label)) for label in labels)
    frames = whole_number(line.fields[0]) if line_format.skipped == 1 else None
    if line_format.skipped == 1 and frames is None:
        text = (
            f"'{line.fields[0]}' is not a frame count, as '{line_format.columns}' needs it; name "
            "the columns in a first line, such as path,start,end,label"
        )
        raise annotation_error(path, line.number, text)
    return AnnotationRow(candidate_paths(line.path), numbers, line.number, frames=frames)


def _is_segment(fields: Sequence[str]) -> bool:
    """Whether four numbers can be total, start, end and label."""
    if len(fields) != 4:
        return False
    total, start, end = (float(field) for field in fields[:3])
    return 0 <= start <= end <= total and "." not in fields[3]


def _whole_videos(rows: Sequence[AnnotationRow]) -> list[AnnotationRow]:
    """One row per video with the labels of all its segments."""
    labels: dict[tuple[str, ...], dict[int | str, None]] = {}
    first: dict[tuple[str, ...], AnnotationRow] = {}
    for row in rows:
        first.setdefault(row.candidate_paths, row)
        labels.setdefault(row.candidate_paths, {}).update(dict.fromkeys(row.labels))
    return [row._replace(labels=tuple(labels[paths])) for paths, row in first.items()]


def _describe_separator(separator: str | None) -> str:
    shown = {"\t": "tab", None: "white space"}.get(separator)
    return f"separator {shown}" if shown else f"separator '{separator}'"
