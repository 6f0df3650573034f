"""Which columns of a list hold the video, its label, its times and its split.

Known names come first; a list with other names is recognized by its content: the only column of
video files, and the only other column of words or numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtcli.data.annotations.base import annotation_error
from vtcli.video.extensions import has_video_suffix

# In the order of preference: where a list has several, the first that is there is used.
PATHS = (
    *("path", "file_name", "filename", "file", "video", "video_path", "videopath", "filepath"),
    *("file_path", "video_file", "video_name", "videoname", "clip", "clip_path", "clip_name"),
    *("vid_name", "video_id", "name", "url"),
)
LABELS = (
    *("label", "class", "class_name", "classname", "label_name", "category", "action", "activity"),
    *("labels", "tag", "target", "choice", "gesture", "sign", "gloss", "event", "verb"),
    *("label_id", "class_id", "class_index", "label_index", "category_id", "y"),
)
STARTS = ("start", "start_time", "starttime", "start_seconds", "time_start", "t_start", "begin")
ENDS = ("end", "end_time", "endtime", "end_seconds", "time_end", "t_end", "stop")
SPLITS = ("split", "subset", "partition", "set", "usage")
ACCEPTED = "one of path, file_name, filename, video, ... and one of label, class, category, ..."
_SAMPLED = 1000


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used; "" for one that the list does not have."""

    path: str
    label: str = ""
    start: str = ""
    end: str = ""
    split: str = ""

    def unused(self, names: Sequence[str]) -> list[str]:
        """The columns that are not used, except those that only number the rows."""
        used = (self.path, self.label, self.start, self.end, self.split, "id", "")
        return [name for name in names if name not in used]

    def described(self) -> str:
        """Their names, such as `video_name,class`."""
        names = (self.path, self.label, self.start, self.end, self.split)
        return ",".join(name for name in names if name)


def named_columns(names: Sequence[str]) -> Columns | None:
    """The columns by their names; None if no name is one of a path and of a label."""
    path, label = _first(PATHS, names), _first(LABELS, names)
    if not path or not label:
        return None
    return Columns(path, label, _first(STARTS, names), _first(ENDS, names), _first(SPLITS, names))


def _first(wanted: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in wanted if name in names), "")


def find_columns(
    path: Path, records: Sequence[tuple[int, Mapping[str, Any]]], key: str = ""
) -> Columns:
    """The columns of a list by their names, else by their content.

    key: the column of the video, if the format has it. Raises `DataError` naming the columns if it
    is not clear which are meant.
    """
    sampled = [record for _, record in records[:_SAMPLED]]
    names = list(dict.fromkeys(name for record in sampled for name in record))
    times = {_first(STARTS, names), _first(ENDS, names), _first(SPLITS, names)} - {""}
    video = key or _video_column(names, sampled)
    if not video:
        text = f"has the columns {_listed(names)}, and none is known to name the video; name it "
        raise annotation_error(path, 1, f"{text}'path'")
    label = _label_column([n for n in names if n != video and n not in times], sampled)
    if label is None:
        text = f"has the columns {_listed(names)}, and none is known to be the label; name it "
        raise annotation_error(path, 1, f"{text}'label'")
    start, end, split = (_first(words, names) for words in (STARTS, ENDS, SPLITS))
    return Columns(video, label, start, end, split)


def _video_column(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """A column of a known name, preferring one with video files; else the only one with them."""
    with_videos = [name for name in names if _most_are_videos(name, records)]
    known = [name for name in PATHS if name in names]
    both = [name for name in known if name in with_videos]
    if both or known:
        return (both or known)[0]
    return with_videos[0] if len(with_videos) == 1 else ""


def _most_are_videos(name: str, records: Sequence[Mapping[str, Any]]) -> bool:
    return 2 * sum(has_video_suffix(str(r.get(name) or "").strip()) for r in records) > len(records)


def _label_column(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str | None:
    """A column of a known name, preferring names of classes to their numbers; else the only one
    left. "" if the list has none but its video column, None if it is not clear.
    """
    known = [name for name in LABELS if name in names]
    if known:
        # `label,class_name`: a number and its name.
        words = [name for name in known if not _is_number_column(name, records)]
        return (words or known)[0]
    left = [name for name in names if name and name not in ("id", "index", "duration", "fps")]
    return "" if not left else left[0] if len(left) == 1 else None


def _is_number_column(name: str, records: Sequence[Mapping[str, Any]]) -> bool:
    texts = [str(record.get(name, "")).strip() for record in records]
    return all(text.replace(".", "", 1).isdecimal() for text in texts if text)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
