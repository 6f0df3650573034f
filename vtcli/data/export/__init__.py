"""Writes a dataset in the formats of annotation tools and training libraries.

What is written here, `vtcli.data.open` reads back with the same videos, class names and segments.
Segments are converted between seconds and frames with the timestamps of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vtcli.data.annotations.base import are_numbers
from vtcli.data.export.archives import write_parquet, write_videofolder, write_webdataset
from vtcli.data.export.clips import Clip, clips_of
from vtcli.data.export.tools import (
    write_createml,
    write_cvat,
    write_fiftyone,
    write_label_studio,
    write_manifest_lines,
    write_via,
)
from vtcli.data.samples import Dataset, require_files, require_labels, used_names
from vtcli.errors import DataError

WRITERS: Mapping[str, Callable[[list[Clip], Dataset, Path], None]] = {
    "manifest": write_manifest_lines,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
    "cvat": write_cvat,
    "via": write_via,
    "createml": write_createml,
    "videofolder": write_videofolder,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
SUFFIXES = {
    "manifest": ".jsonl",
    "label-studio": ".json",
    "cvat": ".xml",
    "via": ".json",
    "createml": ".json",
    "parquet": ".parquet",
    "webdataset": ".tar",
}
_SINGLE_LABEL = ("createml",)
# Formats without a list of classes and with readers, ours among them, that take digits for class
# numbers and drop outer spaces.
_LABELS_AS_TEXT = ("manifest", "createml", "videofolder", "webdataset")


def export_dataset(dataset: Dataset, path: Path, format: str) -> int:
    """Write all samples of one split to a file, or to a new folder for `fiftyone` and
    `videofolder`; returns their number.

    format: one of `WRITERS`. Raises `DataError` for samples without labels, for a dataset with
    several label heads, and for a path that does not fit the format; `VideoDecodeError` for a video
    whose timestamps are needed and that cannot be read.
    """
    require_labels(dataset, "export")
    require_files(dataset, "export")
    _check(dataset, path, format)
    clips = clips_of(dataset)
    WRITERS[format](clips, dataset, path)
    return len(clips)


def _check(dataset: Dataset, path: Path, format: str) -> None:
    if len(dataset.heads) > 1:
        raise DataError(
            f"{dataset.name} has a label for each of {', '.join(dataset.heads)}, and an export has "
            "one kind of label; export a list with one label column"
        )
    if format in _SINGLE_LABEL and any(len(sample.labels) > 1 for sample in dataset.samples):
        raise DataError(
            f"{format} has one label per video, but {dataset.name} has several; use --to manifest"
        )
    if format in _LABELS_AS_TEXT:
        _check_names(dataset, format)
    suffix = SUFFIXES.get(format)
    if suffix is None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataError(f"{path} is not a new or empty folder; name another with -o")
    elif path.suffix.lower() != suffix:
        raise DataError(f"{path} does not end in {suffix}; write -o {path.stem}{suffix}")
    elif path.is_dir():
        raise DataError(f"{path} is a folder; name a file with -o")


def _check_names(dataset: Dataset, format: str) -> None:
    """Refuse class names that the format's readers would take for something else."""
    used = used_names(dataset)
    if are_numbers(used):
        raise DataError(
            f"the class names of {dataset.name} are digits, such as '{used[0]}', which would be "
            f"read as class numbers from {format}; use --to parquet, or rename the classes"
        )
    padded = next((name for name in used if name != name.strip()), None)
    if padded is not None:
        raise DataError(
            f"the class name '{padded}' begins or ends with a space, which would be lost in "
            f"{format}; use --to parquet, or rename the class"
        )
