"""Forward passes of this tree against those of another one, such as a `git worktree` of a commit:

    python benchmarks/forward.py OTHER_TREE uniformerv2-b:fp32 vivit-nano:bf16 --threads 1

Two processes, one per tree, take turns pass by pass, because CPU times also grow with the load.
Printed are the shortest CPU time of each and the median and range of their ratios. Random weights,
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
model = prepare_for_inference(vtcli.create_model(name), None, torch.device("cpu"), dtype)
clip = torch.randn(1, *clip_shape(model.config), dtype=dtype)
with torch.inference_mode():
    model(clip)
    for line in sys.stdin:
        start = time.process_time()
        model(clip)
        print(time.process_time() - start, flush=True)
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

    def seconds(self) -> float:
        """CPU time of a forward pass."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

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
        times = [[1e3 * one.seconds() for one in both] for _ in range(args.passes)]
        for one in both:
            one.close()
        other, ours = map(min, zip(*times, strict=True))
        ratios = [there / here for there, here in times]
        print(
            f"{case}: {other:.1f} ms there, {ours:.1f} ms here, {median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) x",
            flush=True,
        )


if __name__ == "__main__":
    main()
