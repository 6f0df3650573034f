"""What overlapping windows share: python benchmarks/overlap.py [--seconds S] [--rounds N]

A random full-size network of each kind predicts windows of 2 s every 0.5 s of a synthetic clip of
`--fps` frames per second, in turn with and without shared steps, in one process on one thread.
Printed are executed multiply-accumulates, CPU time of the main process, and the largest difference
of two scores.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from vtcli.inference.predictor import Predictor
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline
from vtcli.models.build import prepare_for_inference
from vtcli.weights.load import create_model
from vtcli.weights.registry import load_registry

CHECKPOINTS = ("uniformerv2-b.k400-8f", "vivit-b-fe.k400-in21k-32f")
WINDOW, STRIDE = 2.0, 0.5


def _onednn_flops(x_shape: Any, w_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return conv_flop_count(x_shape, w_shape, out_shape, transposed=False)


def _linear_flops(x_shape: Any, w_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * math.prod(out_shape) * int(w_shape[1])


ONEDNN = {
    torch.ops.aten.mkldnn_convolution: _onednn_flops,
    torch.ops.mkldnn._linear_pointwise: _linear_flops,
}


def write_clip(path: Path, seconds: float, fps: int) -> None:
    """Low-frequency noise that moves, 320x256."""
    base = np.random.default_rng(0).integers(0, 256, (8, 10, 3)).repeat(32, 0).repeat(32, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 256, "yuv420p"
        for number in range(round(seconds * fps)):
            rolled = np.roll(base, number * 3, 1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rolled, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-m", "--model", nargs="*", default=CHECKPOINTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, asked.seconds, asked.fps)
        for name in asked.model:
            compare(name, clip, asked.rounds)


def random_network(name: str) -> Any:
    """A network of this checkpoint's size whose scores differ from class to class."""
    torch.manual_seed(0)
    net = create_model(name).requires_grad_(False)
    entry = load_registry().find(name)
    for parameter in net.parameters():
        if parameter.dim() > 1 and parameter.shape[0] == entry.heads[0].size:
            torch.nn.init.normal_(parameter, std=0.02)
    card = SimpleNamespace(heads=entry.heads, labels=entry.heads[0].labels, calibration={})
    return prepare_for_inference(net, card, torch.device("cpu"), torch.float32)


def compare(name: str, clip: Path, rounds: int) -> None:
    """Print one line for a network."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    macs: dict[bool, int] = {}
    scores: dict[bool, np.ndarray] = {}
    with Predictor(name, precision="fp32", topk=10_000) as predictor:
        predictor._net = random_network(name)  # in place of weights that would be downloaded
        timeline = TimelinePredictor(predictor, WINDOW, STRIDE)
        for shared in (True, False):
            timeline.share_steps = shared
            with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
                (outcome,) = timeline.predict([clip])
            macs[shared] = counter.get_total_flops() // 2
            assert isinstance(outcome, Timeline), outcome
            scores[shared] = np.array([_in_class_order(w) for w in outcome.windows])
        for number in range(rounds):
            for shared in (True, False) if number % 2 else (False, True):
                timeline.share_steps = shared
                start = time.process_time()
                list(timeline.predict([clip]))
                seconds[shared].append(time.process_time() - start)
    ratios = [one / other for one, other in zip(seconds[False], seconds[True], strict=True)]
    print(
        f"{name}: {len(scores[True])} windows, MACs {macs[False] / 1e12:.2f} T apart, "
        f"{macs[True] / 1e12:.2f} T shared ({macs[False] / macs[True]:.2f}x); CPU "
        f"{statistics.median(seconds[False]):.1f} s apart, {statistics.median(seconds[True]):.1f} "
        f"s shared ({statistics.median(ratios):.2f}x, {min(ratios):.2f}-{max(ratios):.2f}); scores "
        f"differ by {np.abs(scores[True] - scores[False]).max():.1e} at most",
        flush=True,
    )


def _in_class_order(window: Any) -> list[float]:
    ranking = next(iter(window.heads.values()))
    return [p.score for p in sorted(ranking, key=lambda p: p.index)]


if __name__ == "__main__":
    main()
