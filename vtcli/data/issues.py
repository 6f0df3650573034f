"""What a check of a dataset can find: the kinds of problems, and the records of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vtcli.data.fingerprint import VideoFingerprint
from vtcli.data.samples import Dataset, Sample
from vtcli.errors import VideoReason

Problem: TypeAlias = Literal[
    VideoReason,
    "damaged",
    "short",
    "segment",
    "frame_count",
    "duplicate",
    "leakage",
    "listed_twice",
    "unlabeled",
    "skipped",
]
PROBLEMS: Mapping[Problem, str] = {
    "not_found": "the file does not exist",
    "not_video": "not a video",
    "no_video_stream": "a file without a video stream",
    "unsupported": "the codec is not supported",
    "corrupt": "cannot be decoded to the end",
    "missing_frames": "truncated, or frames are missing",
    "io_error": "cannot be read (I/O error)",
    "limit": "too large to be read",
    "timeout": "the decoder hung",
    "crashed": "the decoder crashed",
    "damaged": "readable, but with signs of damage",
    "short": "too few frames",
    "segment": "the segment is outside the video",
    "frame_count": "a folder with another number of frames than the list states",
    "duplicate": "the same as another sample of the split",
    "leakage": "the same as a sample of another split",
    "listed_twice": "listed more than once",
    "unlabeled": "without a label, but other samples have one",
    "skipped": "in the folder of the dataset, but not one of its samples",
}
"""What can be wrong with a sample, in the order it is checked."""


@dataclass(frozen=True)
class Issue:
    """What is wrong with a sample; `other` is the sample it duplicates, None for other problems."""

    problem: Problem
    sample: Sample
    detail: str
    other: Sample | None = None


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    `datasets` has one dataset per split, `videos` counts their files and folders of frames, and
    `fingerprints` has those of them that could be decoded to the end. `issues` are in the order of
    the samples, at most one per sample; then those of rows and files that are not samples.
    """

    datasets: tuple[Dataset, ...]
    videos: int
    fingerprints: Mapping[Path, VideoFingerprint]
    issues: tuple[Issue, ...]

    def kept(self) -> Iterator[tuple[Dataset, Sample]]:
        """The samples without an issue."""
        with_issue = {issue.sample for issue in self.issues}
        for dataset in self.datasets:
            yield from ((dataset, s) for s in dataset.samples if s not in with_issue)
