"""A run directory: what was evaluated, and every view's logits as they came.

    run.json        the model's digest, the protocol, the dataset and its classes: what a run is
    samples.jsonl   each sample with its key and its right classes
    scores/*.jsonl  a line per view, or per sample that could not be read; only ever appended to

Each process writes a file of its own and begins a new one at every start, so that a line cut off
by a kill or a full disk is the last of its file and is known by that. A sample's key changes with
its file, so that scores of another file are never taken for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.data.samples import Sample, file_stamp
from vtcli.errors import DataError, VideoDecodeError
from vtcli.runtime.files import atomic_write, write_error

SCHEMA = 1
Logits = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class RunSample:
    """One sample of a run: its key, and the model's classes that are right, per head."""

    id: str
    path: str
    key: str
    target: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SampleFailure:
    """Why a sample could not be read."""

    reason: str
    error: str


@dataclass
class Scores:
    """What the score files hold: where each view's logits lie, and what failed.

    views: sample key -> view number -> (file, offset, length). torn: lines that were cut off.
    """

    views: dict[str, dict[int, tuple[Path, int, int]]] = field(default_factory=dict)
    failed: dict[str, SampleFailure] = field(default_factory=dict)
    truncated_lines: int = 0

    def add_file(self, path: Path) -> None:
        """Note what one file holds."""
        offset = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    record = None
                if record is None:
                    self.truncated_lines += 1
                elif "failed" in record:
                    self.failed[record["key"]] = SampleFailure(**record["failed"])
                else:
                    place = (path, offset, len(line))
                    self.views.setdefault(record["key"], {})[record["view"]] = place
                offset += len(line)

    def missing(self, key: str, views: int) -> list[int]:
        """Numbers of the views of a sample that are neither scored nor known to have failed."""
        if key in self.failed:
            return []
        return [number for number in range(views) if number not in self.views.get(key, ())]

    def logits(self, key: str, numbers: Sequence[int], heads: Sequence[str]) -> Logits:
        """The logits [V,K] of some views of a sample, per head."""
        records = [_record_at(*self.views[key][number]) for number in numbers]
        return {
            head: np.stack([_numbers(record["logits"][head]) for record in records])
            for head in heads
        }


def _record_at(path: Path, offset: int, length: int) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(offset)
        record: dict[str, Any] = json.loads(file.read(length))
    return record


def _numbers(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


class ScoreWriter:
    """Appends records to a file of its own, a batch at a time."""

    def __init__(self, folder: Path, rank: int) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        unlike = uuid.uuid4().hex[:8]
        self.path = folder / f"{stamp}-{os.getpid()}-{unlike}-rank{rank}.jsonl"
        self.file: IO[bytes] | None = None

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records; raises `DataError` where the disk is full or the folder is gone."""
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            if self.file is None:
                self.file = self.path.open("xb", buffering=0)
            rest = memoryview(lines)
            while rest:
                rest = rest[self.file.write(rest) or 0 :]
        except OSError as error:
            raise _unwritable(self.path.parents[1], error) from error

    def close(self) -> None:
        """Nothing is left to be written by then; the file is on the disk."""
        if self.file is not None:
            try:
                os.fsync(self.file.fileno())
                self.file.close()
            except OSError as error:
                raise _unwritable(self.path.parents[1], error) from error


def _unwritable(folder: Path, error: OSError) -> DataError:
    why = write_error(folder, error)
    return DataError(f"{why}; what was scored is kept, run the same command again to go on")


def view_record(sample: RunSample, view: int, logits: Logits) -> dict[str, Any]:
    """The line of one view; logits [K] per head."""
    texts = {
        head: base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
        for head, values in logits.items()
    }
    return {"key": sample.key, "id": sample.id, "view": view, "logits": texts}


def failure_record(sample: RunSample, error: VideoDecodeError) -> dict[str, Any]:
    """The line of a sample that could not be read."""
    return {
        "key": sample.key,
        "id": sample.id,
        "failed": {"reason": error.reason, "error": str(error)},
    }


def sample_key(sample: Sample) -> str:
    """Short digest of what a sample is: its id, its part of the video, its file's size and time.

    Whether the file may be read is part of it: permissions change without the file's time.
    """
    said = (sample.id, sample.start, sample.end, sample.first_frame, sample.last_frame)
    file = (file_stamp(sample), os.access(sample.path, os.R_OK))
    return hashlib.sha256(repr((said, file)).encode()).hexdigest()[:20]


class RunDirectory:
    """One run on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def about(self) -> dict[str, Any]:
        """What the run is; raises `DataError` where the folder holds no run."""
        try:
            about = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            if about["schema"] > SCHEMA:
                raise DataError(f"{self.folder} was written by a newer version; update vtcli")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.folder} holds no evaluation; name the folder that vt eval -o wrote"
            ) from error
        return dict(about)

    def samples(self) -> list[RunSample]:
        """All samples, in the dataset's order; raises `DataError` before they are written."""
        try:
            text = (self.folder / "samples.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder} was stopped before it began; run the same vt eval command again"
            ) from error
        tables = map(json.loads, text.splitlines())
        return [RunSample(**{**t, "target": tuple(map(tuple, t["target"]))}) for t in tables]

    def scores(self) -> Scores:
        """All that has been scored so far."""
        scores = Scores()
        for path in sorted((self.folder / "scores").glob("*.jsonl")):
            scores.add_file(path)
        return scores

    def writer(self, rank: int) -> ScoreWriter:
        """Where one process's scores go."""
        return ScoreWriter(self.folder / "scores", rank)

    @contextmanager
    def claimed(
        self, about: Mapping[str, Any], notes: Mapping[str, Any], resume: bool
    ) -> Iterator[None]:
        """Make the folder, or go on in it, and keep other runs out meanwhile.

        `about` says what the run is and must be the same when it goes on; `notes` may differ.
        Raises `DataError` where another run is writing there, where it holds a run of another
        model, protocol or dataset, or any run unless `resume`.
        """
        from filelock import FileLock, Timeout

        held = FileLock(self.folder / ".lock")
        try:
            (self.folder / "scores").mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
        except Timeout as error:
            raise DataError(
                f"{self.folder} is being written by another run; wait for it, or name another "
                "folder with -o"
            ) from error
        except OSError as error:
            raise write_error(self.folder, error) from error
        try:
            self._claim(about, notes, resume)
            yield
        finally:
            held.release()

    def _claim(self, about: Mapping[str, Any], notes: Mapping[str, Any], resume: bool) -> None:
        if not (self.folder / "run.json").exists():
            if any((self.folder / "scores").iterdir()):
                raise DataError(f"{self.folder} holds scores without run.json; name another folder")
            self._write("run.json", json.dumps({"schema": SCHEMA, **about, **notes}, indent=1))
            return
        if not resume:
            raise DataError(
                f"{self.folder} holds a run already; name another folder with -o, or leave out "
                "--no-resume to go on with it"
            )
        old = self.about
        for name, value in json.loads(json.dumps(about)).items():
            if old.get(name) != value:
                what = _difference(name, old.get(name), value)
                raise DataError(
                    f"{self.folder} holds a run of another {what}; name another folder with -o"
                )

    def write_samples(self, samples: Sequence[RunSample]) -> None:
        """Note what the run consists of.

        Raises `DataError` where the folder has scores and none of them are of these samples: then
        they are another dataset's, of the same name.
        """
        if self._holds_only_others({sample.key for sample in samples}):
            raise DataError(
                f"{self.folder} holds a run of other videos, or all of them have changed; name "
                "another folder with -o"
            )
        # In ASCII: names may hold separators that end lines, and bytes that are no UTF-8.
        lines = [json.dumps(asdict(sample)) for sample in samples]
        self._write("samples.jsonl", "".join(f"{line}\n" for line in lines))

    def _holds_only_others(self, keys: Set[str]) -> bool:
        if not (self.folder / "samples.jsonl").exists():
            return False
        if any(sample.key in keys for sample in self.samples()):
            return False
        scored = self.scores().views.keys()
        return bool(scored) and scored.isdisjoint(keys)

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.folder / name, len(text)) as part:
            part.write_text(text, encoding="utf-8")


def _difference(name: str, old: Any, new: Any) -> str:
    """The first thing that differs, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return _difference(f"{name} ({key})", old.get(key), new[key])
    if name == "model_sha256":
        return "model (the digest of its weights is another)"
    if isinstance(old, str | int | float | None) and isinstance(new, str | int | float | None):
        return f"{name}: '{old}', not '{new}'"
    return name
