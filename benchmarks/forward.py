"""Forward passes of this tree against those of another one, such as a `git worktree` of a commit:

    python benchmarks/forward.py OTHER_TREE uniformerv2-b:fp32 vivit-nano:bf16 --threads 1

Two processes, one per tree, take turns pass by pass, because CPU times also grow with the load.
Printed are the shortest times of each and the median and range of their ratios. Random weights,
one view.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

CODE = """
import sys, time
import torch
import vtcli
from vtcli.models.build import clip_shape, prepare_for_inference
torch.set_num_threads(int(sys.argv[1]))
name, _, precision = sys.argv[2].partition(":")
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
given = vtcli.create_model(name), None, torch.device("cpu"), dtype
try:
    from vtcli.runtime.memory import keep_freed_memory
    keep_freed_memory()
    model = prepare_for_inference(*given, packed=True)
except (ImportError, TypeError):  # an older tree
    model = prepare_for_inference(*given)
clip = torch.randn(1, *clip_shape(model.config), dtype=dtype)
with torch.inference_mode():
    model(clip)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        model(clip)
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)
"""


class Passes:
    """A process that makes a forward pass when it is asked to, with the package of a tree."""

    def __init__(self, tree: Path, threads: int, case: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", CODE, str(threads), case]
        # In the tree: the current folder comes before PYTHONPATH.
        self.process = subprocess.Popen(
            words, cwd=tree, env=env, stdin=pipe, stdout=pipe, text=True
        )

    def seconds(self) -> tuple[float, float]:
        """CPU time and wall time of a forward pass."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        cpu, wall = self.process.stdout.readline().split()
        return float(cpu), float(wall)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("cases", nargs="+", metavar="MODEL:PRECISION")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=9)
    args = parser.parse_args()
    trees = (args.other, Path(__file__).resolve().parent.parent)
    for case in args.cases:
        both = [Passes(tree, args.threads, case) for tree in trees]
        times = [[one.seconds() for one in both] for _ in range(args.passes)]
        for one in both:
            one.close()
        for kind, clock in enumerate(("CPU", "wall")):
            there, here = (
                [1e3 * times_of[kind] for times_of in one] for one in zip(*times, strict=True)
            )
            ratios = [other / ours for other, ours in zip(there, here, strict=True)]
            print(
                f"{case}, {clock}: {min(there):.1f} ms there, {min(here):.1f} ms here, "
                f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) x",
                flush=True,
            )


if __name__ == "__main__":
    main()
