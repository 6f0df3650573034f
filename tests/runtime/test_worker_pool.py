"""A process that hangs or dies loses only its item, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, util
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.data.faulty import work
from tests.runtime.processes import default_sigint, running, wait_until
from vtcli.runtime.worker_pool import WorkerFailure, imap_with_timeout

SCRIPT = """
from tests.data.faulty import work
from tests.runtime.processes import running, wait_until
from vtcli.runtime.worker_pool import imap_with_timeout

if __name__ == "__main__":
    list(imap_with_timeout(work, ["pid {0}/a", "pid {0}/b"], workers=2))
"""


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
    assert not multiprocessing.active_children()


def test_an_exception_is_raised_in_the_parent_and_ends_all_processes() -> None:
    with pytest.raises(OSError, match="No space") as raised:
        list(imap_with_timeout(work, ["raise", "hang"], workers=2))
    assert raised.value.errno == 28
    assert any("faulty.py" in note for note in raised.value.__notes__)
    assert not multiprocessing.active_children()


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
    assert not multiprocessing.active_children()


def test_an_interrupt_is_deferred_while_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spawn, pids = util.spawnv_passfds, list[int]()

    def interrupt() -> None:
        # The main thread blocks the signal; a thread that started earlier does not.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)

    def interrupted_spawn(*args: Any) -> int:
        pids.append(spawn(*args))
        thread = Thread(target=interrupt)
        thread.start()
        thread.join()
        return pids[-1]

    resource_tracker.ensure_running()
    monkeypatch.setattr(util, "spawnv_passfds", interrupted_spawn)
    with default_sigint(), pytest.raises(KeyboardInterrupt):
        list(imap_with_timeout(work, ["a"], workers=1))
    wait_until(lambda: not any(map(running, pids)))
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
