"""The forms in which a list of videos is written as JSON, brought to one record per video.

A list of records; such a list under a key; pandas' columns, `{"path": {"0": ...}, ...}`; a label
for each video, `{"a.mp4": "jump"}`; the videos of each class, `{"jump": ["a.mp4"]}`; any of these
under the name of each split, `{"train": ..., "val": ...}`; and COCO's tables `videos`,
`annotations` and `categories`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtcli.data.annotations.columns import PATHS, TIMES, named_columns
from vtcli.data.catalog import STANDARD_SPLITS, canonical_split
from vtcli.video.extensions import has_video_suffix


def records_of(content: Any) -> list[Any]:
    """The records of a JSON document; empty if it has none of these forms."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or not content:
        return []
    forms = (_coco, _columns, _by_video, _by_class, _by_split, _nested)
    return next((found for form in forms if (found := form(content))), [])


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


def _by_split(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of several splits; what else is in the table has no records."""
    parts = {name: found for name, value in table.items() if (found := records_of(value))}
    splits = {canonical_split(name) for name in parts}
    if len(parts) < 2 or len(splits) < len(parts) or not splits <= set(STANDARD_SPLITS):
        return []
    return [
        {"split": name, **record}
        for name, found in parts.items()
        for record in found
        if isinstance(record, dict)
    ]


def _coco(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record per annotation, or one per video with all its labels where they have no times."""
    videos = _rows(table, "videos", "id")
    annotations = _rows(table, "annotations", "video_id", "category_id")
    if not videos or not annotations:
        return []
    name = next((n for n in PATHS if n in videos[0]), "")
    names = {c["id"]: c.get("name") for c in _rows(table, "categories", "id")}
    video_of = {video["id"]: video.get(name) for video in videos}
    records: dict[Any, dict[str, Any]] = {}
    for number, annotation in enumerate(annotations):
        number_of_class = annotation["category_id"]
        label = names.get(number_of_class) or number_of_class
        video = annotation["video_id"]
        others = {k: v for k, v in annotation.items() if k in TIMES}
        key = number if others else ("video", video)
        record = records.setdefault(key, {"path": video_of.get(video), "label": [], **others})
        record["label"] += [label] if label not in record["label"] else []
    return list(records.values())


def _rows(table: Mapping[str, Any], name: str, *keys: str) -> list[dict[str, Any]]:
    """The list of objects with these keys that a table has under a name; empty if it has none."""
    rows = table.get(name)
    if not isinstance(rows, list):
        return []
    return rows if all(isinstance(r, dict) and set(keys) <= set(r) for r in rows) else []


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
