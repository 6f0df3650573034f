"""Overhead of the command around the network: python benchmarks/startup.py MODEL CLIP

In each round, every one in a new process: `vt --help`; `python -c "import torch"`; the forward pass
alone (timed in a process that has already loaded the model); and `vt predict`. Printed are the
medians and the time of `vt predict` beyond the import of PyTorch and the forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

FORWARD = """
import sys, time, torch, vtcli
from vtcli.models.build import clip_shape
net = vtcli.load_model(sys.argv[1], precision=sys.argv[2])
clip = torch.randn(1, *clip_shape(net.config)).to(net.dtype)
with torch.inference_mode():
    net(clip)
    start = time.perf_counter()
    net(clip)
print(time.perf_counter() - start)
"""


def timed(*words: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows: dict[str, list[float]] = {"help": [], "import torch": [], "forward": [], "predict": []}
    extra = []
    for _ in range(args.rounds):
        rows["help"].append(timed("-m", "vtcli", "--help")[0])
        rows["import torch"].append(timed("-c", "import torch")[0])
        rows["forward"].append(float(timed("-c", FORWARD, args.model, args.precision)[1]))
        words = ("predict", args.clip, "-m", args.model, "--precision", args.precision)
        rows["predict"].append(timed("-m", "vtcli", *words)[0])
        extra.append(rows["predict"][-1] - rows["import torch"][-1] - rows["forward"][-1])
    for name, times in rows.items():
        spread = f"{min(times):.2f}-{max(times):.2f}"
        print(f"{name:14} {statistics.median(times):6.2f} s  ({spread})")
    print(
        f"{'beyond both':14} {statistics.median(extra):6.2f} s  ({min(extra):.2f}-{max(extra):.2f})"
    )


if __name__ == "__main__":
    main()
