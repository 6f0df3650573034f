"""Which columns of a list hold the video, its label, its times and its split.

Known names come first; a list with other names is recognized by its content: the only column of
video files, and the only other column of words or numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
STARTS = (
    *("start", "start_time", "starttime", "start_seconds", "start_sec", "start_secs", "start_s"),
    *("time_start", "t_start", "begin", "begin_time"),
)
ENDS = (
    *("end", "end_time", "endtime", "end_seconds", "end_sec", "end_secs", "end_s"),
    *("time_end", "t_end", "stop", "stop_time"),
)
FIRST_FRAMES, LAST_FRAMES = ("first_frame",), ("last_frame",)
FRAMES = ("frames", "num_frames", "n_frames", "nframes", "frame_count", "total_frames")
SPLITS = ("split", "subset", "partition", "set", "usage")
TIMES = frozenset((*STARTS, *ENDS, *FIRST_FRAMES, *LAST_FRAMES))
_OTHERS = (STARTS, ENDS, SPLITS, FRAMES, FIRST_FRAMES, LAST_FRAMES)
# Words of columns that hold a part of the video in a unit or numbering that is not known.
_BEGINNINGS = frozenset({"start", "begin", "from", "first", "onset", "t0"})
_ENDINGS = frozenset({"end", "stop", "to", "last", "offset", "t1"})
_DURATIONS = ("duration", "length", "dur", "segment_duration", "clip_duration")
ACCEPTED = "one of path, file_name, filename, video, ... and one of label, class, category, ..."
_SAMPLED = 1000


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used; "" for one that the list does not have.

    `classes`: in place of a label, a column for every class, 1 where a video has it, else 0.
    """

    path: str
    label: str = ""
    start: str = ""
    end: str = ""
    split: str = ""
    frames: str = ""
    first_frame: str = ""
    last_frame: str = ""
    classes: tuple[str, ...] = field(default=(), kw_only=True)

    def unused(self, names: Sequence[str]) -> list[str]:
        """The columns that are not used, except those that only number the rows."""
        others = (self.start, self.end, self.split, self.frames, self.first_frame, self.last_frame)
        used = (self.path, self.label, *others, *self.classes, "id", "")
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
    return Columns(path, label, *(_first(words, names) for words in _OTHERS))


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
    others = [_first(words, names) for words in _OTHERS]
    known = _first(PATHS, names)
    if classes := _class_columns(_not_times(names, key or known), [r for _, r in records]):
        # A class may be called `start` or `stop`.
        return Columns(key or known, "", split=others[2], frames=others[3], classes=classes)
    _refuse_other_times(path, names, sampled, others)
    video = key or _video_column(names, sampled)
    if not video:
        text = f"has the columns {_listed(names)}, and none is known to name the video; name it "
        raise annotation_error(path, 1, f"{text}'path'")
    left = [name for name in names if name != video and name not in others]
    if classes := _class_columns(left, [record for _, record in records]):
        return Columns(video, "", *others, classes=classes)
    label = _label_column(left, sampled)
    if label is None:
        text = f"has the columns {_listed(names)}, and none is known to be the label; name it "
        raise annotation_error(path, 1, f"{text}'label'")
    return Columns(video, label, *others)


def _refuse_other_times(
    path: Path, names: Sequence[str], records: Sequence[Mapping[str, Any]], used: Sequence[str]
) -> None:
    """Raise `DataError` for two columns of numbers that look like the ends of a segment, and are
    not in a unit that is known: without them, a row would be the whole video.
    """
    left = [n for n in names if n not in used and any(_text(r, n) for r in records)]
    left = [name for name in left if _is_number_column(name, records)]
    begins = used[0] or used[4] or _with_word(_BEGINNINGS, left)
    ends = used[1] or used[5]
    lasts = next((name for name in _DURATIONS if name in left), "")
    if begins and lasts and not ends:
        text = f"has the columns '{begins}' and '{lasts}', and none for the end; add 'end'"
        raise annotation_error(path, 1, text)
    ends = ends or _with_word(_ENDINGS, left)
    if begins and ends and not {begins, ends} <= set(used):
        text = f"has the columns '{begins}' and '{ends}', whose unit is not known; name them "
        text += "start,end (seconds) or first_frame,last_frame (from 0, the last one included)"
        raise annotation_error(path, 1, text)


def _with_word(words: frozenset[str], names: Sequence[str]) -> str:
    return next((n for n in names if not words.isdisjoint(re.split(r"[\W_]+", n))), "")


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


def _class_columns(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns that are 0 or 1 in every row, where there are several and none is a label."""
    if any(name in LABELS for name in names):
        return ()
    left = [name for name in names if name and name not in ("id", "index", "duration", "fps")]
    found = [n for n in left if all(is_one(r.get(n)) is not None for r in records)]
    return tuple(found) if len(found) > 1 and len(found) == len(left) else ()


def _not_times(names: Sequence[str], path: str) -> list[str]:
    """The columns that may be classes, by their names."""
    return [n for n in names if n not in (path, *SPLITS, *FRAMES)] if path else []


def has_class_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the rows of a csv file have a path and a column of 0 and 1 for every class."""
    records = [dict(zip(names, row, strict=False)) for row in rows]
    path = _first(PATHS, names)
    others = {path, _first(STARTS, names), _first(ENDS, names), _first(SPLITS, names)}
    timed = [name for name in names if name not in others]
    return bool(path) and any(_class_columns(n, records) for n in (_not_times(names, path), timed))


def is_one(cell: Any) -> bool | None:
    """Whether a cell of a class's column is 1; None for anything but 0 and 1."""
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(
        str(cell).strip().lower()
    )


def _is_number_column(name: str, records: Sequence[Mapping[str, Any]]) -> bool:
    texts = [_text(record, name) for record in records]
    return all(text.replace(".", "", 1).isdecimal() for text in texts if text)


def _text(record: Mapping[str, Any], name: str) -> str:
    return "" if record.get(name) is None else str(record[name]).strip()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
