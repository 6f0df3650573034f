"""The result of reading any annotation format: samples, and the dataset they make up.

No PyTorch and no decoder here. A sample is one labeled video, one labeled folder of frames, or a
segment of either; a dataset is a list of samples and the class names that their labels index.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vtcli.errors import DataError
from vtcli.video.remote import is_url

if TYPE_CHECKING:
    from vtcli.data.annotations.base import RowProblem, Skipped


class _TextAsPath:
    """A field that is kept as text in `filename`: of a million samples, making the `Path` objects
    takes as long as reading the list, and most are used one at a time.
    """

    def __get__(self, sample: Sample | None, owner: type | None = None) -> Path:
        if sample is None:
            raise AttributeError("the field has no default")
        name = sample.filename
        # A Path would take away one of a URL's slashes.
        return cast(Path, name) if is_url(name) else Path(name)

    def __set__(self, sample: Sample, path: str | Path) -> None:
        object.__setattr__(sample, "filename", str(path))


@dataclass(frozen=True)
class Sample:
    """One labeled video, or a segment of one.

    `id` is unique in its dataset and the same on every machine (a relative path or the annotation's
    own id, never an absolute path). `path` is a video file or a folder with one image per frame;
    `filename` is the same as text.
    `labels` are class indices: one per head of the dataset, in the order of its heads, or any
    number of them if there is one head; empty if the annotation gives none (a test split).
    `start` and `end` are in seconds, `first_frame` and `last_frame` are frame numbers from 0, both
    inclusive; None: the whole video. `frames` is how many frames the annotation states, which is
    compared with the images in a folder of frames. `columns` are other columns of its row in the
    annotation, by name in lower case.
    """

    id: str
    path: _TextAsPath = _TextAsPath()
    labels: tuple[int, ...] = ()
    start: float | None = None
    end: float | None = None
    first_frame: int | None = None
    last_frame: int | None = None
    frames: int | None = None
    split: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    filename: str = field(init=False, compare=False, repr=False)


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


def used_names(dataset: Dataset) -> list[str]:
    """The class names of the first head that the samples have, in index order."""
    names = next(iter(dataset.classes.values()))
    indices = {index for sample in dataset.samples for index in sample.labels}
    return [names[index] for index in sorted(indices)] if names else []


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
        name = f"{dataset.name} {dataset.split}".strip()
        way = f"{use} another split" if dataset.split else "add a column 'label'"
        raise DataError(
            f"{unlabeled} of the {len(dataset.samples)} samples of {name} have no label; {way}"
        )


def require_files(dataset: Dataset, use: str) -> None:
    """Raise `DataError` for a dataset that lists URLs, where the videos are read many times."""
    remote = next((s.filename for s in dataset.samples if is_url(s.filename)), "")
    if remote:
        raise DataError(
            f"{dataset.name} lists URLs, such as {remote}, and vt can {use} files only; download "
            "them and list the files (vt eval --dataset and vt predict --from-file read URLs)"
        )


def file_stamp(sample: Sample) -> str:
    """Size and modification time (ns) of a sample's file, which change when the file does;
    `missing` if there is no file.
    """
    try:
        found = os.stat(sample.filename)
    except OSError:
        return "missing"
    return f"{found.st_size}-{found.st_mtime_ns}"


def sample_of(path: str) -> Sample:
    """A video without labels, by its path or URL."""
    return Sample(path, path)
