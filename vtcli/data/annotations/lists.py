"""Lists with one line per video and numbers at its end, as training code keeps them.

mmaction2: `path label [label ...]` and, for folders of frames, `folder frames label [label ...]`.
PySlowFast and what descends from it (UniFormer, VideoMAE, X-ViT): `path`, `path label` or
`path frames label` with any separator. UniFormerV2, ActivityNet: `path total start end label`.
A line is split from its end, so that a path may hold blanks, commas and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vtcli.data.annotations.base import Annotation, Row, problem, read_lines
from vtcli.errors import DataError
from vtcli.video.extensions import has_video_suffix

SEPARATORS = (",", "\t", ";", "|")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class _Line(NamedTuple):
    number: int
    path: str
    fields: tuple[str, ...]


class _Form(NamedTuple):
    """How a format's lines end: `skipped` numbers before the labels, `labels` of them or any."""

    title: str
    skipped: int
    labels: int | None
    columns: str


FORMS = {
    "mmaction2": _Form("mmaction2 video list", 0, None, "path label"),
    "mmaction2-frames": _Form("mmaction2 frame list", 1, None, "folder frames label"),
    "xvit": _Form("X-ViT list", 1, 1, "id frames label"),
    "uniformerv2-segments": _Form("UniFormerV2 list", 3, 1, "path total start end label"),
}
_PYSLOWFAST = (
    _Form("PySlowFast csv", 0, 0, "path"),
    _Form("PySlowFast csv", 0, 1, "path label"),
    _Form("PySlowFast csv", 1, 1, "path frames label"),
)


def separator_of(lines: Sequence[tuple[int, str]]) -> str | None:
    """What stands between path and label: a mark after which most lines end in a number; None is
    white space.
    """
    for mark in SEPARATORS:
        ends = [line.rsplit(mark, 1)[1].strip() for _, line in lines if mark in line]
        if 2 * sum(bool(NUMBER.fullmatch(end)) for end in ends) > len(lines):
            return mark
    return None


def sniff_list(path: Path, lines: Sequence[tuple[int, str]]) -> list[str]:
    """The formats of this family that a file fits; several where its content cannot tell."""
    separator = separator_of(lines)
    split = _read_lines(lines, separator)
    counts = Counter(len(line.fields) for line in split)
    numbers = counts.most_common(1)[0][0]
    as_videos = 2 * sum(has_video_suffix(line.path) for line in split) > len(split)
    as_csv = separator is not None or path.suffix.lower() == ".csv"
    if numbers == 0:
        return ["pyslowfast"] if as_videos else []
    if numbers == 4 and 2 * sum(_is_segment(line.fields) for line in split) > len(split):
        timed = any("." in field for line in split for field in line.fields)
        # Without endings and fractions it could be a folder, its frames and three labels.
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
    """A list in one of `FORMS`.

    Raises `DataError` naming a line with too few or too many numbers.
    """
    form = FORMS[format]
    lines = read_lines(path)
    separator = separator_of(lines)
    split = _read_lines(lines, separator)
    rows = [_row(path, line, form) for line in split]
    description = f"{form.title} '{form.columns}', {_in_words(separator)}"
    if format == "uniformerv2-segments":
        description += f", {len(rows):,} segments taken as whole videos"
        rows = _whole_videos(rows)
    return Annotation(path, description, rows)


def read_pyslowfast(path: Path) -> Annotation:
    """A PySlowFast csv, all lines with as many columns as most.

    Raises `DataError` naming a line with another number of columns.
    """
    lines = read_lines(path)
    separator = separator_of(lines)
    split = _read_lines(lines, separator)
    numbers = Counter(len(line.fields) for line in split).most_common(1)[0][0]
    if numbers >= len(_PYSLOWFAST):
        raise DataError(
            f"{path} has {numbers} numbers after each path where a PySlowFast csv has at most 2; "
            "name another format with --annotations"
        )
    form = _PYSLOWFAST[numbers]
    description = f"{form.title} '{form.columns}'"
    description += f", {_in_words(separator)}" if numbers else ""
    return Annotation(path, description, [_row(path, line, form) for line in split])


def _read_lines(lines: Sequence[tuple[int, str]], separator: str | None) -> list[_Line]:
    """Every line split. Where paths hold blanks and no ending, a number may be the end of a path:
    there as many are taken as the line with the fewest has.
    """
    split = [_split(number, line, separator) for number, line in lines]
    if all(has_video_suffix(line.path) or " " not in line.path for line in split):
        return split
    fewest = min(len(line.fields) for line in split)
    return [_shortened(line, fewest) for line in split]


def _split(number: int, line: str, separator: str | None) -> _Line:
    """The path and the numbers behind it: all there are, down to an ending that videos have."""
    rest, fields = line, []
    while not has_video_suffix(rest):
        parts = rest.rsplit(separator, 1)
        if len(parts) < 2 or not NUMBER.fullmatch(parts[1].strip()):
            break
        fields.append(parts[1].strip())
        rest = parts[0].rstrip()
    return _Line(number, _unquoted(rest), tuple(reversed(fields)))


def _unquoted(path: str) -> str:
    """A path without the quotes that csv writers put around one that holds a separator."""
    if len(path) > 1 and path[0] == path[-1] == '"':
        return path[1:-1].replace('""', '"')
    return path


def _shortened(line: _Line, count: int) -> _Line:
    if has_video_suffix(line.path):
        return line
    cut = len(line.fields) - count
    return _Line(line.number, " ".join((line.path, *line.fields[:cut])), line.fields[cut:])


def _row(path: Path, line: _Line, form: _Form) -> Row:
    labels = line.fields[form.skipped :]
    count = len(line.fields) - form.skipped
    if count != form.labels and (form.labels is not None or count < 1):
        text = f"has {len(line.fields)} numbers after the path, not those of '{form.columns}'"
        raise problem(path, line.number, text + "; mend the line")
    for label in labels:
        if "." in label:
            raise problem(path, line.number, f"'{label}' is no class number; write a whole number")
    return Row((line.path,), tuple(int(label) for label in labels), line.number)


def _is_segment(fields: Sequence[str]) -> bool:
    """Whether four numbers can be total, start, end and label."""
    if len(fields) != 4:
        return False
    total, start, end = (float(field) for field in fields[:3])
    return 0 <= start <= end <= total and "." not in fields[3]


def _whole_videos(rows: Sequence[Row]) -> list[Row]:
    """One row per video with every label its segments have."""
    labels: dict[tuple[str, ...], dict[int | str, None]] = {}
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        first.setdefault(row.places, row)
        labels.setdefault(row.places, {}).update(dict.fromkeys(row.labels))
    return [row._replace(labels=tuple(labels[places])) for places, row in first.items()]


def _in_words(separator: str | None) -> str:
    shown = {"\t": "tab", None: "white space"}.get(separator)
    return f"separator {shown}" if shown else f"separator '{separator}'"
