"""Bulk runs that are killed again and again: python benchmarks/kills.py SCENARIO [--kills N]

A folder of tiny videos, every seventh of which is junk, is predicted into a folder by one process
(`one`), by two of torchrun (`torchrun`), by two shards (`shards`), or on a Ray cluster of two nodes
(`ray-actor`, `ray-node`). They are killed with SIGKILL at random points: half of them when a random
number of rows is stored, half a random time after the start; of Ray one actor, or one node, which
then comes back. The same command is given again after each kill. Printed are the rows that were
stored before a kill and computed again after it, and whether the rows are the inputs, each once,
with the values of a run that nobody disturbed. Exits with 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli.bulk_runs import MODEL, TORCHRUN, folder_of, kept_rows, rows_of, start, values_of
from tests.runtime.processes import kill_tree

Processes = list["subprocess.Popen[str]"]
VT = (sys.executable, "-m", "vtcli")
DEADLINE = 120.0
"""Seconds in which a run must store a further row."""


@dataclass
class Scenario:
    """What is run and killed; `stored` are the rows before the last kill, `again` counts those that
    were stored and computed once more.
    """

    videos: Path
    run: Path
    files: int
    chance: random.Random
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    again: int = 0
    kills: list[str] = field(default_factory=list)

    def words(self, *more: str) -> list[str]:
        settings = ("-b", "8", "--part-size", "20", "--format", "jsonl", "-j", "1")
        return ["predict", str(self.videos), "-m", MODEL, "-o", f"{self.run}/", *settings, *more]

    def wait(self, rows: int | None, processes: Processes) -> None:
        """Until that many rows are stored (None: a random time), or all processes have ended."""
        if rows is None:
            time.sleep(self.chance.uniform(0.0, 4.0))
            return
        deadline = time.monotonic() + DEADLINE
        while len(kept_rows(self.run)) < rows and any(p.poll() is None for p in processes):
            if time.monotonic() > deadline:
                raise SystemExit(f"no {rows} rows within {DEADLINE:g} s")
            time.sleep(0.01)
        time.sleep(self.chance.uniform(0.0, 0.05))

    def note(self, what: str) -> None:
        """Compare what is stored now with what was before."""
        found = kept_rows(self.run)
        self.again += sum(found.get(path) != row for path, row in self.stored.items())
        self.stored = found
        self.kills.append(f"{what} {len(found)}")


def by_processes(scenario: Scenario, points: list[int | None], kind: str) -> None:
    """All processes are killed at each point."""
    commands = {
        "one": [(VT, ())],
        "torchrun": [(TORCHRUN, ())],
        "shards": [(VT, ("--shard", "0/2")), (VT, ("--shard", "1/2"))],
    }[kind]

    def launch() -> Processes:
        return [start(scenario.words(*more), launcher) for launcher, more in commands]

    for point in points:
        processes = launch()
        scenario.wait(point, processes)
        for process in processes:
            kill_tree(process.pid)
            process.communicate()
        scenario.note("at" if point else "early at")
    for process in launch():
        process.communicate()


def on_ray(scenario: Scenario, points: list[int | None], kind: str) -> None:
    """An actor, or a node with its actor, is killed at each point; the driver goes on."""
    from ray.cluster_utils import Cluster

    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1)
    words = scenario.words("--engine", "ray", "--ray-address", cluster.address)

    def working() -> list[int]:
        found = []
        for path in scenario.run.glob("_vt/*.claim"):
            with suppress(OSError, ValueError):
                found.append(int(json.loads(path.read_bytes())["pid"]))
        return found

    driver = start(words, VT)
    for point in points:
        if driver.poll() is not None:  # one part has ended two actors
            driver.communicate()
            driver = start(words, VT)
        scenario.wait(point, [driver])
        if kind == "ray-node":
            cluster.remove_node(second, allow_graceful=False)
            scenario.note("node at")
            second = cluster.add_node(num_cpus=1)
        elif pids := working():
            with suppress(ProcessLookupError):
                os.kill(scenario.chance.choice(pids), signal.SIGKILL)
            scenario.note("actor at")
    if driver.wait() == 7:
        driver = start(words, VT)
    driver.communicate()
    cluster.shutdown()


SCENARIOS: dict[str, Callable[[Scenario, list[int | None], str], None]] = {
    **dict.fromkeys(("one", "torchrun", "shards"), by_processes),
    **dict.fromkeys(("ray-actor", "ray-node"), on_ray),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    counts = sorted(chance.sample(range(1, args.files), args.kills - args.kills // 2))
    by_rows = set(chance.sample(range(args.kills), len(counts)))
    points = [counts.pop(0) if number in by_rows else None for number in range(args.kills)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        videos = folder_of(folder / "in", args.files)
        unbroken = Scenario(videos, folder / "unbroken", args.files, chance)
        start(unbroken.words(), VT).communicate()
        scenario = Scenario(videos, folder / "run", args.files, chance)
        begin = time.monotonic()
        SCENARIOS[args.scenario](scenario, points, args.scenario)
        scenario.note("end at")
        once = len(rows_of(scenario.run)) == len(list(videos.iterdir())) == args.files
        equal = values_of(scenario.run) == values_of(unbroken.run)
        left = [p.name for p in scenario.run.glob("_vt/*") if p.suffix in (".journal", ".claim")]
    print(f"{args.scenario}, seed {args.seed}: kills with rows stored: {', '.join(scenario.kills)}")
    print(
        f"{len(scenario.kills) - 1} kills in {time.monotonic() - begin:.0f} s; stored rows that "
        f"were computed again: {scenario.again}; each input once: {once}; values equal: {equal}; "
        f"left behind: {left or 'nothing'}"
    )
    raise SystemExit(not (once and equal and not scenario.again and not left))


if __name__ == "__main__":
    main()
