"""The forms in which a list of videos is written as JSON, brought to one record per video.

A list of records; such a list under a key; pandas' columns, `{"path": {"0": ...}, ...}`; a label
for each video, `{"a.mp4": "jump"}`; and the videos of each class, `{"jump": ["a.mp4"]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtcli.data.annotations.columns import named_columns
from vtcli.video.extensions import has_video_suffix


def records_of(content: Any) -> list[Any]:
    """The records of a JSON document; empty if it has none of these forms."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or not content:
        return []
    return _columns(content) or _by_video(content) or _by_class(content) or _nested(content)


def _columns(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = list(table.values())
    if not named_columns([name.casefold() for name in table]):
        return []
    if all(isinstance(v, dict) for v in values) and len({tuple(v) for v in values}) == 1:
        return [{name: table[name][row] for name in table} for row in values[0]]
    if all(isinstance(v, list) for v in values) and len({len(v) for v in values}) == 1:
        return [dict(zip(table, row, strict=True)) for row in zip(*values, strict=True)]
    return []


def _by_video(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not _are_videos(list(table)):
        return []
    return [
        {"path": name, **value} if isinstance(value, dict) else {"path": name, "label": value}
        for name, value in table.items()
    ]


def _by_class(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not all(isinstance(names, list) and _are_videos(names) for names in table.values()):
        return []
    return [{"path": name, "label": label} for label, names in table.items() for name in names]


def _nested(table: Mapping[str, Any]) -> list[Any]:
    """The only list of records with the columns of a list of videos."""
    found = [
        value
        for value in table.values()
        if isinstance(value, list) and value and isinstance(value[0], dict)
        if named_columns([name.casefold() for name in value[0]])
    ]
    return found[0] if len(found) == 1 else []


def _are_videos(names: Sequence[Any]) -> bool:
    return bool(names) and all(isinstance(n, str) and has_video_suffix(n) for n in names)
