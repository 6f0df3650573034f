"""Detects the format of an annotation file from its content and, where two formats look alike,
from its name. A file that fits two formats is refused with both names; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vtcli.data.annotations import kinetics, pyslowfast_frames, tools
from vtcli.data.annotations.base import csv_fields, delimiter_of, read_json, read_lines, sibling
from vtcli.data.annotations.columns import PATHS, has_class_columns, named_columns
from vtcli.data.annotations.json_tables import records_of
from vtcli.data.annotations.label_lists import form_of
from vtcli.data.annotations.lists import NUMBER, detect_list_format
from vtcli.data.annotations.ucf_hmdb import HMDB_NAME, UCF_NAME
from vtcli.errors import DataError
from vtcli.video.extensions import has_video_suffix

_MAX_LINES = 1000
_HEADERS = (
    ("epic100", ("narration_id", "video_id")),
    ("kinetics", kinetics.COLUMNS),
    ("via", tools.VIA2_COLUMNS),
    ("huggingface", ("file_name",)),
    ("manifest", ("path", "label")),
)
_BY_EXTENSION = {".xml": "cvat", ".parquet": "parquet", ".tar": "webdataset"}
_HINT = "name its format with --annotations, or write a manifest with the header path,label"


def detect_file_format(path: Path, default: str = "") -> str:
    """The format of an annotation file; `default` if its content fits none.

    Raises `DataError` if it fits more than one, or none and there is no `default`.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _detect_json(path)
    if suffix in _BY_EXTENSION:
        return _BY_EXTENSION[suffix]
    lines = read_lines(path, _MAX_LINES)
    found = _detect_lines(path, lines)
    if len(found) > 1:
        raise DataError(
            f"{path} fits {len(found)} formats, {' and '.join(found)}; name one with --annotations"
        )
    if not found and not default:
        number, line = lines[0]
        shown = line if len(line) <= 60 else f"{line[:57]}..."
        raise DataError(f"{path}, line {number}: '{shown}' is not in a known format; {_HINT}")
    return found[0] if found else default


def _detect_lines(path: Path, lines: Sequence[tuple[int, str]]) -> list[str]:
    first = lines[0][1]
    if first.lstrip().startswith("{"):
        return _detect_json_line(first)
    if HMDB_NAME.fullmatch(path.name):
        return ["hmdb51"]
    if UCF_NAME.fullmatch(path.name) and sibling(path, "classInd.txt"):
        return ["ucf101"]
    if first.startswith(pyslowfast_frames.HEADER):
        return ["pyslowfast-frames"]
    if any(line.startswith("#") and tools.VIA_HEADER in line for _, line in lines[:20]):
        return ["via"]
    columns = [name.casefold() for name in csv_fields(first, delimiter_of(first))]
    for format, needed in _HEADERS:
        if set(columns).issuperset(needed):
            return [format]
    if named_columns(columns):
        return ["manifest"]
    rows = [csv_fields(line, delimiter_of(first)) for _, line in lines[1:]]
    if rows and (has_class_columns(columns, rows) or _has_path_column(columns, rows)):
        return ["manifest"]
    if _most(lines, _has_class_name):
        return ["mit"]
    if form_of(path, lines):
        return ["label-list"]
    return detect_list_format(path, lines) or (["id-label"] if _most(lines, _has_semicolon) else [])


def _has_path_column(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a list has a header: its only column with a known name for videos has videos."""
    known = [place for place, name in enumerate(columns) if name in PATHS]
    if len(known) != 1:
        return False
    videos = sum(has_video_suffix(row[known[0]]) for row in rows if len(row) > known[0])
    return 2 * videos > len(rows)


def _most(lines: Sequence[tuple[int, str]], has: Callable[[str], bool]) -> bool:
    return 2 * sum(has(line) for _, line in lines) > len(lines)


def _has_semicolon(line: str) -> bool:
    return ";" in line


def _has_class_name(line: str) -> bool:
    """Whether the first field is a video file and the second a word."""
    video, word, *_ = [*csv_fields(line), "", ""]
    named = bool(word) and not NUMBER.fullmatch(word) and not has_video_suffix(word)
    return has_video_suffix(video) and named


def _detect_json_line(line: str) -> list[str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return []
    if not isinstance(record, dict):
        return []
    keys = [key.casefold() for key in record]
    if "file_name" in keys and "path" not in keys:
        return ["huggingface"]
    return ["manifest"] if "path" in keys or named_columns(keys) else []


def _detect_json(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, dict) and "database" in content:
        return "activitynet"
    if kinetics.is_kinetics_json(content):
        return "kinetics"
    first = next(iter(records_of(content)), None)
    if isinstance(content, dict) and tools.is_fiftyone(content):
        return "fiftyone"
    if isinstance(content, dict) and tools.is_via_project(content):
        return "via"
    if isinstance(first, dict) and tools.is_label_studio(first):
        return "label-studio"
    if isinstance(first, dict) and "vid_name" in first:
        return "diving48"
    if isinstance(first, dict) and named_columns([key.casefold() for key in first]):
        return "manifest"
    if isinstance(first, dict) and "id" in first:
        return "something-json"
    raise DataError(
        f"{path} is not in a known format, or lists only the class names; write a list of "
        '{"path": ..., "label": ...}'
    )
