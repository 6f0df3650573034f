"""Back pressure: how many requests are accepted, and when a refused one may come again.

Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from vtcli.serving.refusals import RequestRefusedError

_MOST_SECONDS = 60


class Admission:
    """Accepts `concurrent` requests to be worked on and `queue` that wait; refuses all others.

    `accepted` counts those that are accepted and not answered yet, `working` those of them that are
    decoded or scored.
    """

    def __init__(self, concurrent: int, queue: int) -> None:
        self.concurrent, self.capacity = concurrent, concurrent + queue
        self.accepted = self.working = 0
        self.stopping = False
        self._turns = asyncio.Semaphore(concurrent)
        self._mean_seconds = 1.0

    @contextmanager
    def accept(self) -> Iterator[None]:
        """Count a request as accepted; raises `RequestRefusedError` where there are too many."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Accept a request until `leave`; raises as `accept` does."""
        if self.stopping:
            raise RequestRefusedError(
                503, "stopping", "the server is stopping; send the request to another", 5
            )
        if self.accepted >= self.capacity:
            raise RequestRefusedError(
                *(429, "busy"),
                f"{self.accepted} requests are being worked on or waiting; send this one again "
                f"in {self.retry_after} s",
                self.retry_after,
            )
        self.accepted += 1

    def leave(self) -> None:
        """An accepted request is answered."""
        self.accepted -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until fewer than `concurrent` accepted requests are worked on."""
        async with self._turns:
            self.working += 1
            start = time.perf_counter()
            try:
                yield
            finally:
                self.working -= 1
                self._mean_seconds += 0.1 * (time.perf_counter() - start - self._mean_seconds)

    @property
    def retry_after(self) -> int:
        """Seconds in which the requests that wait now are probably worked on."""
        waiting = max(1, self.accepted - self.concurrent)
        seconds = math.ceil(self._mean_seconds * waiting / self.concurrent)
        return max(1, min(seconds, _MOST_SECONDS))
