"""The deletion test of `vt explain` on Motion-8: the score without the most important tenth of the
space-time cells, and without a random tenth.

    python benchmarks/explain.py MOTION8_FOLDER [--clips 100] [-m MODEL ...]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean

from vtcli.inference.explain import explain
from vtcli.inference.predictor import Predictor

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")
COLUMNS = (
    *("model", "clips", "score", "without a random tenth", "without the most important tenth"),
    *("lower than random", "ms per clip"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("-m", "--model", nargs="*", default=MODELS)
    args = parser.parse_args()
    clips = sorted(
        (args.folder / "test").glob("*/*.mp4"), key=lambda path: (path.name, path.parent)
    )
    clips = clips[: args.clips]
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|")
    for model in args.model:
        with Predictor(model, precision="fp32", workers=1) as predictor:
            _ = predictor.net
            start = time.perf_counter()
            found = [explain(predictor, str(clip)).deletion for clip in clips]
            seconds = (time.perf_counter() - start) / len(clips)
        means = (
            fmean(d.score for d in found),
            fmean(d.without_random for d in found),
            fmean(d.without_important for d in found),
        )
        lower = sum(d.is_faithful for d in found)
        cells = [model, str(len(found)), *(f"{100 * mean:.1f} %" for mean in means)]
        print(f"| {' | '.join([*cells, f'{lower} of {len(found)}', f'{1000 * seconds:.0f}'])} |")


if __name__ == "__main__":
    main()
