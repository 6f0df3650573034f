"""A bulk run on a Ray cluster: one actor per device, each working on one part at a time.

Ray places the actors and notices when one dies; a part of a dead actor is given to another, once.
Everything else is as in any bulk run: actors read the videos and write the rows themselves, from
and to folders that all nodes share, and only numbers of parts travel.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from vtcli.data.clip_loader import MOST_WORKERS
from vtcli.errors import EXIT_TERMINATED, DataError, UsageError, VtError
from vtcli.inference.bulk import BulkProgress, retry_failures, run_parts
from vtcli.inference.inputs import describe_all
from vtcli.inference.join import RunRequest, join_run
from vtcli.inference.run_store import RunStore
from vtcli.inference.selection import OnePart
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import write_error
from vtcli.runtime.words import plural

_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 10.0
_NOTE_SECONDS = 30.0
_LOST_STARTS = 3
"""Actors that may die one after another before they have begun."""


@dataclass(frozen=True)
class RayJob:
    """A bulk run for Ray: the inputs in parts of `part_size`; `address` None: a Ray of its own."""

    request: RunRequest
    part_size: int
    address: str | None = None
    retry_failures: bool = False


class PartWorker:
    """What an actor does. A `VtError` is returned, not raised: it ends the run as a sentence."""

    def __init__(self, request: RunRequest, folder: str) -> None:
        self.request, self.folder = request, folder

    def begin(self) -> str | VtError:
        """Load the model and join the run; the name of this process in its claims."""
        if not (self.request.folder / "_vt").is_dir():
            return DataError(
                f"{self.request.folder} does not exist on {socket.gethostname()}; name a folder "
                "that all nodes share with -o"
            )
        with suppress(OSError):  # paths of inputs may be absolute or URLs
            os.chdir(self.folder)
        try:
            self.joined = join_run(self.request)
        except VtError as error:
            return error
        return self.joined.store.token

    def work(self, part: int, retry: bool) -> int | VtError:
        """Work on a part; how many videos were computed."""
        run, selected = self.joined, OnePart(part)
        try:
            progress = run_parts(run.store, run.rows, run.write, selected)
            if retry:
                return progress.computed + retry_failures(run.store, run.rows, run.write, selected)
        except VtError as error:
            return error
        return progress.computed


def run_on_ray(
    job: RayJob,
    inputs: Iterable[str],
    on_progress: Callable[[BulkProgress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[RunStore, BulkProgress]:
    """Work on a run with the actors of a Ray cluster until it is done.

    `on_note` is told what the run waits for, if it waits long.
    Raises `UsageError` where Ray is missing or cannot be reached; `DataError` where another driver
    works on the folder or a part has killed two actors; what `join_run` raises in an actor.
    """
    folder = Path(os.path.abspath(job.request.folder))
    job = replace(job, request=replace(job.request, folder=folder))
    store = RunStore(folder, "")
    with _only_driver(store), _ray(job.address) as ray:
        crew = _Crew(ray, job)
        try:
            crew.start()  # the first begins the run
            crew.wait_for_first(on_note)
            store.extension = store.read_settings()["row_format"]
            store.add_inputs(describe_all(inputs), job.part_size)
            return store, _drive(crew, store, job.retry_failures, on_progress)
        except SystemExit as error:  # raised on SIGTERM; calls of Ray replace its code by 1
            raise SystemExit(EXIT_TERMINATED) from error
        finally:
            crew.dismiss()


@contextmanager
def _only_driver(store: RunStore) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock, is_new = FileLock(store.parts_folder / ".driver.lock"), not store.folder.exists()
    try:
        store.parts_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"{store.folder} is driven by another vt predict --engine ray; wait for it, or name "
            "another folder with -o"
        ) from error
    except OSError as error:
        raise write_error(store.folder, error) from error
    try:
        yield
    finally:
        lock.release()
        if not store.exists():  # nothing was begun
            Path(lock.lock_file).unlink(missing_ok=True)
            with suppress(OSError):
                store.parts_folder.rmdir()
                if is_new:
                    store.folder.rmdir()


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of this process that ends with it."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UsageError(missing_package("Runs with --engine ray", "ray", "ray")) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    silent = UsageError(
        f"no Ray cluster answers at --ray-address {address}; start one with `ray start --head`, or "
        "leave the option out"
    )
    if address is not None and not _answers(address):
        raise silent
    local = {} if address else {"include_dashboard": False}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if "Failed to connect" not in str(error):
            raise silent from error
        raise UsageError(
            f"the Ray cluster at --ray-address {address} refuses this machine; both need the same "
            "version of Ray and, if the cluster has a token, RAY_AUTH_MODE=token and the same "
            "~/.ray/auth_token"
        ) from error
    signal.signal(signal.SIGTERM, terminate)  # Ray prints the stack of native code
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> bool:
    """Whether something listens at HOST:PORT: Ray itself tries for minutes. True for `auto`."""
    where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, _, port = where.rpartition(":")
    if not port.isdigit() or "://" in where:
        return True
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class _Devices:
    """How many actors a cluster has place for, and what each takes of it."""

    count: int
    gpus: int
    cpus: int


def _devices(ray: Any, device: str) -> _Devices:
    """One actor per GPU, or per machine where there is none or `device` is `cpu`."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [(int(n.get("GPU", 0)), int(n.get("CPU", 0))) for n in nodes if n.get("GPU", 0) >= 1]
    if device != "cpu" and (gpus or device != "auto"):
        cpus = min((cores // count for count, cores in gpus), default=1)
        return _Devices(max(1, sum(count for count, _ in gpus)), 1, cpus)
    cores = [int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1] or [1]
    each = min(cores)
    return _Devices(sum(own // each for own in cores), 0, each)


class _Crew:
    """The actors of a run: which of them work on what."""

    def __init__(self, ray: Any, job: RayJob) -> None:
        self.ray, self.job = ray, job
        self.device = job.request.settings.device.partition(":")[0]
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, int | None]] = {}
        self.tokens: dict[Any, str] = {}
        self.lost_starts = 0

    def start(self) -> None:
        """Start an actor, which Ray places on a device that is free."""
        settings = self.job.request.settings
        found = self.devices()
        cores = max(1, min(found.cpus, MOST_WORKERS))
        workers = cores if settings.workers is None else settings.workers
        # Ray shows an actor its own GPU only, as the first.
        settings = replace(settings, workers=workers, device=self.device)
        request = replace(self.job.request, settings=settings)
        actor_class = self.ray.remote(PartWorker)
        actor = actor_class.options(num_gpus=found.gpus, num_cpus=found.cpus, max_restarts=0)
        handle = actor.remote(request, os.getcwd())
        self.busy[handle.begin.remote()] = handle, None

    def fill(self, parts: int) -> None:
        """Start an actor on every device of the cluster that has none, as long as there are more
        parts than actors.
        """
        actors = len(self.busy) + len(self.idle)
        for _ in range(actors, min(self.devices().count, parts + self.working())):
            self.start()

    def working(self) -> int:
        """How many actors work on a part."""
        return sum(part is not None for _, part in self.busy.values())

    def wait_for_first(self, on_note: Callable[[str], None]) -> None:
        """Until the run is begun; raises what its first process raises."""
        asked: float | None = time.monotonic()
        while not self.idle:
            self.next_results()
            if not self.busy and not self.idle:
                self.start()
            if asked is not None and time.monotonic() - asked > _NOTE_SECONDS:
                found = self.devices()
                device = f"{found.gpus} GPU and " * found.gpus + plural(found.cpus, "CPU")
                on_note(f"waiting for a Ray actor, which needs {device} and loads the model")
                asked = None

    def devices(self) -> _Devices:
        """What the cluster has now."""
        return _devices(self.ray, self.device)

    def give(self, part: int, retry: bool) -> None:
        """Let an idle actor work on a part."""
        actor = self.idle.pop()
        self.busy[actor.work.remote(part, retry)] = actor, part

    def next_results(self) -> Mapping[int, int | None]:
        """Of parts that have just ended: videos computed, None where the actor has died."""
        ready, _ = self.ray.wait(list(self.busy), timeout=_POLL_SECONDS)
        ended: dict[int, int | None] = {}
        for call in ready:
            actor, part = self.busy.pop(call)
            try:
                said = self.ray.get(call)
            except self.ray.exceptions.RayActorError as error:
                self._bury(actor, part, error)
                if part is not None:
                    ended[part] = None
                continue
            except self.ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from error
            if isinstance(said, VtError):
                raise said
            self.idle.append(actor)
            if part is None:
                self.tokens[actor] = said
                self.lost_starts = 0
            else:
                ended[part] = said
        return ended

    def _bury(self, actor: Any, part: int | None, error: Exception) -> None:
        self.ray.kill(actor, no_restart=True)  # it may only be out of reach
        if part is not None:
            store = RunStore(self.job.request.folder, "")
            store.release_of(part, self.tokens.pop(actor))
            return
        self.lost_starts += 1
        if self.lost_starts == _LOST_STARTS:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"{_LOST_STARTS} Ray actors ended while they loaded the model ({reason}); see the "
                "logs of Ray"
            ) from error

    def dismiss(self) -> None:
        """End all actors."""
        for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
            with suppress(Exception):
                self.ray.kill(actor, no_restart=True)


class _StoredRows:
    """Counts the rows that are stored of parts in work; what was read once is not read again."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.read: Counter[Path] = Counter()
        self.rows: Counter[int] = Counter()

    def of(self, part: int) -> int:
        """Those of a part, by all processes that ever worked on it."""
        for path in self.store.journals(part):
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(self.read[path])
                new = file.read()
                self.read[path] += len(new)
                self.rows[part] += new.count(b"\n")
        return self.rows[part]


def _drive(
    crew: _Crew, store: RunStore, retry: bool, on_progress: Callable[[BulkProgress], None]
) -> BulkProgress:
    sizes = {part: len(store.inputs(part)) for part in store.part_numbers()}
    todo = deque(part for part in sizes if retry or not store.is_done(part))
    progress = BulkProgress(total=sum(sizes.values()), started=time.monotonic())
    done, computed_before = progress.total - sum(sizes[part] for part in todo), 0
    stored, earlier = _StoredRows(store), dict[int, int]()
    lost: Counter[int] = Counter()
    while todo or crew.working():
        while todo and crew.idle:
            part = todo.popleft()
            earlier.setdefault(part, stored.of(part))
            crew.give(part, retry)
        rows = {part: stored.of(part) for _, part in crew.busy.values() if part is not None}
        progress.done = done + sum(rows.values())
        progress.computed = computed_before + sum(rows[part] - earlier[part] for part in rows)
        on_progress(progress)
        crew.fill(len(todo))
        for part, computed in crew.next_results().items():
            if computed is None:
                lost[part] += 1
                if lost[part] > 1:
                    raise DataError(
                        f"part {part} of {store.folder} has ended two Ray actors, see the logs of "
                        "Ray; what is done is kept: run the same command again to resume"
                    )
                computed_before += stored.of(part) - earlier[part]
                earlier[part] = stored.of(part)
                todo.appendleft(part)
                continue
            computed_before += computed
            done += sizes[part]
    progress.done, progress.computed = done, computed_before
    on_progress(progress)
    return progress
