"""Every annotation format that is read, one small module per family: from a file or folder to rows.

A reader looks at nothing but its own file and class lists beside it; `vtcli.data.open` finds
the videos and turns labels into indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from vtcli.data.annotations.activitynet import read_activitynet
from vtcli.data.annotations.base import Annotation
from vtcli.data.annotations.diving48 import read_diving48
from vtcli.data.annotations.epic import read_epic
from vtcli.data.annotations.folders import read_class_folders, read_videofolder
from vtcli.data.annotations.kinetics import read_kinetics
from vtcli.data.annotations.lists import FORMS, read_list, read_pyslowfast
from vtcli.data.annotations.manifest import read_manifest, read_metadata
from vtcli.data.annotations.moments import read_moments
from vtcli.data.annotations.pyslowfast_frames import read_frame_list
from vtcli.data.annotations.something_something import read_id_label, read_something_json
from vtcli.data.annotations.ucf_hmdb import read_hmdb51, read_ucf101
from vtcli.errors import DataError, UsageError

FOLDER_FORMATS = ("class-folders", "huggingface")
# Their paths begin where the list lies.
LIST_FORMATS = ("manifest", "huggingface", *FORMS, "pyslowfast", "pyslowfast-frames")


def _read_huggingface(path: Path) -> Annotation:
    return read_videofolder(path) if path.is_dir() else read_metadata(path)


FORMATS: Mapping[str, Callable[[Path], Annotation]] = {
    "manifest": read_manifest,
    "class-folders": read_class_folders,
    "huggingface": _read_huggingface,
    **{name: partial(read_list, format=name) for name in FORMS},
    "pyslowfast": read_pyslowfast,
    "pyslowfast-frames": read_frame_list,
    "kinetics": read_kinetics,
    "something-json": read_something_json,
    "id-label": read_id_label,
    "mit": read_moments,
    "activitynet": read_activitynet,
    "epic100": read_epic,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "diving48": read_diving48,
}


def check_format(format: str) -> None:
    """Raise `UsageError` for a name that no annotation format has."""
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(f"there is no annotation format '{format}'; known are {known}")


def read_annotation(path: Path, format: str) -> Annotation:
    """Read one annotation file or folder in a format of `FORMATS`.

    Raises `DataError` naming the file and the line where it does not fit.
    """
    if path.is_dir() != (format in FOLDER_FORMATS) and format != "huggingface":
        kind = "a folder" if path.is_dir() else "a file"
        raise DataError(f"{path} is {kind}, which format '{format}' does not read; name another")
    return FORMATS[format](path)
