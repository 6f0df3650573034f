"""PySlowFast's frame lists (SSv2, Charades): one line per frame, `original_vido_id video_id
frame_id path labels`; labels are in quotes and separated by commas.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import Path

from vtcli.data.annotations.base import Annotation, AnnotationRow, annotation_error, read_lines

HEADER = "original_vido_id"  # sic: PySlowFast's own reader requires this spelling


def read_frame_list(path: Path) -> Annotation:
    """One row per video: the folder of its frames, and the labels of all of them.

    Raises `DataError` naming a line with too few fields, or a video whose frames are in two
    folders.
    """
    (header_line, header), *lines = read_lines(path)
    if not header.startswith(HEADER):
        text = f"does not begin with '{HEADER}', the header of this format; name another format"
        raise annotation_error(path, header_line, text)
    if not lines:
        text = "is the only line; give a list with at least one frame"
        raise annotation_error(path, header_line, text)
    first: dict[str, AnnotationRow] = {}
    labels: dict[str, dict[int | str, None]] = {}
    frames: Counter[str] = Counter()
    for number, line in lines:
        video, folder, found = _frame(path, number, line)
        row = first.setdefault(video, AnnotationRow((folder,), (), number, video))
        if row.candidate_paths != (folder,):
            text = f"a frame of video {video} is in '{folder}', but the one in line {row.line} is "
            text += f"in '{row.candidate_paths[0]}'; use one folder per video"
            raise annotation_error(path, number, text)
        frames[video] += 1
        labels.setdefault(video, {}).update(dict.fromkeys(found))
    rows = [
        row._replace(labels=tuple(labels[video]), frames=frames[video])
        for video, row in first.items()
    ]
    description = f"PySlowFast frame list of {len(lines):,} frames"
    return Annotation(path, description, rows, index_base=0)


def _frame(path: Path, number: int, line: str) -> tuple[str, str, list[int]]:
    """The video's id, the folder of one frame, and its labels."""
    fields = line.split(None, 3)
    tail = fields[3].rsplit(None, 1) if len(fields) == 4 else []
    if len(tail) != 2:
        text = "has too few fields for 'original_vido_id video_id frame_id path labels'"
        raise annotation_error(path, number, text + "; fix the line")
    frame, labels = tail[0].strip('"'), tail[1].strip('"')
    words = [word for word in labels.split(",") if word]
    if not all(word.isdecimal() for word in words):
        text = f"'{labels}' is not a class number; write whole numbers"
        raise annotation_error(path, number, text)
    return fields[0], posixpath.dirname(frame), [int(word) for word in words]
