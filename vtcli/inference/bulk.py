"""Predictions for any number of videos into a folder, by any number of processes: `vt predict
SOURCE... -o RUN/`.

The folder says what is done (`run_store.py`), so the same command resumes where it was killed, does
nothing where all is done, and shares the work where several run it. A part's inputs go through the
network in slots that follow from the list alone, so a row is the same whoever computes it and
whatever was computed before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from vtcli.errors import OutOfMemoryError
from vtcli.inference.run_store import Input, RunStore
from vtcli.inference.selection import WHOLE, Selection
from vtcli.runtime.rows import Row, read_rows

POLL_SECONDS = 1.0
"""Between looks at parts that other processes work on."""


class PartPredictor(Protocol):
    """Whatever turns the inputs of a part into rows; a list `windows` in one stands for several."""

    def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
        """The rows of the `missing` inputs, by their places in the part, as they come."""
        ...


@dataclass
class BulkProgress:
    """How far a run is, all processes together, and how fast this one is."""

    total: int = 0
    done: int = 0
    computed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Videos per second of this process."""
        return self.computed / max(1e-9, time.monotonic() - self.started)


@dataclass(frozen=True)
class BulkStatus:
    """What the folder of a run holds; `failed` counts videos by reason."""

    total: int
    done: int
    failed: Mapping[str, int]
    parts: int
    parts_done: int
    working: int
    seconds: float | None

    @property
    def rate(self) -> float | None:
        """Finished videos per second over the whole run; None where it cannot be told."""
        return self.done / self.seconds if self.seconds and self.done else None

    @property
    def remaining_seconds(self) -> float | None:
        """At that rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "total": self.total,
            "done": self.done,
            "failed": sum(self.failed.values()),
            "failed_by_reason": dict(self.failed),
            "parts": self.parts,
            "parts_done": self.parts_done,
            "parts_in_work": self.working,
            "videos_per_second": self.rate,
            "remaining_seconds": self.remaining_seconds,
        }


def run_parts(
    store: RunStore,
    predictor: PartPredictor,
    write: Callable[[Sequence[Row], Path], None],
    selection: Selection = WHOLE,
    on_progress: Callable[[BulkProgress], None] = lambda progress: None,
) -> BulkProgress:
    """Work on the parts of a run until the selected ones are done.

    Parts that others work on are waited for, and taken over when their process is gone. Raises
    `DataError` for a folder that cannot be written.
    """
    store.clear_leftovers()
    parts = [part for part in store.part_numbers() if selection.has(part)]
    sizes = {part: len(store.inputs(part)) for part in parts}
    progress = BulkProgress(total=sum(sizes.values()))
    left = parts
    while left:
        waiting = []
        for part in left:
            if store.is_done(part):
                store.forget(part)
                progress.done += sizes[part]
            elif store.claim(part):
                try:
                    if not store.is_done(part):  # finished between the two looks
                        _run_part(store, part, predictor, write, progress, on_progress)
                    else:
                        progress.done += sizes[part]
                finally:
                    store.release(part)
            else:
                waiting.append(part)
            on_progress(progress)
        if len(waiting) == len(left):
            time.sleep(POLL_SECONDS)
        left = waiting
    return progress


def _run_part(
    store: RunStore,
    part: int,
    predictor: PartPredictor,
    write: Callable[[Sequence[Row], Path], None],
    progress: BulkProgress,
    on_progress: Callable[[BulkProgress], None],
) -> None:
    inputs = store.inputs(part)
    journaled = store.journaled(part)
    rows: dict[int, Row] = {
        place: journaled[one.path] for place, one in enumerate(inputs) if one.path in journaled
    }
    progress.done += len(rows)
    missing = set(range(len(inputs))) - rows.keys()
    with store.kept_alive(part), store.journal(part) as add, _batch_size_kept():
        for place, row in predictor.rows(inputs, missing):
            add(row)
            rows[place] = row
            progress.done += 1
            progress.computed += 1
            on_progress(progress)
        store.finish(part, [rows[place] for place in range(len(inputs))], write)


@contextmanager
def _batch_size_kept() -> Iterator[None]:
    """Where a batch does not fit into memory, a smaller one needs a run of its own."""
    try:
        yield
    except OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{error}, and name another folder with -o: a run keeps its batch size"
        ) from error


def retry_failures(
    store: RunStore,
    predictor: PartPredictor,
    write: Callable[[Sequence[Row], Path], None],
    selection: Selection = WHOLE,
) -> int:
    """Try every failed video of the finished parts again; how many have an answer now.

    The file of a part is exchanged at once when its failures have been tried.
    """
    recovered = 0
    for part in store.part_numbers():
        if not (selection.has(part) and store.is_done(part) and store.claim(part)):
            continue
        try:
            videos = _split_by_video(read_rows(store.rows_file(part)))
            failed = {place for place, rows in enumerate(videos) if rows[0].get("reason")}
            if not failed:
                continue
            with store.kept_alive(part), _batch_size_kept():
                for place, row in predictor.rows(store.inputs(part), failed):
                    videos[place] = [row]
                    recovered += not row.get("reason")
            store.finish(part, list(chain.from_iterable(videos)), write, replace=True)
        finally:
            store.release(part)
    return recovered


def _split_by_video(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of a part, video by video: the first window of each starts at 0."""
    videos: list[list[Row]] = []
    for row in rows:
        if videos and row.get("start") and row["path"] == videos[-1][0]["path"]:
            videos[-1].append(row)
        else:
            videos.append([row])
    return videos


def read_status(store: RunStore) -> BulkStatus:
    """What a run has done so far, read from its folder alone, while it runs or after."""
    numbers = store.part_numbers()
    failed: Counter[str] = Counter()
    total = done = parts_done = working = 0
    times = []
    for part in numbers:
        inputs = len(store.inputs(part))
        total += inputs
        file = store.rows_file(part)
        if file.exists():
            parts_done += 1
            rows: list[Row] = list(read_rows(file))
            done += inputs
            times.append(file.stat().st_mtime)
        else:
            rows = list(store.journaled(part).values())
            working += bool(rows)
            done += len(rows)
        failed.update(row["reason"] for row in rows if row.get("reason"))
    began = (store.parts_folder / "run.json").stat().st_mtime
    until = max(times) if times and parts_done == len(numbers) else time.time()
    return BulkStatus(total, done, failed, len(numbers), parts_done, working, until - began)
