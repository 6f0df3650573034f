"""The folder of a bulk run: its inputs in parts, who works on which, and the rows of each part.

    part-000000.parquet   the rows of a part, under this name only when complete (or .jsonl)
    _vt/run.json          what the rows are made with: model, protocol, precision, batch size
    _vt/000000.list       the inputs of a part, one JSON line each; never changed once written
    _vt/000000.claim      who works on the part; touched while that process lives
    _vt/000000.*.journal  its rows as they come

Readers of Parquet folders skip names that begin with `_`, so RUN/ itself can be opened.

Many processes and machines may share the folder: files appear under their names only when they are
complete, never over another one, and a claim whose process is gone expires. A kill loses the rows
that were being computed and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from vtcli.errors import DataError
from vtcli.inference.same_run import refuse_other_run
from vtcli.runtime.files import is_complete, link_without_overwrite, write_error

FORMAT = 1
PART_SIZE = 1000
"""Inputs of a part: what a crash of the file system or of a machine may cost at most."""

CLAIM_EXPIRES = 120.0
"""Seconds without a sign of life after which another machine may take a part over."""

_HEARTBEAT_SECONDS = 15.0
_FSYNC_SECONDS = 1.0


class Input(NamedTuple):
    """One thing to predict: `size` in bytes and `mtime` in nanoseconds tell whether it changed.

    Both are -1 where it cannot be looked at (a name that does not exist); `etag` stands for the
    time of a URL.
    """

    path: str
    size: int = -1
    mtime: int = -1
    etag: str = ""

    @property
    def key(self) -> bytes:
        """Equal for the same content under the same name."""
        said = "\0".join(map(str, self)).encode(errors="surrogateescape")
        return hashlib.blake2b(said, digest_size=16).digest()


class RunStore:
    """The folder of one bulk run, as one process sees it.

    Raises `DataError` where the folder cannot be written or holds a run of something else.
    """

    def __init__(self, folder: Path, extension: str) -> None:
        self.folder, self.extension = folder, extension
        self.parts_folder = folder / "_vt"
        self.token = _new_token()

    # --- what the rows are made with --------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a run was begun in the folder."""
        return (self.parts_folder / "run.json").exists()

    def open(self, settings: Mapping[str, Any], automatic: Sequence[str] = ()) -> dict[str, Any]:
        """Begin a run, or join one: the settings it was begun with.

        Raises `DataError` naming the first setting in which an earlier run differs; the `automatic`
        ones, and those of `AUTOMATIC` that are None here, are taken from it.
        """
        try:
            self.parts_folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": FORMAT, **settings}, indent=1, ensure_ascii=False)
            publish(self.parts_folder / "run.json", text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise write_error(self.folder, error) from error
        old = self.read_settings()
        refuse_other_run(self.folder, old, json.loads(json.dumps(settings)), automatic)
        return old

    def read_settings(self) -> dict[str, Any]:
        """What run.json says; raises `DataError` where there is none of this format."""
        path = self.parts_folder / "run.json"
        try:
            table = json.loads(path.read_text("utf-8", "surrogateescape"))
        except FileNotFoundError as error:
            raise DataError(f"{self.folder} is not a run; make one with vt predict -o") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read; name another folder with -o") from error
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise DataError(
                f"{self.folder} was written by another version of vtcli; name another folder "
                "with -o"
            )
        return table

    # --- parts ------------------------------------------------------------------------------------

    def add_inputs(
        self, inputs: Iterable[Input], part_size: int = PART_SIZE, listing: str = ""
    ) -> int:
        """Cut the inputs that the run does not know yet into further parts; how many are new.

        One process at a time lists; others wait for it, and those that name the same `listing`
        need not list again. Inputs are taken one by one.
        """
        from filelock import FileLock

        digest = hashlib.blake2b(listing.encode(errors="surrogateescape"), digest_size=8)
        mark = self.parts_folder / f".listed-{digest.hexdigest()}"
        since = self._now()
        with FileLock(self.parts_folder / ".listing.lock"):
            if listing and mark.exists() and mark.stat().st_mtime > since:
                return 0
            added = self._add(iter(inputs), part_size)
            if listing:
                mark.touch()
        return added

    def _add(self, inputs: Iterator[Input], part_size: int) -> int:
        first = list(islice(inputs, 1))
        if not first:
            return 0
        numbers = self.part_numbers()
        known = {one.key for number in numbers for one in self.inputs(number)}
        number, added = numbers[-1] + 1 if numbers else 0, 0
        fresh = _unknown(chain(first, inputs), known)
        while batch := list(islice(fresh, part_size)):
            lines = "".join(json.dumps(one) + "\n" for one in batch)
            try:
                publish(self._file(number, "list"), lines.encode("ascii"))
            except OSError as error:
                raise write_error(self.folder, error) from error
            number, added = number + 1, added + len(batch)
        return added

    def part_numbers(self) -> list[int]:
        """All parts, in order."""
        return sorted(int(path.stem) for path in self.parts_folder.glob("*.list"))

    def inputs(self, part: int) -> list[Input]:
        """What belongs to a part, in order."""
        with self._file(part, "list").open(encoding="ascii") as lines:
            return [Input(*json.loads(line)) for line in lines]

    def rows_file(self, part: int) -> Path:
        """Where the rows of a part are once it is done."""
        return self.folder / f"part-{part:06d}.{self.extension}"

    def is_done(self, part: int) -> bool:
        """Whether all rows of a part are there."""
        return is_complete(self.rows_file(part))

    def _file(self, part: int, kind: str) -> Path:
        return self.parts_folder / f"{part:06d}.{kind}"

    # --- claims -----------------------------------------------------------------------------------

    def claim(self, part: int) -> bool:
        """Whether this process may work on a part now: nobody does, or who did is gone."""
        path = self._file(part, "claim")
        text = json.dumps({"token": self.token, "host": socket.gethostname(), "pid": os.getpid()})
        for _ in range(2):
            with suppress(FileExistsError):
                publish(path, text.encode(), fail_if_exists=True)
                return True
            if not self._expired(path):
                return False
            # Only one of several that saw it expire can move it away.
            moved = self._file(part, f"expired-{self.token}")
            with suppress(FileNotFoundError):
                os.rename(path, moved)
                if not self._expired(moved):  # it is that of another one, which was quicker
                    link_without_overwrite(moved, path)
            moved.unlink(missing_ok=True)
        return False

    def release(self, part: int) -> None:
        """Let others have a part again; nothing happens where another process has it."""
        self.release_of(part, self.token)

    def release_of(self, part: int, token: str) -> None:
        """Let others have the part of a process that is known to be dead, at once."""
        if self._owns(part, token):
            self._file(part, "claim").unlink(missing_ok=True)

    def _owns(self, part: int, token: str) -> bool:
        try:
            return bool(json.loads(self._file(part, "claim").read_bytes())["token"] == token)
        except (OSError, ValueError, KeyError):
            return False

    def _expired(self, path: Path) -> bool:
        try:
            said = json.loads(path.read_bytes())
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        if said.get("host") == socket.gethostname() and not _is_running(int(said.get("pid", 0))):
            return True
        return self._now() - touched > CLAIM_EXPIRES

    def _now(self) -> float:
        """The time of the machine that stores the folder, which may be another."""
        probe = self.parts_folder / f".time-{self.token}"
        try:
            probe.write_bytes(b"")
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)

    @contextmanager
    def kept_alive(self, part: int) -> Iterator[None]:
        """Touch the claim of a part while its rows are computed."""
        stop = threading.Event()

        def touch() -> None:
            while not stop.wait(_HEARTBEAT_SECONDS):
                if self._owns(part, self.token):
                    with suppress(OSError):
                        os.utime(self._file(part, "claim"))

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # --- rows -------------------------------------------------------------------------------------

    def journals(self, part: int) -> list[Path]:
        """What processes have stored of a part, a row a line."""
        return sorted(self.parts_folder.glob(f"{part:06d}.*.journal"))

    def journaled(self, part: int) -> dict[str, dict[str, Any]]:
        """Rows that earlier processes have left of a part, by path; cut-off lines are left out."""
        rows: dict[str, dict[str, Any]] = {}
        for path in self.journals(part):
            with suppress(FileNotFoundError):  # another process has just finished the part
                for line in path.read_bytes().split(b"\n"):
                    with suppress(ValueError):
                        row = json.loads(line)
                        rows[row["path"]] = row
        return rows

    @contextmanager
    def journal(self, part: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A function that stores a row of a part at once; raises `DataError` for a full disk."""
        path = self._file(part, f"{self.token}.journal")
        try:
            with path.open("ab") as file:
                yield _Journal(path, file).add
        except OSError as error:
            raise write_error(path, error) from error

    def finish(
        self,
        part: int,
        rows: Sequence[Mapping[str, Any]],
        write: Callable[[Sequence[Mapping[str, Any]], Path], None],
        replace: bool = False,
    ) -> bool:
        """Publish the rows of a part and forget its journals; False where another process was
        first. `replace` exchanges a file that is there, at once.
        """
        final = self.rows_file(part)
        fresh = self.parts_folder / f".{part:06d}.{self.token}.tmp"
        try:
            write(rows, fresh)
            _flush(fresh)
            if replace:
                os.replace(fresh, final)
                first = True
            else:
                first = link_without_overwrite(fresh, final)
            _flush_folder(self.folder)
        except OSError as error:
            raise write_error(final, error) from error
        finally:
            fresh.unlink(missing_ok=True)
        self.forget(part)
        self.release(part)
        return first

    def forget(self, part: int) -> None:
        """Remove what a kill may have left of a finished part: journals, and an expired claim."""
        for path in self.journals(part):
            path.unlink(missing_ok=True)
        claim = self._file(part, "claim")
        if claim.exists() and self._expired(claim):
            claim.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what killed processes of this machine left half written."""
        own = re.compile(rf"{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}(?:\.tmp)?")
        for pattern in (".*.tmp", ".time-*", "*.expired-*"):
            for path in self.parts_folder.glob(pattern):
                found = own.search(path.name)
                if found and not _is_running(int(found[1])):
                    path.unlink(missing_ok=True)


def _unknown(inputs: Iterable[Input], known: set[bytes]) -> Iterator[Input]:
    """Those that are not known; each becomes known."""
    for one in inputs:
        key = one.key
        if key not in known:
            known.add(key)
            yield one


class _Journal:
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.synced = path, file, time.monotonic()

    def add(self, row: Mapping[str, Any]) -> None:
        """One line, handed to the system at once and to the disk every second."""
        # ASCII: a file name that is not UTF-8 is stored with its surrogate escapes.
        self.file.write(json.dumps(row).encode("ascii") + b"\n")
        self.file.flush()
        if time.monotonic() - self.synced > _FSYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()


def publish(path: Path, content: bytes, fail_if_exists: bool = False) -> None:
    """Let a small file appear complete under its name, never over another.

    Raises `FileExistsError` where there is one, if asked to; otherwise that one stays.
    """
    part = path.with_name(f".{path.name}.{_new_token()}.tmp")
    try:
        part.write_bytes(content)
        _flush(part)
        first = link_without_overwrite(part, path)
    finally:
        part.unlink(missing_ok=True)
    if fail_if_exists and not first:
        raise FileExistsError(path)


def _new_token() -> str:
    """A name of this process, in files of its own: `RunStore.clear_leftovers` reads it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # claims expire by time there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
