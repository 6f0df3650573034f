"""Throughput of an evaluation against its parts: python benchmarks/evaluation.py MODEL CLIP

In one process and alternating: decode all copies of the clip and cut them into views; run the same
number of forward passes; evaluate all copies, which does both at once. Decoding and the network
share the cores, so the upper bound is 1/(1/decode + 1/forward). Prints median videos per second,
and the fraction of the upper bound with its range.
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
from vtcli.errors import VideoDecodeError
from vtcli.evaluation import EvalSettings, Evaluator, plan_evaluation
from vtcli.inference.batching import slots_per_batch
from vtcli.inference.scoring import default_batch_size, forward
from vtcli.models.build import clip_shape
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
        slots = slots_per_batch(
            plan.protocol.views, default_batch_size(net, clip_shape(net.config))
        )
        batch = torch.randn(slots, *clip_shape(net.config))
        passes = -(-args.copies * plan.protocol.views // slots)

        def decode() -> None:
            for _, (loaded,) in Loader(plan.reader, requests, os.cpu_count() or 1):
                if isinstance(loaded, VideoDecodeError):
                    raise loaded
                for _ in loaded.clips:
                    pass

        def compute() -> None:
            for _ in range(passes):
                forward(net, batch)

        def evaluate(number: int) -> None:
            evaluator = Evaluator(plan, Path(folder, f"run{number}"))
            start = time.perf_counter()
            evaluator.run()
            evaluated.append(time.perf_counter() - start)

        evaluated: list[float] = []
        forward(net, batch)
        alone = []
        for number in range(args.rounds):
            alone.append((seconds(decode), seconds(compute)))
            evaluate(number)
    n = args.copies
    for name, times in (
        ("decode alone", [d for d, _ in alone]),
        ("forward alone", [c for _, c in alone]),
        ("evaluation", evaluated),
    ):
        print(f"{name:14} {n / statistics.median(times):7.2f} videos/s")
    fractions = [(d + c) / e for (d, c), e in zip(alone, evaluated, strict=True)]
    spread = f"{min(fractions):.2f}-{max(fractions):.2f}"
    print(f"fraction of the upper bound: {statistics.median(fractions):.2f} ({spread})")


if __name__ == "__main__":
    main()
