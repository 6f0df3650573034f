"""Failures are tried again if reading the sample may succeed now, and only then."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vtcli.errors import VideoDecodeError
from vtcli.evaluation.scores import (
    SampleFailure,
    Scores,
    ScoreWriter,
    change_stamp,
    failure_record,
    view_record,
)

VIEWS = 2
LOGITS = {"action": np.array([1.0, 2.0], np.float32)}


def failure(path: Path, reason: str = "corrupt", cause: Exception | None = None) -> SampleFailure:
    error = VideoDecodeError(path, reason, "cannot be read; copy it again")  # type: ignore[arg-type]
    error.__cause__ = cause
    return SampleFailure.from_error(error)


def index(folder: Path, *records: dict[str, object]) -> Scores:
    """Write each record into a file of its own, as runs one after the other do."""
    (folder / "scores").mkdir(exist_ok=True)
    for record in records:
        writer = ScoreWriter(folder / "scores", rank=0)
        writer.add([record])
        writer.close()
    scores = Scores()
    for path in sorted((folder / "scores").iterdir()):
        scores.add_file(path)
    return scores


@pytest.mark.parametrize(
    ("reason", "cause", "transient"),
    [
        ("corrupt", None, False),
        ("corrupt", ValueError("invalid data"), False),
        ("not_found", FileNotFoundError(errno.ENOENT, "No such file"), False),
        ("io_error", None, True),
        ("timeout", None, True),
        ("crashed", None, True),
        ("corrupt", OSError(errno.EIO, "Input/output error"), True),
        ("not_found", OSError(errno.ESTALE, "Stale file handle"), True),
    ],
)
def test_io_errors_timeouts_and_crashes_are_transient(
    reason: str, cause: Exception | None, transient: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    found = failure(tmp_path / "a.mp4", reason, cause)
    assert (found.transient, found.may_succeed_now) == (transient, transient)


def test_a_failure_is_final_until_its_file_changes(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"video")
    found = failure(video)
    assert not found.may_succeed_now
    video.write_bytes(b"a longer video")
    assert found.may_succeed_now
    gone = failure(tmp_path / "b.mp4", "not_found")
    assert not gone.may_succeed_now
    (tmp_path / "b.mp4").write_bytes(b"video")
    assert gone.may_succeed_now


@pytest.mark.skipif(os.name == "nt", reason="Windows has no status-change time")
def test_a_file_replaced_by_one_of_the_same_size_and_time_has_changed(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"wrong")
    status = video.stat()
    stamp = change_stamp(str(video))
    (tmp_path / "b.mp4").write_bytes(b"right")
    (tmp_path / "b.mp4").replace(video)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert video.stat().st_mtime_ns == status.st_mtime_ns
    assert change_stamp(str(video)) != stamp


def test_views_of_a_failed_sample_are_missing_only_if_it_is_tried_again(tmp_path: Path) -> None:
    final = failure_record("a", "a", failure(tmp_path / "a.mp4"))
    transient = failure_record("b", "b", failure(tmp_path / "b.mp4", "timeout"))
    scores = index(tmp_path, final, transient)
    assert scores.missing("a", VIEWS) == ()
    assert scores.missing("a", VIEWS, retry_failures=True) == (0, 1)
    assert scores.missing("b", VIEWS) == (0, 1)
    assert scores.missing("c", VIEWS) == (0, 1)


def test_scores_of_a_later_attempt_replace_a_failure(tmp_path: Path) -> None:
    failed = failure_record("a", "a", failure(tmp_path / "a.mp4", "timeout"))
    half = index(tmp_path, failed, view_record("a", "a", 0, LOGITS))
    assert half.failure("a", VIEWS) is not None
    assert half.missing("a", VIEWS) == (1,)
    whole = index(tmp_path, view_record("a", "a", 1, LOGITS))
    assert whole.failure("a", VIEWS) is None
    assert whole.missing("a", VIEWS, retry_failures=True) == ()


def test_the_last_failure_of_a_sample_counts(tmp_path: Path) -> None:
    records = [
        failure_record("a", "a", failure(tmp_path / "a.mp4", reason))
        for reason in ("timeout", "crashed", "corrupt")
    ]
    found = index(tmp_path, *records).failure("a", VIEWS)
    assert found is not None
    assert found.reason == "corrupt"
