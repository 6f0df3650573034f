"""The result of reading any annotation format: samples, and the dataset they make up.

No PyTorch and no decoder here. A sample is one labeled video, one labeled folder of frames, or a
segment of either; a dataset is a list of samples and the class names that their labels index.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError

if TYPE_CHECKING:
    from vtcli.data.annotations.base import RowProblem, Skipped


@dataclass(frozen=True)
class Sample:
    """One labeled video, or a segment of one.

    `id` is unique in its dataset and the same on every machine (a relative path or the annotation's
    own id, never an absolute path). `path` is a video file or a folder with one image per frame.
    `labels` are class indices: one per head of the dataset, in the order of its heads, or any
    number of them if there is one head; empty if the annotation gives none (a test split).
    `start` and `end` are in seconds, `first_frame` and `last_frame` are frame numbers from 0, both
    inclusive; None: the whole video. `columns` are other columns of its row in the annotation, by
    name in lower case.
    """

    id: str
    path: Path
    labels: tuple[int, ...] = ()
    start: float | None = None
    end: float | None = None
    first_frame: int | None = None
    last_frame: int | None = None
    split: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Dataset:
    """Samples and their classes.

    `classes` holds the class names of each head in index order ({"action": ...}, or {"verb": ...,
    "noun": ...}); an empty tuple if the annotation gives numbers and no source names them.
    `summary` is one sentence on what was read: format, index base, classes, samples, and folders
    that were skipped. `frame_rate` applies to folders of frames, which do not store their own; None
    if it is not known. `skipped` are files and folders that were not used, relative to `root`;
    `problems` are rows that were not used, which only a check allows.
    """

    name: str
    samples: tuple[Sample, ...]
    classes: Mapping[str, tuple[str, ...]]
    summary: str
    root: Path
    split: str = ""
    frame_rate: float | None = None
    metric: str = "top-1"
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[RowProblem, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the label columns, `action` if there is one."""
        return tuple(self.classes)


def labels_by_head(sample: Sample, heads: int) -> tuple[tuple[int, ...], ...]:
    """The class indices for each head: a single head may have several, each of many has one."""
    return (sample.labels,) if heads == 1 else tuple((label,) for label in sample.labels)


def require_labels(dataset: Dataset, use: str) -> None:
    """Raise `DataError` for a dataset without samples, or with unlabeled ones.

    use: what the samples are for, such as "evaluate" or "train on".
    """
    if not dataset.samples:
        raise DataError(f"{dataset.name} has no samples to {use}; check its annotation")
    unlabeled = sum(not sample.labels for sample in dataset.samples)
    if unlabeled:
        raise DataError(
            f"{unlabeled} of the {len(dataset.samples)} samples of {dataset.name} {dataset.split} "
            f"have no label; {use} another split"
        )


def file_stamp(sample: Sample) -> str:
    """Size and modification time (ns) of a sample's file, which change when the file does;
    `missing` if there is no file.
    """
    try:
        found = os.stat(sample.path)
    except OSError:
        return "missing"
    return f"{found.st_size}-{found.st_mtime_ns}"
