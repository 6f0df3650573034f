"""Peak memory of converting and loading a checkpoint: python benchmarks/memory.py FILE [-m ID]

Each step, and the imports alone, run in a process of their own; printed is the memory of a step
beyond the imports, as a multiple of the fp32 size of the weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
IMPORTS = "import sys, torch; from vtcli.weights.convert import convert; from pathlib import Path; "
CONVERT = IMPORTS + "convert(Path(sys.argv[1]), Path(sys.argv[2]), model=sys.argv[3] or None); "
VERIFY = CONVERT.replace("model=", "verify=True, model=")
LOAD = "import sys, torch, vtcli; model = vtcli.load_model(sys.argv[2]); "
LOAD += "total = sum(p.double().sum().item() for p in model.parameters()); "


def peak(code: str, *words: str) -> int:
    """Peak resident memory of a piece of code, in bytes."""
    command = [sys.executable, "-c", code + PEAK, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-m", "--model", default="")
    args = parser.parse_args()
    base = peak(IMPORTS)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours.safetensors"
        words = (str(args.file), str(ours), args.model)
        steps = {
            "convert": peak(CONVERT, *words),
            "convert --verify": peak(VERIFY, *words),
            "load, read all": peak(LOAD, *words),
        }
        size = ours.stat().st_size
    print(f"{args.file.name}: weights {size / 1e6:.0f} MB, imports {base / 1e6:.0f} MB")
    for name, top in steps.items():
        print(f"  {name:16} {top / 1e6:6.0f} MB, {(top - base) / size:.2f} x the weights beyond it")


if __name__ == "__main__":
    main()
