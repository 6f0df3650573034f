"""The score files of a run directory: a JSON line per view with its logits, or per failed sample.

Each process appends to a file of its own and begins a new one at every start, so that a line cut
off by a kill or a full disk is the last of its file and is recognized by its missing line break.

Shape legend: V views, K classes.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError, VideoDecodeError
from vtcli.runtime.files import write_error
from vtcli.runtime.io_errors import is_transient_io_error

Logits = Mapping[str, NDArray[np.float32]]
TRANSIENT_REASONS = ("io_error", "timeout", "crashed")


@dataclass(frozen=True)
class SampleFailure:
    """Why a sample could not be read.

    reason: one of `vtcli.errors.VideoReason`. transient: whether the same file may be readable at
    another time. path and stamp: the file that could not be read, and its state at that time.
    """

    reason: str
    error: str
    transient: bool = False
    path: str = ""
    stamp: str = ""

    @classmethod
    def from_error(cls, error: VideoDecodeError) -> SampleFailure:
        """Record an error together with the current state of the file that caused it."""
        return cls(
            reason=error.reason,
            error=str(error),
            transient=error.reason in TRANSIENT_REASONS or is_transient_io_error(error),
            path=os.path.abspath(error.path),
            stamp=change_stamp(error.path),
        )

    @property
    def may_succeed_now(self) -> bool:
        """Whether reading the sample again may succeed: transient, or the file has changed."""
        return self.transient or change_stamp(self.path) != self.stamp


def change_stamp(path: str) -> str:
    """Size, modification and status-change time of a file; changes whenever the file may have.

    `missing` if there is no file. Unlike `vtcli.data.samples.file_stamp` it also changes if a file
    is replaced by one of the same size and modification time, or if its permissions change.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


class RecordLocation(NamedTuple):
    """Where a line is stored; offset and length in bytes."""

    path: Path
    offset: int
    length: int


@dataclass
class Scores:
    """An index of all score files of a run.

    views: sample key -> view number -> where its logits are stored. failures: sample key -> its
    last failure. truncated_lines: number of lines that were cut off.
    """

    views: dict[str, dict[int, RecordLocation]] = field(default_factory=dict)
    failures: dict[str, SampleFailure] = field(default_factory=dict)
    truncated_lines: int = 0

    def add_file(self, path: Path) -> None:
        """Index the lines of one file."""
        offset = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    record = None
                if record is None:
                    self.truncated_lines += 1
                elif "failure" in record:
                    self.failures[record["key"]] = SampleFailure(**record["failure"])
                else:
                    location = RecordLocation(path, offset, len(line))
                    self.views.setdefault(record["key"], {})[record["view"]] = location
                offset += len(line)

    def failure(self, key: str, views: int) -> SampleFailure | None:
        """Why a sample of `views` views could not be read; None if a later attempt succeeded."""
        complete = len(self.views.get(key, ())) == views
        return None if complete else self.failures.get(key)

    def missing(self, key: str, views: int, retry_failures: bool = False) -> tuple[int, ...]:
        """Numbers of the views of a sample that are still to be scored.

        Those of a failed sample only if reading it again may succeed, or with `retry_failures`.
        """
        failure = self.failure(key, views)
        if failure and not (retry_failures or failure.may_succeed_now):
            return ()
        stored = self.views.get(key, ())
        return tuple(number for number in range(views) if number not in stored)

    def logits(self, key: str, numbers: Sequence[int], heads: Sequence[str]) -> Logits:
        """The logits [V,K] of some views of a sample, per head."""
        records = [_read_record(self.views[key][number]) for number in numbers]
        return {
            head: np.stack([_decode_logits(record["logits"][head]) for record in records])
            for head in heads
        }


def _read_record(location: RecordLocation) -> dict[str, Any]:
    with location.path.open("rb") as file:
        file.seek(location.offset)
        record: dict[str, Any] = json.loads(file.read(location.length))
    return record


def _decode_logits(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def view_record(
    key: str, sample_id: str, view: int, logits: Logits, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The line of one view; logits [K] per head. `warnings`: signs of damage in the file."""
    texts = {
        head: base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
        for head, values in logits.items()
    }
    record = {"key": key, "id": sample_id, "view": view, "logits": texts}
    return {**record, "warnings": list(warnings)} if warnings else record


def failure_record(key: str, sample_id: str, failure: SampleFailure) -> dict[str, Any]:
    """The line of a sample that could not be read."""
    return {"key": key, "id": sample_id, "failure": asdict(failure)}


class ScoreWriter:
    """Appends lines to a score file of its own, which is created at the first of them."""

    def __init__(self, folder: Path, rank: int) -> None:
        # Names sort by time, so that the last failure of a sample is the one that is indexed.
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S.%f")
        unique = uuid.uuid4().hex[:8]
        self.path = folder / f"{stamp}-{os.getpid()}-{unique}-rank{rank}.jsonl"
        self.file: IO[bytes] | None = None

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records; raises `DataError` if the disk is full or the folder has been removed."""
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            if self.file is None:
                self.file = self.path.open("xb", buffering=0)
            rest = memoryview(lines)
            while rest:
                rest = rest[self.file.write(rest) or 0 :]
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Flush the file to the disk and close it; raises `DataError` as `add` does."""
        if self.file is not None:
            try:
                os.fsync(self.file.fileno())
                self.file.close()
            except OSError as error:
                raise self._write_error(error) from error

    def _write_error(self, error: OSError) -> DataError:
        reason = write_error(self.path.parents[1], error)
        return DataError(
            f"{reason}; the scores so far are saved, run the same command again to resume"
        )
