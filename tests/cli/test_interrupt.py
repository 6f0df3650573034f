"""Ctrl-C ends `vt predict` within a second, also while a decoder hangs, and leaves no process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.data import layouts
from tests.forked import Forked
from tests.runtime.processes import children, running, wait_until
from vtcli.errors import EXIT_INTERRUPTED

SECONDS = 1.0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("options", [[], ["-o", "run/"]], ids=str)
def test_ctrl_c_ends_a_prediction_while_a_decoder_hangs(tmp_path: Path, options: list[str]) -> None:
    for name in ("first.mp4", "HANG.mp4"):
        layouts.video(tmp_path / name)
    words = ["predict", "first.mp4", "HANG.mp4", "-m", "vivit-nano", "-j", "1", *options]
    words += [] if "-o" in options else ["--format", "jsonl"]
    root = str(Path(__file__).parents[2])
    variables = {**os.environ, "VT_TEST_DECODER_FAULTS": "1", "PYTHONPATH": root}
    with Forked(words, variables, tmp_path) as process:
        (worker,) = wait_for_sleeping_worker(process.pid)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=20)
        seconds = time.monotonic() - begin
    assert (process.returncode, err) == (EXIT_INTERRUPTED, "vt: error: interrupted\n")
    assert seconds < SECONDS
    assert not running(worker)


def wait_for_sleeping_worker(pid: int) -> list[int]:
    """The only worker, once it sleeps in the decoder and the process has nothing left to do."""

    def idle() -> bool:
        before = cpu_ticks(pid), [cpu_ticks(child) for child in children(pid)]
        time.sleep(0.5)
        return len(before[1]) == 1 and before == (
            cpu_ticks(pid),
            [cpu_ticks(child) for child in children(pid)],
        )

    wait_until(idle)
    return children(pid)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
