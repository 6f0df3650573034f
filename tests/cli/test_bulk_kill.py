"""A bulk run that is killed anywhere, resumed, ends with the rows of an unbroken one."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli import bulk_runs
from tests.cli.bulk_runs import MODEL, TORCHRUN, kept_rows, rows_of, start, values_of
from tests.forked import Forked
from tests.runtime.processes import kill_tree

FILES = 200
# Twenty take many minutes: VT_TEST_KILLS=20.
KILLS = int(os.environ.get("VT_TEST_KILLS", "2"))
Command = tuple[Sequence[str], tuple[str, ...]]
ONE: list[Command] = [((), ())]
SHARDS: list[Command] = [(("--shard", "0/2"), ()), (("--shard", "1/2"), ())]
TORCH: list[Command] = [((), TORCHRUN)]


def words(videos: Path, run: Path) -> list[str]:
    settings = ("-b", "8", "--part-size", "20", "--format", "jsonl", "-j", "1")
    return ["predict", str(videos), "-m", MODEL, "-o", f"{run}/", *settings]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bulk_runs.folder_of(tmp_path_factory.mktemp("videos") / "in", FILES)


@pytest.fixture(scope="module")
def unbroken(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(words(videos, run))
    assert process.wait() == 3, process.communicate()
    assert len(rows_of(run)) == FILES
    return run


def launch(
    commands: Sequence[Command], videos: Path, run: Path
) -> list[Forked | subprocess.Popen[str]]:
    return [start([*words(videos, run), *extra], launcher) for extra, launcher in commands]


def kill_at(commands: Sequence[Command], videos: Path, run: Path, rows: int) -> None:
    """Kill all processes once that many rows are stored, at the latest when they end."""
    processes = launch(commands, videos, run)
    deadline = time.monotonic() + 300
    while len(kept_rows(run)) < rows and any(p.poll() is None for p in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in processes:
        kill_tree(process.pid)
        process.communicate()


def check(commands: Sequence[Command], videos: Path, unbroken: Path, run: Path, kills: int) -> None:
    """Kill at random points; what was stored then stays as it is, and the rest is added."""
    chance = random.Random(len(commands[0][0]) + kills)
    points = sorted(chance.randrange(1, FILES) for _ in range(kills))
    stored = {}
    for point in points:
        kill_at(commands, videos, run, point)
        found = kept_rows(run)
        assert stored.items() <= found.items()  # with the time it took: nothing is computed again
        stored = found
    for process in launch(commands, videos, run):
        errors = process.communicate(timeout=300)[1]
        # torchrun has a code of its own where a process ends with 3 (some inputs failed).
        assert process.returncode in ((1,) if commands is TORCH else (0, 3)), errors
        assert errors.count("Traceback") == (1 if commands is TORCH else 0), (
            errors
        )  # torchrun's own
    assert stored.items() <= {row["path"]: row for row in rows_of(run)}.items()
    assert values_of(run) == values_of(unbroken)
    assert not list(run.glob("_vt/*.journal"))
    assert not list(run.glob("_vt/*.claim"))
    assert not list(run.glob("_vt/.*.tmp"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("commands", [ONE, SHARDS, TORCH], ids=["one", "shards", "torchrun"])
def test_rows_are_the_same_after_kills(
    commands: list[Command], videos: Path, unbroken: Path, tmp_path: Path
) -> None:
    check(commands, videos, unbroken, tmp_path / "run", kills=KILLS)
