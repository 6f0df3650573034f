"""An evaluation's pace against its parts alone: python benchmarks/evaluation.py MODEL CLIP

In one process and in turn, round by round: all copies of the clip decoded and cut into views with
nothing else running; as many forward passes alone; and the evaluation of all copies, both
together. Decoding and network share the cores, so the best that can be is 1/(1/decode +
1/forward). Printed are medians of videos per second and the share of that, with its range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vtcli.data.clip_loader import Loader, Request
from vtcli.data.open import open_dataset
from vtcli.evaluation.batching import slots_per_batch
from vtcli.evaluation.evaluator import Evaluator
from vtcli.evaluation.plan import EvalSettings, plan_evaluation
from vtcli.inference.scoring import default_batch_size, forward
from vtcli.models.build import clip_shape
from vtcli.runtime.distributed import Group
from vtcli.weights.load import load_model


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--views", default="1x1")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = EvalSettings(views=args.views, precision=args.precision)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos", "applauding")
        videos.mkdir(parents=True)
        for number in range(args.copies):
            os.symlink(args.clip.resolve(), videos / f"{number:04}{args.clip.suffix}")
        plan = plan_evaluation(open_dataset(videos.parent), args.model, settings)
        net = load_model(args.model, precision=args.precision)
        requests = [[Request(s, tuple(range(plan.protocol.views)))] for s in plan.dataset.samples]
        places = slots_per_batch(
            plan.protocol.views, default_batch_size(net, clip_shape(net.config))
        )
        batch = torch.randn(places, *clip_shape(net.config))
        passes = -(-args.copies * plan.protocol.views // places)

        def decode() -> None:
            for _, loaded in Loader(plan.reader, requests, os.cpu_count() or 1):
                for _ in loaded[0]:
                    pass

        def compute() -> None:
            for _ in range(passes):
                forward(net, batch)

        def evaluate(number: int) -> None:
            evaluator = Evaluator(plan, Path(folder, f"run{number}"), Group())
            start = time.perf_counter()
            evaluator.run()
            whole.append(time.perf_counter() - start)

        whole: list[float] = []
        forward(net, batch)
        alone = []
        for number in range(args.rounds):
            alone.append((seconds(decode), seconds(compute)))
            evaluate(number)
    n = args.copies
    for name, times in (
        ("decode alone", [d for d, _ in alone]),
        ("forward alone", [c for _, c in alone]),
        ("evaluation", whole),
    ):
        print(f"{name:14} {n / statistics.median(times):7.2f} videos/s")
    shares = [(d + c) / w for (d, c), w in zip(alone, whole, strict=True)]
    spread = f"{min(shares):.2f}-{max(shares):.2f}"
    print(f"share of the possible: {statistics.median(shares):.2f} ({spread})")


if __name__ == "__main__":
    main()
