"""Whether a dataset can be used: every video decoded, duplicates and leaks between splits found.

Videos are decoded in processes that can be killed, so that one at which a decoder hangs or crashes
is a finding like any other.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from vtcli.data.catalog import canonical_split
from vtcli.data.fingerprint import (
    Unreadable,
    VideoFingerprint,
    difference,
    digest,
    inspect,
    near_duplicate_pairs,
)
from vtcli.data.open import list_splits, open_dataset
from vtcli.data.samples import Dataset, Sample
from vtcli.errors import DataError, VideoReason
from vtcli.runtime.files import atomic_write
from vtcli.runtime.worker_pool import Heartbeat, WorkerFailure, imap_with_timeout
from vtcli.video.frame_source import FOLDER_RATE

if TYPE_CHECKING:
    from vtcli.runtime.progress import ProgressCallback

Problem: TypeAlias = Literal[VideoReason, "short", "segment", "duplicate", "leakage"]
PROBLEMS: Mapping[Problem, str] = {
    "not_found": "the file is not there",
    "not_video": "no video",
    "no_video_stream": "a file without a video stream",
    "unsupported": "coded in a way that is not read here",
    "corrupt": "cannot be decoded to the end",
    "missing_frames": "cut off, or frames are lost",
    "limit": "too large to be read",
    "timeout": "the decoder hung",
    "crashed": "the decoder crashed",
    "short": "too few frames",
    "segment": "the segment lies outside the video",
    "duplicate": "the same as another sample of the split",
    "leakage": "the same as a sample of another split",
}
"""What can be wrong with a sample, in the order it is looked for."""

MANIFEST_COLUMNS = ("path", "label", "split", "start", "end", "id")
# Annotations round the end of a segment up, often to whole seconds.
_ROUNDED_UP = 1.0

Inspected = TypeVar("Inspected")


@dataclass(frozen=True)
class Issue:
    """What is wrong with a sample; `other` is the sample that it equals, where that is it."""

    problem: Problem
    sample: Sample
    detail: str
    other: Sample | None = None


@dataclass(frozen=True)
class CheckResult:
    """What a check saw.

    `datasets` has one dataset per split, `videos` counts their files and folders of frames, and
    `contents` holds those of them that could be decoded to the end. `findings` are in the order of
    the samples, at most one for each.
    """

    datasets: tuple[Dataset, ...]
    videos: int
    contents: Mapping[Path, VideoFingerprint]
    findings: tuple[Issue, ...]

    def kept(self) -> Iterator[tuple[Dataset, Sample]]:
        """The samples with which nothing is wrong."""
        wrong = {finding.sample for finding in self.findings}
        for dataset in self.datasets:
            yield from ((dataset, sample) for sample in dataset.samples if sample not in wrong)


def open_splits(
    source: str | Path,
    root: str | Path | None = None,
    splits: Sequence[str] = (),
    format: str | None = None,
) -> tuple[Dataset, ...]:
    """The dataset of each split named, else of each that is there; see `open_dataset`."""
    named = tuple(dict.fromkeys(map(canonical_split, splits)))
    wanted = named or list_splits(source, root, format) or (None,)
    return tuple(open_dataset(source, root, split, format) for split in wanted)


def check_datasets(
    datasets: Sequence[Dataset],
    *,
    workers: int = 1,
    timeout: float = 120.0,
    min_frames: int = 2,
    inspect: Callable[[Path, Heartbeat], VideoFingerprint | Unreadable] = inspect,
    progress: ProgressCallback | None = None,
) -> CheckResult:
    """Decode every video of one dataset's splits and compare them all.

    Runs in `workers` processes; a video that gives no frame for `timeout` seconds is given up.
    `min_frames` is what a video or segment must have. Two videos are the same if their bytes are,
    or their fingerprints nearly (`vtcli.data.fingerprint`); of the samples that share one, those to
    test on are kept. `inspect` looks at one video, in a process of its own: an importable function,
    which may hang and crash.
    Raises `DataError` where there are no samples.
    """
    samples = [(dataset, sample) for dataset in datasets for sample in dataset.samples]
    videos = list(dict.fromkeys(sample.path for _, sample in samples))
    if not videos:
        raise DataError(f"dataset '{datasets[0].name}' has no samples; name another split")
    seen = dict(_in_processes(inspect, videos, workers, timeout, progress))
    hashed = dict(_in_processes(digest, _of_equal_size(seen), workers, timeout))
    digests = {path: found for path, found in hashed.items() if isinstance(found, str)}
    seen |= {path: found for path, found in hashed.items() if isinstance(found, Unreadable)}
    findings = {
        sample: finding
        for dataset, sample in samples
        if (finding := _own_problem(sample, seen[sample.path], dataset.frame_rate, min_frames))
    }
    contents = {path: found for path, found in seen.items() if isinstance(found, VideoFingerprint)}
    sound = [(dataset, sample) for dataset, sample in samples if sample not in findings]
    findings |= {f.sample: f for f in _copies(sound, contents, digests)}
    ordered = tuple(findings[sample] for _, sample in samples if sample in findings)
    return CheckResult(tuple(datasets), len(videos), contents, ordered)


def _in_processes(
    function: Callable[[Path, Heartbeat], Inspected],
    paths: Sequence[Path],
    workers: int,
    timeout: float,
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[Path, Inspected | Unreadable]]:
    """What a function makes of each path, as it is known; hanging and crashing included."""
    with closing(imap_with_timeout(function, paths, workers, timeout)) as outcomes:
        for number, (path, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, WorkerFailure):
                yield path, Unreadable(outcome.reason, outcome.detail)
            else:
                yield path, outcome
            if progress:
                progress(path.name, number, len(paths))


def _of_equal_size(seen: Mapping[Path, VideoFingerprint | Unreadable]) -> list[Path]:
    """The videos that may have the same bytes as another."""
    sizes = {
        path: found.size for path, found in seen.items() if isinstance(found, VideoFingerprint)
    }
    counts = Counter(sizes.values())
    return [path for path, size in sizes.items() if counts[size] > 1]


def _own_problem(
    sample: Sample, found: VideoFingerprint | Unreadable, frame_rate: float | None, min_frames: int
) -> Issue | None:
    """What is wrong with a sample whatever the others are."""
    if isinstance(found, Unreadable):
        return Issue(found.reason, sample, found.detail)
    start, end = _frames_of(sample, found, frame_rate)
    slack = round(_rate(found, frame_rate) * _ROUNDED_UP)
    if start >= found.frames or end > found.frames + slack:
        detail = f"has {found.frames} frames, and its segment is {start} to {end - 1}"
        return Issue("segment", sample, detail)
    frames = min(end, found.frames) - start
    if frames < min_frames:
        what = f"has {frames} frame{'s' * (frames != 1)}, fewer than {min_frames}"
        return Issue("short", sample, what)
    return None


def _rate(content: VideoFingerprint, frame_rate: float | None) -> float:
    """Frames per second; 0.0 where nobody knows."""
    return (frame_rate or FOLDER_RATE) if content.fps is None else content.fps


def _frames_of(
    sample: Sample, content: VideoFingerprint, frame_rate: float | None
) -> tuple[int, int]:
    """A sample's first frame and the one after its last, as `open_frame_source` counts them."""
    fps = _rate(content, frame_rate)
    start, end = sample.first_frame or 0, content.frames
    if sample.last_frame is not None:
        end = sample.last_frame + 1
    if fps and sample.start is not None:
        start = round(sample.start * fps)
    if fps and sample.end is not None:
        end = round(sample.end * fps)
    return start, end


def _copies(
    samples: Sequence[tuple[Dataset, Sample]],
    contents: Mapping[Path, VideoFingerprint],
    digests: Mapping[Path, str],
) -> Iterator[Issue]:
    """Samples that equal another one, which is kept: in another split, whatever the segments; in
    the same split, with the same segment.

    A dataset that is divided several times trains in one division on what it tests in another: each
    division is looked at by itself.
    """
    group_of = _groups(contents, digests)
    first: dict[tuple[Path, str], tuple[Dataset, Sample]] = {}
    twins: dict[tuple[object, ...], tuple[Dataset, Sample]] = {}
    for dataset, sample in sorted(samples, key=lambda pair: _rank(pair[1].split)):
        key = group_of[sample.path], _division(sample.split)
        segment = sample.start, sample.end, sample.first_frame, sample.last_frame
        kept = first.setdefault(key, (dataset, sample))
        if kept[1].split == sample.split:
            kept = twins.setdefault((*key, sample.split, *segment), (dataset, sample))
        if kept[1] is not sample:
            across = kept[1].split != sample.split
            how, much = _likeness(sample.path, kept[1].path, contents, digests)
            detail = f"{how} as '{kept[1].id}'" + f" of split '{kept[1].split}'" * across + much
            if label_of(*kept) != label_of(dataset, sample):
                detail += ", but their labels differ"
            yield Issue("leakage" if across else "duplicate", sample, detail, kept[1])


def _rank(split: str) -> int:
    """Of the same in two splits, the copy to test on is kept."""
    return 2 if split.startswith("train") else 0 if split == "test" else 1


def _division(split: str) -> str:
    """The number of a division (`1` and `train1`), empty for the usual splits."""
    digits = re.fullmatch(r"(?:train)?(\d+)", split)
    return digits[1] if digits else ""


def _likeness(
    path: Path, other: Path, contents: Mapping[Path, VideoFingerprint], digests: Mapping[Path, str]
) -> tuple[str, str]:
    """In what way two videos are the same, and how nearly."""
    if path == other:
        return "is the same file", ""
    if path in digests and digests[path] == digests.get(other):
        return "has the same bytes", ""
    levels = difference(contents[path].fingerprint, contents[other].fingerprint)
    return "shows the same", f" ({levels:.1f} of 255 levels apart)"


def _groups(
    contents: Mapping[Path, VideoFingerprint], digests: Mapping[Path, str]
) -> dict[Path, Path]:
    """For each video, the one that stands for all that are the same."""
    by_bytes: dict[str | Path, Path] = {}
    leader = {path: by_bytes.setdefault(digests.get(path, path), path) for path in contents}
    distinct = list(by_bytes.values())

    def lead(path: Path) -> Path:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    if distinct:
        shades = b"".join(contents[path].fingerprint for path in distinct)
        for a, b in near_duplicate_pairs(
            np.frombuffer(shades, np.uint8).reshape(len(distinct), -1)
        ):
            leader[lead(distinct[b])] = lead(distinct[a])
    return {path: lead(path) for path in contents}


def label_of(dataset: Dataset, sample: Sample) -> str:
    """A sample's class name, or its number where no one names it; several are joined."""
    names = tuple(dataset.classes.values())
    several = len(names) > 1
    return " ".join(
        names[place if several else 0][index] if names[place if several else 0] else str(index)
        for place, index in enumerate(sample.labels)
    )


def check_manifest(datasets: Sequence[Dataset], path: Path) -> None:
    """Refuse, before work begins, what a manifest cannot hold and where none can be written.

    Raises `DataError`.
    """
    name = datasets[0].name
    counts = {len(sample.labels) for dataset in datasets for sample in dataset.samples}
    if len(counts) > 1 or max(counts, default=0) > 1:
        amount = "one label" if max(counts) > 1 else "a label or has none throughout"
        raise DataError(
            f"a manifest gives each video {amount}, and '{name}' does not; leave -o out"
            + " or name the splits that have labels" * (len(counts) > 1)
        )
    for sample in (sample for dataset in datasets for sample in dataset.samples):
        if not _is_text(f"{sample.path}{sample.id}"):
            raise DataError(f"a manifest is UTF-8, and the name {sample.path} is not; rename it")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"cannot write {path}: no folder {folder} to write to; choose another")


def _is_text(name: str) -> bool:
    """Whether it can be written in UTF-8: file names may be any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_manifest(result: CheckResult, path: Path) -> int:
    """Write the samples with which nothing is wrong as a manifest; returns how many.

    Paths below the manifest's folder are relative to it. Raises `DataError` where it cannot be
    written.
    """
    folder = path.absolute().parent
    rows = [_row(dataset, sample, result.contents, folder) for dataset, sample in result.kept()]
    with (
        atomic_write(path, make_folder=False) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([MANIFEST_COLUMNS, *rows])
    return len(rows)


def lost_classes(result: CheckResult) -> list[str]:
    """Classes that had samples and have none left."""
    had = {label_of(dataset, s) for dataset in result.datasets for s in dataset.samples}
    return sorted(had - {label_of(dataset, sample) for dataset, sample in result.kept()} - {""})


def _row(
    dataset: Dataset, sample: Sample, contents: Mapping[Path, VideoFingerprint], folder: Path
) -> tuple[str, ...]:
    place = sample.path.absolute()
    start, end = sample.start, sample.end
    fps = _rate(contents[sample.path], dataset.frame_rate)
    if fps and sample.first_frame is not None:
        start = sample.first_frame / fps
    if fps and sample.last_frame is not None:
        end = (sample.last_frame + 1) / fps
    return (
        str(place.relative_to(folder) if place.is_relative_to(folder) else place),
        label_of(dataset, sample),
        sample.split,
        "" if start is None else repr(start),
        "" if end is None else repr(end),
        sample.id,
    )
