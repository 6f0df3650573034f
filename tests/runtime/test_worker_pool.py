"""A process that hangs or dies loses only its item, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from tests.data.faulty import work
from tests.runtime.calls import count_up, filled, imported, numbered
from tests.runtime.processes import children, default_sigint, running, wait_until
from vtcli.runtime import worker
from vtcli.runtime.worker_pool import (
    WorkerFailedError,
    WorkerFailure,
    WorkerPool,
    imap_with_timeout,
)

SCRIPT = """
from tests.data.faulty import work
from tests.runtime.processes import running, wait_until
from vtcli.runtime.worker_pool import imap_with_timeout

if __name__ == "__main__":
    list(imap_with_timeout(work, ["pid {0}/a", "pid {0}/b"], workers=2))
"""


_before: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Other tests of this process may have processes of their own."""
    _before.clear()
    _before.update(children())


def started() -> list[int]:
    """The processes that a test has started and that still run."""
    return [pid for pid in children() if pid not in _before]


def test_every_item_is_returned_whatever_happens_to_the_others() -> None:
    items = ["a", "segfault", "b", "hang", "c", "exit", "slow", "d"]
    outcomes = dict(imap_with_timeout(work, items, workers=2, timeout=0.6))
    assert set(outcomes) == set(items)
    assert {item for item, outcome in outcomes.items() if outcome == item.upper()} == {
        *("a", "b", "c", "d", "slow")  # slow takes longer than the timeout, but sends heartbeats
    }
    assert outcomes["segfault"] == WorkerFailure("crashed", "the process was killed by SIGSEGV")
    assert outcomes["exit"] == WorkerFailure("crashed", "the process exited with code 5")
    assert outcomes["hang"] == WorkerFailure("timeout", "did not respond for 0.6 s")
    assert not started()


def test_an_exception_is_raised_in_the_parent_and_ends_all_processes() -> None:
    with pytest.raises(OSError, match="No space") as raised:
        list(imap_with_timeout(work, ["raise", "hang"], workers=2))
    assert raised.value.errno == 28
    assert any("faulty.py" in note for note in raised.value.__notes__)
    assert not started()


def test_items_are_taken_on_demand_and_closing_early_leaves_no_process() -> None:
    taken = []

    def items() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield str(number)

    outcomes = imap_with_timeout(work, items(), workers=1)
    assert next(outcomes) == ("0", "0")
    outcomes.close()
    assert len(taken) == 1
    assert not started()


def test_an_interrupt_is_deferred_while_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spawn, pids = subprocess.Popen, list[int]()

    def interrupted_spawn(*args: Any, **options: Any) -> Any:
        process = spawn(*args, **options)
        pids.append(process.pid)
        os.kill(process.pid, signal.SIGINT)  # as a terminal sends it to all
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(worker.subprocess, "Popen", interrupted_spawn)
    with default_sigint(), pytest.raises(KeyboardInterrupt):
        list(imap_with_timeout(work, ["hang"], workers=1))
    wait_until(lambda: pids and not any(map(running, pids)))
    assert capfd.readouterr() == ("", "")


def test_no_items_start_no_process() -> None:
    assert list(imap_with_timeout(work, [], workers=2)) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with default_sigint():
        parent = subprocess.Popen(
            [sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL
        )
    with parent:
        files = [tmp_path / "a", tmp_path / "b"]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        workers = [int(file.read_text()) for file in files]
        assert all(map(running, workers))
        parent.send_signal(number)
        assert parent.wait(10) == -number
    wait_until(lambda: not any(map(running, workers)))


def test_large_arrays_arrive_whole_and_belong_to_the_receiver() -> None:
    with WorkerPool(1) as pool:
        found = pool.submit(filled, 5_000_000).result()
        assert (found.shape, found.min(), found.max()) == ((5_000_000,), 7, 7)
        found += 1
        assert pool.submit(filled, 10).result().tolist() == [7] * 10


def test_arrays_stay_what_they_are_when_the_next_ones_come() -> None:
    """Their shared memory is used again."""
    with WorkerPool(1) as pool:
        sizes = [70_000, 200_000, 100_000, 5_000_000, 70_000, 10, 90_000]
        found = [pool.submit(numbered, size, size % 251).result() for size in sizes]
        parts = [part for _, part in pool.stream(count_up, 3)]
        found += [pool.submit(numbered, 100_000, 9).result()]
    for array, size in zip(found, sizes, strict=False):
        assert (len(array), array.min(), array.max()) == (size, size % 251, size % 251)
    assert [int(part[0]) for part in parts] == [0, 1, 2]


def test_a_stream_waits_for_its_consumer_and_may_be_left() -> None:
    with WorkerPool(1, timeout=0.6) as pool:
        parts = pool.stream(count_up, 20)
        assert next(parts)[0] == 0
        time.sleep(1.2)  # a consumer may take longer than the process may be silent
        assert [part[0] for part in parts] == list(range(1, 20))
        endless = pool.stream(count_up, 10**9)
        next(endless)
        endless.close()
        assert pool.submit(filled, 1).result().tolist() == [7]


def test_a_call_that_needs_too_much_memory_is_lost_alone() -> None:
    with WorkerPool(1, memory_bytes=3 << 30) as pool:
        with pytest.raises(WorkerFailedError, match="needs more memory") as raised:
            pool.submit(filled, 10 << 30).result()
        assert raised.value.failure.reason == "limit"
        assert pool.submit(filled, 1).result().tolist() == [7]


def test_closing_ends_processes_and_cancels_calls() -> None:
    pool = WorkerPool(1)
    first, second = (pool.submit(time.sleep, 600) for _ in range(2))
    wait_until(lambda: bool(started()))
    pool.close()
    assert not started()
    assert second.cancelled()
    with pytest.raises((CancelledError, WorkerFailedError)):
        first.result()


def test_a_worker_imports_no_torch() -> None:
    with WorkerPool(1) as pool:
        assert pool.submit(imported, "vtcli.video.decode_pool").result() == []


def test_a_process_that_cannot_inherit_a_socket_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "INHERITS_SOCKETS", False)
    outcomes = dict(imap_with_timeout(work, ["a", "segfault", "b"], workers=2))
    assert (outcomes["a"], outcomes["b"]) == ("A", "B")
    assert outcomes["segfault"] == WorkerFailure("crashed", "the process was killed by SIGSEGV")
    with WorkerPool(1) as pool:
        assert pool.submit(filled, 1_000_000).result().min() == 7
    assert not started()
