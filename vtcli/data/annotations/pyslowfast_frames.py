"""PySlowFast's frame lists (SSv2, Charades): one line per frame, `original_vido_id video_id
frame_id path labels`, the last in quotes with commas between several.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from vtcli.data.annotations.base import Annotation, Row, problem, read_lines

HEADER = "original_vido_id"  # sic: PySlowFast's own reader insists on this spelling


def read_frame_list(path: Path) -> Annotation:
    """One row per video: the folder of its frames and all labels they carry.

    Raises `DataError` naming a line with too few fields, or a video whose frames lie in two
    folders.
    """
    (header_line, header), *lines = read_lines(path)
    if not header.startswith(HEADER):
        raise problem(path, header_line, f"does not begin with '{HEADER}', as this format does")
    if not lines:
        raise problem(path, header_line, "is the only line; give a list with at least one frame")
    first: dict[str, Row] = {}
    labels: dict[str, dict[int | str, None]] = {}
    for number, line in lines:
        video, folder, found = _frame(path, number, line)
        row = first.setdefault(video, Row((folder,), (), number, video))
        if row.places != (folder,):
            text = f"puts a frame of video {video} into '{folder}', line {row.line} another into "
            raise problem(path, number, text + f"'{row.places[0]}'; keep one folder per video")
        labels.setdefault(video, {}).update(dict.fromkeys(found))
    rows = [row._replace(labels=tuple(labels[video])) for video, row in first.items()]
    description = f"PySlowFast frame list of {len(lines):,} frames"
    return Annotation(path, description, rows, index_base=0)


def _frame(path: Path, number: int, line: str) -> tuple[str, str, list[int]]:
    """The video's id, the folder of one frame and its labels."""
    fields = line.split(None, 3)
    tail = fields[3].rsplit(None, 1) if len(fields) == 4 else []
    if len(tail) != 2:
        text = "has too few fields for 'original_vido_id video_id frame_id path labels'"
        raise problem(path, number, text + "; mend the line")
    frame, labels = tail[0].strip('"'), tail[1].strip('"')
    words = [word for word in labels.split(",") if word]
    if not all(word.isdecimal() for word in words):
        raise problem(path, number, f"'{labels}' is no class number; write whole numbers")
    return fields[0], posixpath.dirname(frame), [int(word) for word in words]
