"""A run directory: what was evaluated, and the logits of every view.

    run.json        format number, digest of the weights, protocol, dataset and class names
    samples.jsonl   each sample with its key and its targets
    scores/*.jsonl  a line per view, or per sample that could not be read; see scores.py

The key of a sample changes with its file, so that scores of another file are never used for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from vtcli.data.samples import Sample, file_stamp
from vtcli.errors import DataError
from vtcli.evaluation.scores import Scores, ScoreWriter
from vtcli.runtime.files import atomic_write, write_error
from vtcli.runtime.run_lock import lock_run_directory

RUN_FORMAT = 2
"""Format 1 stored other keys in all three files."""
SAMPLES_AT_A_TIME = 1000
"""Samples that are stored between two reports of progress; it takes about 10 ms."""
FLAGS = ("strict", "compile")
"""Entries of run.json that are only there where the option is given."""

HeadTargets: TypeAlias = tuple[tuple[int, ...], ...]
"""The correct classes of a sample, in the model's numbering, for each head."""


class RunSample(NamedTuple):
    """One sample of a run with its key."""

    id: str
    path: str
    key: str
    target: HeadTargets


def sample_key(sample: Sample) -> str:
    """Short digest of a sample: its id, its segment, and the size and time of its file.

    It also depends on whether the file is readable, since permissions change without the
    modification time.
    """
    identity = (sample.id, sample.start, sample.end, sample.first_frame, sample.last_frame)
    file = (file_stamp(sample), os.access(sample.filename, os.R_OK))
    return hashlib.sha256(repr((identity, file)).encode()).hexdigest()[:20]


class RunDirectory:
    """One run on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def info(self) -> dict[str, Any]:
        """The contents of run.json.

        Raises `DataError` if the folder holds no run, or one in another format.
        """
        try:
            info = dict(json.loads((self.folder / "run.json").read_text(encoding="utf-8")))
            is_older = "schema" in info  # the key of the format number in format 1
            number = int(info["schema" if is_older else "format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.folder} does not contain an evaluation; name the folder that was given to "
                "vt eval -o"
            ) from error
        if is_older or number < RUN_FORMAT:
            raise DataError(
                f"{self.folder} was written by an older version of vt and cannot be read by this "
                "one; evaluate again into another folder with vt eval -o"
            )
        if number > RUN_FORMAT:
            raise DataError(f"{self.folder} was written by a newer version of vt; upgrade vtcli")
        return info

    def samples(self) -> list[RunSample]:
        """All samples, in the order of the dataset; raises `DataError` if none are stored yet."""
        try:
            text = (self.folder / "samples.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder} was interrupted before anything was scored; run the same vt eval "
                "command again"
            ) from error
        tables = map(json.loads, text.splitlines())
        return [RunSample(**{**t, "target": tuple(map(tuple, t["target"]))}) for t in tables]

    def scores(self) -> Scores:
        """Everything scored so far."""
        scores = Scores()
        for path in sorted((self.folder / "scores").glob("*.jsonl")):
            scores.add_file(path)
        return scores

    def writer(self, rank: int) -> ScoreWriter:
        """The writer of one process's scores."""
        return ScoreWriter(self.folder / "scores", rank)

    @contextmanager
    def locked(
        self, fingerprint: Mapping[str, Any], metadata: Mapping[str, Any], resume: bool
    ) -> Iterator[None]:
        """Create the folder or resume the run in it, and keep other runs out until the block ends.

        `fingerprint` identifies the run and must be equal when it is resumed; `metadata` may
        differ. Raises `DataError` if another run is writing to the folder, or if it holds a run
        with another fingerprint or format, or any run unless `resume`.
        """
        with lock_run_directory(self.folder):
            self._open(fingerprint, metadata, resume)
            yield

    def _open(
        self, fingerprint: Mapping[str, Any], metadata: Mapping[str, Any], resume: bool
    ) -> None:
        scores = self.folder / "scores"
        try:
            scores.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.folder, error) from error
        if not (self.folder / "run.json").exists():
            if any(scores.iterdir()):
                raise DataError(
                    f"{self.folder} holds scores but no run.json; name another folder with -o"
                )
            info = {"format": RUN_FORMAT, **fingerprint, **metadata}
            self._write("run.json", json.dumps(info, indent=1))
            return
        if not resume:
            raise DataError(
                f"{self.folder} already holds a run; name another folder with -o, or omit "
                "--no-resume to resume it"
            )
        stored, own = self.info, json.loads(json.dumps(fingerprint))
        for name, value in {**dict.fromkeys(FLAGS), **own}.items():
            if stored.get(name) != value:
                what = _describe_difference(name, stored.get(name), value)
                raise DataError(
                    f"{self.folder} holds a run with another {what}; name another folder with -o"
                )

    @property
    def holds_samples(self) -> bool:
        """Whether the samples of the run are stored."""
        return (self.folder / "samples.jsonl").exists()

    def storing(self, samples: Sequence[RunSample]) -> Iterator[None]:
        """Store what the run consists of, `SAMPLES_AT_A_TIME` for each item taken.

        Raises `DataError` if the folder has scores but none of these samples: they are then of
        another dataset with the same name.
        """
        if self._holds_only_others(samples):
            raise DataError(
                f"{self.folder} holds a run on other videos, or all of them have changed; name "
                "another folder with -o"
            )
        # ASCII: names may contain line separators and bytes that are not valid UTF-8. Encoding the
        # values one by one takes a third of the time.
        encode = json.JSONEncoder().encode
        targets: dict[HeadTargets, str] = {}
        lines = []
        for number, (id_, path, key, target) in enumerate(samples, 1):
            if target not in targets:
                targets[target] = encode(target)
            lines.append(
                f'{{"id": {encode(id_)}, "path": {encode(path)}, "key": {encode(key)}, '
                f'"target": {targets[target]}}}\n'
            )
            if number % SAMPLES_AT_A_TIME == 0:
                yield
        self._write("samples.jsonl", "".join(lines))

    def _holds_only_others(self, samples: Sequence[RunSample]) -> bool:
        if not self.holds_samples:
            return False
        keys = {sample.key for sample in samples}
        if any(sample.key in keys for sample in self.samples()):
            return False
        scored = self.scores().views.keys()
        return bool(scored) and scored.isdisjoint(keys)

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.folder / name, len(text)) as part:
            part.write_text(text, encoding="utf-8")


def _describe_difference(name: str, old: Any, new: Any) -> str:
    """The first difference between two values of a fingerprint."""
    if name in FLAGS:
        return f"setting of --{name}: {'with' if old else 'without'} it"
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return _describe_difference(f"{name} ({key})", old.get(key), new[key])
    if name == "model_sha256":
        return "model (the digests of the weights differ)"
    if isinstance(old, str | int | float | None) and isinstance(new, str | int | float | None):
        return f"{name}: '{old}', not '{new}'"
    return name
