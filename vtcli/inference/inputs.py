"""Resolves the sources of a command (files, folders, shell patterns) to a list of video files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from vtcli.video.extensions import has_video_suffix


def find_videos(sources: Iterable[str | Path]) -> list[str]:
    """The files that the sources name: a folder is searched for videos, a pattern is expanded.

    A path that does not exist, and a folder without videos, is returned as it is, so that it is
    reported in its place.
    """
    found: list[str] = []
    for source in map(str, sources):
        if os.path.isdir(source):
            inside = sorted(p for p in Path(source).rglob("*") if _is_video(p))
            found += map(str, inside) if inside else [source]
        elif not os.path.exists(source) and any(c in source for c in "*?["):
            found += sorted(glob.glob(source, recursive=True)) or [source]
        else:
            found.append(source)
    return found


def _is_video(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return has_video_suffix(path.name) and not hidden and os.path.isfile(path)
