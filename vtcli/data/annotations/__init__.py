"""Readers of every supported annotation format, one small module per family.

A reader looks at its own file or folder and at class lists next to it, and nothing else;
`vtcli.data.open` finds the videos and turns labels into class indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from vtcli.data.annotations.activitynet import read_activitynet
from vtcli.data.annotations.archives import read_parquet, read_webdataset
from vtcli.data.annotations.base import Annotation
from vtcli.data.annotations.cvat import read_cvat
from vtcli.data.annotations.diving48 import read_diving48
from vtcli.data.annotations.epic import read_epic
from vtcli.data.annotations.folders import read_class_folders, read_videofolder
from vtcli.data.annotations.kinetics import read_kinetics
from vtcli.data.annotations.label_lists import read_label_list
from vtcli.data.annotations.lists import LINE_FORMATS, read_list, read_pyslowfast
from vtcli.data.annotations.manifest import read_manifest, read_metadata
from vtcli.data.annotations.moments import read_moments
from vtcli.data.annotations.pyslowfast_frames import read_frame_list
from vtcli.data.annotations.something_something import read_id_label, read_something_json
from vtcli.data.annotations.tools import read_fiftyone, read_label_studio, read_via
from vtcli.data.annotations.ucf_hmdb import read_hmdb51, read_ucf101
from vtcli.errors import DataError, UsageError

FOLDER_FORMATS = ("class-folders", "huggingface")
# Paths in these are relative to the list's own folder.
TOOL_FORMATS = ("label-studio", "fiftyone", "cvat", "via", "parquet", "webdataset")
LIST_FORMATS = (
    *("manifest", "huggingface", *LINE_FORMATS, "pyslowfast", "pyslowfast-frames", "label-list"),
    *TOOL_FORMATS,
)


def _read_huggingface(path: Path) -> Annotation:
    return read_videofolder(path) if path.is_dir() else read_metadata(path)


FORMATS: Mapping[str, Callable[[Path], Annotation]] = {
    "manifest": read_manifest,
    "class-folders": read_class_folders,
    "huggingface": _read_huggingface,
    **{name: partial(read_list, format=name) for name in LINE_FORMATS},
    "pyslowfast": read_pyslowfast,
    "pyslowfast-frames": read_frame_list,
    "label-list": read_label_list,
    "label-studio": read_label_studio,
    "fiftyone": read_fiftyone,
    "cvat": read_cvat,
    "via": read_via,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
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
    """Raise `UsageError` if `format` is not the name of an annotation format."""
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(f"unknown annotation format '{format}'; choose from {known}")


def read_annotation(path: Path, format: str) -> Annotation:
    """Read one annotation file or folder in a format of `FORMATS`.

    Raises `DataError` naming the file and the line that does not fit.
    """
    if path.is_dir() != (format in FOLDER_FORMATS) and format != "huggingface":
        kind, wanted = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise DataError(f"{path} is {kind}, but format '{format}' reads {wanted}; name another")
    return FORMATS[format](path)
