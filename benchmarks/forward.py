"""Forward passes of this tree against those of another one, such as a `git worktree` of a commit:

    python benchmarks/forward.py OTHER_TREE uniformerv2-b:fp32 vivit-nano:bf16 --threads 1

The trees take turns in processes of their own; printed is the shortest CPU time of each. Random
weights, one view.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys, time
import torch
import vtcli
from vtcli.models.build import clip_shape, prepare_for_inference
torch.set_num_threads(int(sys.argv[1]))
seconds = {}
for case in sys.argv[3:]:
    name, _, precision = case.partition(":")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = prepare_for_inference(vtcli.create_model(name), None, torch.device("cpu"), dtype)
    clip = torch.randn(1, *clip_shape(model.config), dtype=dtype)
    with torch.inference_mode():
        model(clip)
        passes = []
        for _ in range(int(sys.argv[2])):
            start = time.process_time()
            model(clip)
            passes.append(time.process_time() - start)
    seconds[case] = min(passes)
print(json.dumps(seconds))
"""


def measure(tree: Path, threads: int, passes: int, cases: list[str]) -> dict[str, float]:
    """The shortest CPU time of each case in seconds, with the package of `tree`."""
    words = [sys.executable, "-c", CODE, str(threads), str(passes), *cases]
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("cases", nargs="+", metavar="MODEL:PRECISION")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    trees = (args.other, Path(__file__).resolve().parent.parent)
    best: dict[tuple[Path, str], float] = {}
    for _ in range(args.rounds):
        for tree in trees:
            for case, value in measure(tree, args.threads, args.passes, args.cases).items():
                best[tree, case] = min(value, best.get((tree, case), value))
    for case in args.cases:
        other, ours = (1e3 * best[tree, case] for tree in trees)
        print(f"{case}: {other:.1f} ms there, {ours:.1f} ms here, {other / ours:.2f}x")


if __name__ == "__main__":
    main()
