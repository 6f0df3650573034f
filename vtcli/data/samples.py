"""What every annotation format is read into: samples, and the dataset they make up.

No PyTorch and no decoder here. A sample is one labeled video, a folder of its frames, or a segment
of either; a dataset is a list of samples and the class names their labels stand for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vtcli.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One labeled video, or a segment of one.

    `id` is unique in its dataset and the same on every machine (a relative path or the annotation's
    own id, never an absolute path). `path` is a video file or a folder with one image per frame.
    `labels` hold one class index per head of the dataset, in its order, or several for one head
    where an annotation gives several; empty where the annotation gives none (a test split).
    `start` and `end` are seconds from the beginning of the video, `first_frame` and `last_frame`
    frame numbers from 0, both ends included; None: the whole video.
    """

    id: str
    path: Path
    labels: tuple[int, ...] = ()
    start: float | None = None
    end: float | None = None
    first_frame: int | None = None
    last_frame: int | None = None
    split: str = ""


@dataclass(frozen=True)
class Dataset:
    """Samples and their classes.

    `classes` holds the class names of each head in index order ({"action": ...}, or {"verb": ...,
    "noun": ...}); an empty tuple where the annotation gives numbers and no source names them.
    `summary` is one sentence on what was read: format, number base, samples, classes.
    `frame_rate` counts for folders of frames, which do not say it themselves; None where no one
    says it.
    """

    name: str
    samples: tuple[Sample, ...]
    classes: Mapping[str, tuple[str, ...]]
    summary: str
    root: Path
    split: str = ""
    frame_rate: float | None = None
    metric: str = "top-1"

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the label columns, `action` where there is one."""
        return tuple(self.classes)


def labels_by_head(sample: Sample, heads: int) -> tuple[tuple[int, ...], ...]:
    """The right classes for each head: one head may have several, of several heads each has one."""
    return (sample.labels,) if heads == 1 else tuple((label,) for label in sample.labels)


def require_labels(dataset: Dataset, use: str) -> None:
    """Raise `DataError` for a dataset without samples, or with unlabeled ones.

    use: what they are for, as in "to `use`" ("evaluate", "train on").
    """
    if not dataset.samples:
        raise DataError(f"{dataset.name} has no samples to {use}; check its annotation")
    bare = sum(not sample.labels for sample in dataset.samples)
    if bare:
        raise DataError(
            f"{bare} of the {len(dataset.samples)} samples of {dataset.name} {dataset.split} have "
            f"no label; {use} another split"
        )


def file_stamp(sample: Sample) -> str:
    """What tells a changed file from the one read before: size and time of change in nanoseconds.

    `missing` where there is nothing at the path.
    """
    try:
        found = os.stat(sample.path)
    except OSError:
        return "missing"
    return f"{found.st_size}-{found.st_mtime_ns}"
