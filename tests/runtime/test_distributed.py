"""What processes exchange arrives as it was sent, and a process that hangs is a sentence."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.harness import ROOT, environment
from vtcli.runtime.distributed import COLLECTIVE_TIMEOUT

SCRIPT = """
import json, sys, time
from datetime import timedelta
from vtcli.errors import DataError
from vtcli.runtime.distributed import process_group

with process_group(timedelta(seconds=3)) as group:
    gathered = group.all_gather(None if group.rank == 0 else "value")
    if group.rank == 1:
        time.sleep(6)  # it hangs
        sys.exit()
    start = time.monotonic()
    try:
        group.all_gather(1)
    except DataError as error:
        print(json.dumps([gathered, str(error), time.monotonic() - start]))
"""


@pytest.mark.slow
def test_nothing_is_dropped_and_a_hung_process_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py")],
            env=environment(
                PYTHONPATH=str(ROOT),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    out, err = processes[0].communicate(timeout=60)
    processes[1].communicate(timeout=60)
    assert out, err
    gathered, sentence, seconds = json.loads(out)
    assert gathered == [None, "value"]
    assert "another process of this run does not respond" in sentence
    assert "run the same command again to resume" in sentence
    assert seconds < 6


def test_training_waits_minutes_not_days() -> None:
    assert COLLECTIVE_TIMEOUT.total_seconds() <= 3600
