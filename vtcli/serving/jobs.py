"""Timelines as jobs: accepted at once, computed in the background, followed by events.

The events of a job are kept, so that whoever comes late, or again, receives all of them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from vtcli.errors import VtError
from vtcli.inference.arrays import renamed_error
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline, WindowPrediction
from vtcli.serving.admission import Admission
from vtcli.serving.refusals import RequestRefusedError, error_body, status_of
from vtcli.serving.requests import VideoRequest

KEPT_JOBS = 100
"""Finished jobs whose results are kept."""
DELIVERY_SECONDS = 30.0
"""After a stop, how long a finished job waits for whoever fetches its result."""
_ALIVE_SECONDS = 15.0
_AT_ONCE = 2


@dataclass(frozen=True)
class JobRequest:
    """The video of a job, which is closed at the end, with its options, and the model's name."""

    video: VideoRequest
    model: str


@dataclass
class Job:
    """A timeline that is computed, or was; `events` are pairs of a kind and JSON-able data."""

    id: str
    request: JobRequest
    header: Mapping[str, Any] = field(default_factory=dict)
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    timeline: Timeline | None = None
    error: VtError | None = None
    finished_at: float = 0.0
    delivered: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def finished(self) -> bool:
        """Whether its result is known."""
        return self.state in ("done", "failed")

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event; in the event loop."""
        self.events.append((kind, data))
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, after: int = 0) -> AsyncIterator[tuple[int, str, Mapping[str, Any]]]:
        """The events from a number on, as they come; (-1, "", {}) where none came for a while."""
        number = after
        while True:
            changed = self._changed
            for kind, data in self.events[number:]:
                number += 1
                yield number, kind, data
            if self.finished:
                self.delivered = True
                return
            try:
                await asyncio.wait_for(changed.wait(), _ALIVE_SECONDS)
            except TimeoutError:
                yield -1, "", {}


class TimelineJobs:
    """The jobs of a server; two are computed at a time. Used from the event loop."""

    def __init__(self, admission: Admission, max_seconds: float) -> None:
        self.admission, self.max_seconds = admission, max_seconds
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "timeline")

    def start(self, request: JobRequest, predictor: Predictor) -> Job:
        """Begin a job for an accepted request, which it answers for until it is finished.

        Raises `UsageError` for options that are wrong, and where the settings of the model exclude
        timelines.
        """
        timeliner = TimelinePredictor(predictor, *request.video.windows)
        timeliner.topk, timeliner.max_seconds = request.video.topk, self.max_seconds
        job = Job(uuid.uuid4().hex, request)
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, timeliner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._forget()
        return job

    def find(self, job_id: str) -> Job:
        """A job by its id; raises `RequestRefusedError` (404)."""
        job = self._jobs.get(job_id)
        if job is None:
            raise RequestRefusedError(
                *(404, "not_found"),
                f"there is no timeline {job_id}; the last {KEPT_JOBS} that are finished are kept",
            )
        return job

    async def drained(self) -> None:
        """Wait until all that was accepted is finished, and a while until the results of jobs were
        fetched. An upload that is under way may still become a job.
        """
        while self.admission.accepted:
            await asyncio.sleep(0.05)
        while any(self._waits_for_delivery(job) for job in self._jobs.values()):
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _waits_for_delivery(self, job: Job) -> bool:
        return not job.delivered and time.monotonic() - job.finished_at < DELIVERY_SECONDS

    def _forget(self) -> None:
        finished = [job.id for job in self._jobs.values() if job.finished]
        for job_id in finished[: max(0, len(finished) - KEPT_JOBS)]:
            del self._jobs[job_id]

    async def _run(self, job: Job, timeliner: TimelinePredictor) -> None:
        loop = asyncio.get_running_loop()

        def on_scored(predictions: Sequence[WindowPrediction], total: int) -> None:
            windows = [prediction.to_dict() for prediction in predictions]
            loop.call_soon_threadsafe(job.add, "windows", {"windows": windows, "total": total})

        timeliner.on_scored = on_scored
        try:
            # Jobs that wait for each other must not take the turns of short requests.
            async with self._at_once, self.admission.turn():
                job.state = "running"
                work = partial(_timeline, timeliner, job.request)
                job.timeline = await loop.run_in_executor(self._threads, work)
            job.header = timeliner.header
            job.state = "done"
            job.add("done", result_of(job))
        except VtError as error:
            self._failed(job, error)
        except Exception as error:
            self._failed(job, VtError(f"{type(error).__name__}: {error}"))
            raise
        finally:
            job.finished_at = time.monotonic()
            self.admission.leave()
            job.request.video.close()

    def _failed(self, job: Job, error: VtError) -> None:
        job.error, job.state = error, "failed"
        _, reason = status_of(error)
        job.add("failed", error_body(reason, str(error)))


def result_of(job: Job) -> dict[str, Any]:
    """The JSON form of a finished job's timeline."""
    assert job.timeline is not None
    return {**job.header, **job.timeline.to_dict(), "model": job.request.model}


def _timeline(timeliner: TimelinePredictor, request: JobRequest) -> Timeline:
    (outcome,) = timeliner.predict([request.video.path])
    if isinstance(outcome, Failure):
        raise renamed_error(outcome.error, request.video.name)
    return replace(outcome, path=request.video.name)
