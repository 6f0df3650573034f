"""SIGTERM and SIGINT (Ctrl-C) during training: finish the optimizer step, save, and end.

Schedulers send SIGTERM before they kill a job, users press Ctrl-C; neither loses training time. A
signal that vt's caller ignores (SIGINT under `nohup` or in a background job of a shell) stays
ignored.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FORCE_QUIT_AFTER = 3.0
"""Seconds in which a repeated signal is ignored: torchrun forwards a signal that its processes have
received already, as members of the same process group.
"""


class StopSignals:
    """`received` is the number of the signal that asked to stop, 0 before one came."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Note signals instead of ending at once, until the block ends.

        A second Ctrl-C ends at once, another repeated signal after `FORCE_QUIT_AFTER`. Only the
        main thread can handle signals; in any other, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        first_time = 0.0

        def note(number: int, frame: FrameType | None) -> None:
            nonlocal first_time
            if not self.received:
                self.received, first_time = number, time.monotonic()
            elif time.monotonic() >= first_time + _grace(number):
                signal.signal(number, before[signal.Signals(number)])
                signal.raise_signal(number)

        handled = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
        for number in handled:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, before[number])


def _grace(number: int) -> float:
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    return FORCE_QUIT_AFTER if number == signal.SIGTERM or under_torchrun else 0.0
