"""Clips of the events of live sources: the packets of a stream are kept until no coming event can
need them, and those of an event are written as soon as the seconds after it have come.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import dropwhile, groupby
from pathlib import Path

from vtcli.errors import DataError, VtError
from vtcli.inference.windows import Segment
from vtcli.runtime.worker_pool import WorkerFailedError, WorkerPool
from vtcli.video.recorder import Recording, write_clip

MAX_BYTES = 256 << 20
"""Of the packets that are kept per source; a clip that needs more begins later."""

_LONGEST_NAME = 60


@dataclass(frozen=True)
class _Wanted:
    start: float
    end: float
    path: Path


@dataclass
class _Kept:
    """What is kept of one source: its last pieces, and the clips that wait for the next ones."""

    pieces: list[Recording] = field(default_factory=list)
    wanted: list[_Wanted] = field(default_factory=list)
    since: float = 0.0


class EventClips:
    """Writes clips into `folder`, in a process of `pool`, from `before` seconds before each event
    to `after` seconds after it.

    A clip that cannot be written is a sentence for `on_note`, each reason once; `failed` counts
    such clips, `saved` the others. Raises `DataError` where the folder cannot be made.
    """

    def __init__(
        self, folder: Path, before: float, after: float, on_note: Callable[[str], None]
    ) -> None:
        self.folder, self.before, self.after, self.on_note = folder, before, after, on_note
        self.saved = self.failed = 0
        self._kept: dict[str, _Kept] = {}
        self._running: list[tuple[Path, Future[None]]] = []
        self._noted: set[str] = set()
        self._taken: set[Path] = set()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot write clips to {folder} ({error.strerror}); choose another --save-clips"
            ) from error

    def record(self, source: str, piece: Recording) -> None:
        """Keep the next piece of a source; may be called from any thread."""
        with self._lock:
            kept = self._kept.setdefault(source, _Kept())
            kept.pieces.append(piece)
            size = sum(one.size for one in kept.pieces)
            while size > MAX_BYTES and len(kept.pieces) > 1:
                size -= kept.pieces.pop(0).size

    def add(self, source: str, event: Segment, began: float, prefix: str = "") -> Path:
        """Want a clip of an event; the file it will be. `began` is the `time.time` of the source's
        first frame.
        """
        at = datetime.fromtimestamp(began + event.start, UTC)
        name = f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z"
        words = [name, *([_plain(prefix)] if prefix else []), _plain(event.label)]
        path = self.folder / f"{'_'.join(words)}.mp4"
        for number in range(2, 1000):
            if path not in self._taken and not path.exists():
                break
            path = self.folder / f"{'_'.join([*words, str(number)])}.mp4"
        self._taken.add(path)
        wanted = _Wanted(max(0.0, event.start - self.before), event.end + self.after, path)
        with self._lock:
            self._kept.setdefault(source, _Kept()).wanted.append(wanted)
        return path

    def advance(self, source: str, since: float, pool: WorkerPool) -> None:
        """Write the clips that are complete, and forget what no event that begins at `since` or
        later needs.
        """
        with self._lock:
            kept = self._kept.setdefault(source, _Kept())
            kept.since = since
            recorded = kept.pieces[-1].end if kept.pieces else 0.0
            complete = [one for one in kept.wanted if one.end <= recorded]
        for one in complete:
            self._begin(source, one, pool)
        with self._lock:
            self._forget(kept)
        self._collect(is_last=False)

    def finish(self, source: str, pool: WorkerPool) -> None:
        """Write the clips of a source that has ended, and wait for them."""
        for one in list(self._kept.setdefault(source, _Kept()).wanted):
            self._begin(source, one, pool)
        self._collect(is_last=True)

    def _begin(self, source: str, wanted: _Wanted, pool: WorkerPool) -> None:
        with self._lock:
            kept = self._kept[source]
            kept.wanted.remove(wanted)
            pieces = _pieces_for(kept.pieces, wanted)
        if not pieces:
            self._fail("there is no key frame of the stream in its time")
            return
        arguments = (pieces, wanted.start, wanted.end, wanted.path)
        with suppress(RuntimeError):  # the pool was closed
            self._running.append((wanted.path, pool.submit(write_clip, *arguments)))

    def _forget(self, kept: _Kept) -> None:
        """Drop the pieces before the last key frame that is before what is needed."""
        since = min([kept.since - self.before, *(one.start for one in kept.wanted)])
        keys = [n for n, piece in enumerate(kept.pieces) if piece.is_key and piece.start <= since]
        del kept.pieces[: keys[-1] if keys else 0]

    def _collect(self, is_last: bool) -> None:
        """Hear what became of the clips that were begun."""
        running, self._running = self._running, []
        for path, future in running:
            if not is_last and not future.done():
                self._running.append((path, future))
                continue
            try:
                future.result()
                self.saved += 1
            except CancelledError:
                self._fail("the command was stopped")
            except WorkerFailedError as error:
                self._fail(f"its writer failed ({error.failure.detail})")
            except VtError as error:
                self._fail(str(error).replace(str(path), str(self.folder)).partition(";")[0])

    def _fail(self, reason: str) -> None:
        self.failed += 1
        if reason not in self._noted:
            self._noted.add(reason)
            self.on_note(f"a clip was not saved: {reason}")


def _pieces_for(pieces: Sequence[Recording], wanted: _Wanted) -> list[Recording]:
    """The pieces of a clip, all of the run that has most of it; none without a key frame."""
    runs = [list(group) for _, group in groupby(pieces, key=lambda piece: piece.run)]
    usable = [list(dropwhile(lambda piece: not piece.is_key, run)) for run in runs]

    def overlap(run: Sequence[Recording]) -> float:
        return min(wanted.end, run[-1].end) - max(wanted.start, run[0].start) if run else 0.0

    best = max(usable, key=overlap, default=[])
    if overlap(best) <= 0:
        return []
    keys = [n for n, one in enumerate(best) if one.is_key and one.start <= wanted.start]
    return [one for one in best[keys[-1] if keys else 0 :] if one.start < wanted.end]


def _plain(text: str) -> str:
    """A label or a source as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:_LONGEST_NAME] or "event"
