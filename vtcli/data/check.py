"""Checks a dataset: decodes every video, and finds duplicates and leakage between splits.

Videos are decoded in worker processes that can be killed, so that one on which a decoder hangs or
crashes is reported like any other.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtcli.data.annotations.base import HARMLESS, SKIPPED, are_numbers
from vtcli.data.annotations.manifest import LABEL_SEPARATOR
from vtcli.data.catalog import canonical_split
from vtcli.data.fingerprint import (
    Unreadable,
    VideoFingerprint,
    digest,
    group_copies,
    inspect,
    thumbnail_rmse,
)
from vtcli.data.issues import CheckResult, Issue
from vtcli.data.open import DatasetReader
from vtcli.data.samples import Dataset, Sample, require_files, used_names
from vtcli.errors import DataError, VideoDecodeError
from vtcli.runtime.csv_cells import write_csv
from vtcli.runtime.files import atomic_write
from vtcli.runtime.words import plural
from vtcli.runtime.worker_pool import Heartbeat, WorkerFailure, imap_with_timeout
from vtcli.video.frame_source import FOLDER_RATE, miscounted
from vtcli.video.times import END_SLACK, continued, even_times, segment_in_seconds

if TYPE_CHECKING:
    from vtcli.runtime.progress import ProgressCallback

MANIFEST_COLUMNS = ("path", "label", "split", "start", "end", "id")

Result = TypeVar("Result")


def open_splits(
    source: str | Path,
    root: str | Path | None = None,
    splits: Sequence[str] = (),
    format: str | None = None,
) -> tuple[Dataset, ...]:
    """The dataset of each named split, by default of every split; see `open_dataset`.

    Rows that `open_dataset` refuses are in `Dataset.problems`.
    """
    reader = DatasetReader(source, root, format, strict=False)
    named = tuple(dict.fromkeys(map(canonical_split, splits)))
    return tuple(map(reader.open, named or reader.list_splits() or (None,)))


def check_datasets(
    datasets: Sequence[Dataset],
    *,
    workers: int = 1,
    timeout: float = 120.0,
    min_frames: int = 2,
    inspect: Callable[[Path, Heartbeat], VideoFingerprint | Unreadable] = inspect,
    progress: ProgressCallback | None = None,
) -> CheckResult:
    """Decode every video of one dataset's splits and compare all of them.

    workers: number of processes, at least one: a decoder that hangs is killed.
    timeout: seconds without a decoded frame after which a video is given up.
    min_frames: the smallest valid length of a video or segment.
    inspect: decodes one video in a worker process; an importable function, which may hang or crash.
    Two videos are the same if their bytes are, or if their thumbnails nearly are
    (`vtcli.data.fingerprint`); of two samples that are the same, the one to test on is kept.
    Raises `DataError` if there are no samples, or if they are URLs.
    """
    for dataset in datasets:
        require_files(dataset, "check")
    samples = [(dataset, sample) for dataset in datasets for sample in dataset.samples]
    videos = list(dict.fromkeys(sample.path for _, sample in samples))
    if not videos:
        raise DataError(f"dataset '{datasets[0].name}' has no samples; name another split")
    seen = dict(_in_processes(inspect, videos, workers, timeout, progress))
    hashed = dict(_in_processes(digest, _of_equal_size(seen), workers, timeout))
    digests = {path: found for path, found in hashed.items() if isinstance(found, str)}
    seen |= {path: found for path, found in hashed.items() if isinstance(found, Unreadable)}
    issues = {
        sample: issue
        for dataset, sample in samples
        if (issue := _own_issue(sample, seen[sample.path], dataset.frame_rate, min_frames))
    }
    fingerprints = {p: found for p, found in seen.items() if isinstance(found, VideoFingerprint)}
    valid = [(dataset, sample) for dataset, sample in samples if sample not in issues]
    issues |= {issue.sample: issue for issue in _copies(valid, fingerprints, digests)}
    ordered = [issues[sample] for _, sample in samples if sample in issues]
    ordered += _outside_samples(datasets)
    return CheckResult(tuple(datasets), len(videos), fingerprints, tuple(ordered))


def _outside_samples(datasets: Sequence[Dataset]) -> Iterator[Issue]:
    """Rows without a usable sample, and files of the dataset that may be lost videos."""
    seen: set[object] = set()
    for dataset in datasets:
        for row in dataset.problems:
            path = dataset.root / row.path
            sample = Sample(row.path, path, split=canonical_split(row.split) or dataset.split)
            if row not in seen:
                yield Issue(row.kind, sample, row.text)
            seen.add(row)
        for found in dataset.skipped:
            if found.kind not in HARMLESS and found.path not in seen:
                sample = Sample(found.path, dataset.root / found.path, split=found.split)
                yield Issue("skipped", sample, f"is a {SKIPPED[found.kind][0]}")
            seen.add(found.path)


def _in_processes(
    function: Callable[[Path, Heartbeat], Result],
    paths: Sequence[Path],
    workers: int,
    timeout: float,
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[Path, Result | Unreadable]]:
    """The result of a function for each path as it completes; hangs and crashes are results too."""
    with closing(imap_with_timeout(function, paths, max(1, workers), timeout)) as outcomes:
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


def _own_issue(
    sample: Sample, found: VideoFingerprint | Unreadable, frame_rate: float | None, min_frames: int
) -> Issue | None:
    """What is wrong with a sample by itself."""
    if isinstance(found, Unreadable):
        return Issue(found.reason, sample, found.detail)
    try:
        start, end = _frames_of(sample, found, frame_rate)
    except VideoDecodeError as error:
        return Issue("segment", sample, error.message)
    slack = round(_rate(found, frame_rate) * END_SLACK)
    if start >= found.frames or end > found.frames + slack:
        detail = f"has {plural(found.frames, 'frame')}, and its segment is {start} to {end - 1}"
        return Issue("segment", sample, detail)
    frames = min(end, found.frames) - start
    if frames < min_frames:
        return Issue("short", sample, f"has {plural(frames, 'frame')}, fewer than {min_frames}")
    if found.fps is None and (text := miscounted(found.frames, sample.frames)):
        return Issue("frame_count", sample, text[0])
    if found.warnings:
        return Issue("damaged", sample, "; ".join(found.warnings))
    return None


def _rate(fingerprint: VideoFingerprint, frame_rate: float | None) -> float:
    """Frames per second; 0.0 if not known."""
    return (frame_rate or FOLDER_RATE) if fingerprint.fps is None else fingerprint.fps


def _frames_of(
    sample: Sample, fingerprint: VideoFingerprint, frame_rate: float | None
) -> tuple[int, int]:
    """A sample's first frame and the one after its last, counted as `open_frame_source` does.

    Raises `VideoDecodeError` for a segment in seconds that is outside the video.
    """
    seconds = sample.start, sample.end
    times = _times(fingerprint, frame_rate)
    if seconds != (None, None) and len(times):
        return segment_in_seconds(sample.path, times, seconds)
    start, end = sample.first_frame or 0, fingerprint.frames
    if sample.last_frame is not None:
        end = sample.last_frame + 1
    return start, end


def _times(fingerprint: VideoFingerprint, frame_rate: float | None) -> NDArray[np.float64]:
    """The times of a video's frames, as of a `FrameSource`."""
    if fingerprint.times is not None:
        return fingerprint.times
    return even_times(fingerprint.frames, _rate(fingerprint, frame_rate))


def _copies(
    samples: Sequence[tuple[Dataset, Sample]],
    fingerprints: Mapping[Path, VideoFingerprint],
    digests: Mapping[Path, str],
) -> Iterator[Issue]:
    """Samples that are the same as another one, which is kept: in another split, whatever the
    segments; in the same split, with the same segment.

    A dataset with several official splits trains in one on what it tests in another, so each of
    them is compared separately.
    """
    group_of = group_copies(fingerprints, digests)
    first: dict[tuple[Path, str], tuple[Dataset, Sample]] = {}
    twins: dict[tuple[object, ...], tuple[Dataset, Sample]] = {}
    for dataset, sample in sorted(samples, key=lambda pair: _rank(pair[1].split)):
        key = group_of[sample.path], _official_split(sample.split)
        segment = sample.start, sample.end, sample.first_frame, sample.last_frame
        kept = first.setdefault(key, (dataset, sample))
        if kept[1].split == sample.split:
            kept = twins.setdefault((*key, sample.split, *segment), (dataset, sample))
        if kept[1] is not sample:
            across = kept[1].split != sample.split
            how, distance = _similarity(sample.path, kept[1].path, fingerprints, digests)
            detail = f"{how} as '{kept[1].id}'" + f" of split '{kept[1].split}'" * across + distance
            if label_of(*kept) != label_of(dataset, sample):
                detail += ", but their labels differ"
            yield Issue("leakage" if across else "duplicate", sample, detail, kept[1])


def _rank(split: str) -> int:
    """The order in which samples are kept: those to test on first."""
    return 2 if split.startswith("train") else 0 if split == "test" else 1


def _official_split(split: str) -> str:
    """The number of an official split (`1` and `train1`), empty for the usual splits."""
    digits = re.fullmatch(r"(?:train)?(\d+)", split)
    return digits[1] if digits else ""


def _similarity(
    path: Path,
    other: Path,
    fingerprints: Mapping[Path, VideoFingerprint],
    digests: Mapping[Path, str],
) -> tuple[str, str]:
    """In what way two videos are the same, and their distance."""
    if path == other:
        return "is the same file", ""
    if path in digests and digests[path] == digests.get(other):
        return "has the same bytes", ""
    rmse = thumbnail_rmse(fingerprints[path].thumbnails, fingerprints[other].thumbnails)
    return "shows the same", f" (RMSE {rmse:.1f} of 255 gray levels)"


def label_of(dataset: Dataset, sample: Sample) -> str:
    """A sample's class name, or its number if it has no name; several are joined by spaces."""
    names = tuple(dataset.classes.values())
    several = len(names) > 1
    return " ".join(
        names[position if several else 0][index]
        if names[position if several else 0]
        else str(index)
        for position, index in enumerate(sample.labels)
    )


def check_manifest(datasets: Sequence[Dataset], path: Path) -> None:
    """Check before the long work begins that the samples fit into a manifest at `path`.

    Raises `DataError` for samples that a manifest cannot hold and for a folder that cannot be
    written to.
    """
    name = datasets[0].name
    counts = {len(sample.labels) for dataset in datasets for sample in dataset.samples}
    if max(counts, default=0) > 1:
        raise DataError(
            f"a manifest has one label per video, but '{name}' has several; leave -o out"
        )
    classes = {label for dataset in datasets for of in dataset.classes.values() for label in of}
    if joined := sorted(label for label in classes if LABEL_SEPARATOR in label):
        raise DataError(
            f"the class name '{joined[0]}' has a semicolon, which separates labels in a manifest; "
            "rename it, or leave -o out"
        )
    if len(counts) > 1:
        raise DataError(
            f"a manifest has a label for every video or for none, but only some videos of '{name}' "
            "have one; leave -o out, or name the splits that have labels with --split"
        )
    for dataset in datasets:
        used = used_names(dataset) if len(dataset.heads) == 1 else []
        if are_numbers(used) and used != [str(number) for number in range(len(used))]:
            raise DataError(
                f"the class names of '{name}' are digits, such as '{used[0]}', which would be read "
                "as class numbers from a manifest; leave -o out, or rename the classes"
            )
    for sample in (sample for dataset in datasets for sample in dataset.samples):
        if not _is_text(f"{sample.path}{sample.id}"):
            raise DataError(f"a manifest is UTF-8, and the name {sample.path} is not; rename it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"cannot write {path}: {folder} is not a writable folder; choose another")


def _is_text(name: str) -> bool:
    """Whether a name can be encoded as UTF-8; file names may be any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_manifest(result: CheckResult, path: Path) -> int:
    """Write the samples without an issue as a manifest; returns their number.

    Paths below the manifest's folder are relative to it. Raises `DataError` if it cannot be
    written.
    """
    folder = path.absolute().parent
    rows = [_row(dataset, sample, result.fingerprints, folder) for dataset, sample in result.kept()]
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        write_csv(file, [MANIFEST_COLUMNS, *rows])
    return len(rows)


def lost_classes(result: CheckResult) -> list[str]:
    """Class names that had samples and have none left."""
    had = {label_of(dataset, s) for dataset in result.datasets for s in dataset.samples}
    return sorted(had - {label_of(dataset, sample) for dataset, sample in result.kept()} - {""})


def _row(
    dataset: Dataset, sample: Sample, fingerprints: Mapping[Path, VideoFingerprint], folder: Path
) -> tuple[str, ...]:
    path = sample.path.absolute()
    start, end = sample.start, sample.end
    found = fingerprints[sample.path]
    last = (sample.last_frame or 0) + 1
    times = continued(_times(found, dataset.frame_rate), last, _rate(found, dataset.frame_rate))
    if len(times) and sample.first_frame is not None:
        start = float(times[sample.first_frame])
    if len(times) and sample.last_frame is not None:
        end = float(times[min(last, len(times) - 1)])
    return (
        str(path.relative_to(folder) if path.is_relative_to(folder) else path),
        label_of(dataset, sample),
        sample.split,
        "" if start is None else repr(start),
        "" if end is None else repr(end),
        sample.id,
    )
