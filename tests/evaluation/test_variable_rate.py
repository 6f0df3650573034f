"""Clips of Motion-8 as segments of a variable-rate file score as they do at a constant rate."""

from __future__ import annotations

import csv
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.data import layouts
from vtcli.cli import run
from vtcli.synthetic.motion8 import MOTIONS, draw_scene, render

FRAMES = 24
MILLISECOND = Fraction(1, 1000)
# Milliseconds between the frames of the first clip, the second, ...
GAPS = {"constant": (67,) * 8, "variable": (20, 25, 20, 33, 200, 125, 67, 200)}


def test_segments_of_a_variable_rate_file_score_the_same(tmp_path: Path) -> None:
    labels = [*MOTIONS]
    clips = [render(draw_scene("test", m, n)) for n, m in enumerate(labels)]
    scores = {}
    for name, gaps in GAPS.items():
        times = [0, *accumulate(gap for gap in gaps for _ in range(FRAMES))]
        write(tmp_path / f"{name}.mkv", np.concatenate(clips), times)
        bounds = [times[n * FRAMES] / 1000 for n in range(len(labels) + 1)]
        rows = [
            (f"{name}.mkv", label, bounds[n], bounds[n + 1], n) for n, label in enumerate(labels)
        ]
        path = layouts.table(
            tmp_path / f"{name}.csv", [("path", "label", "start", "end", "id"), *rows]
        )
        average = len(labels) * FRAMES / bounds[-1]
        if name == "variable":  # the average rate would give most segments frames of another clip
            off = [abs(bounds[n] * average - n * FRAMES) for n in range(len(labels))]
            assert sum(frames > FRAMES / 2 for frames in off) > len(labels) / 2
        out = tmp_path / name
        args = ["eval", "--dataset", str(path), "-m", "vivit-nano", "--precision", "fp32"]
        assert run([*args, "-o", str(out), "-j", "0"]) == 0
        with (out / "predictions.csv").open(newline="") as file:
            scores[name] = [
                (r["id"], r["action_prob"], r["action_correct"]) for r in csv.DictReader(file)
            ]
    assert scores["variable"] == scores["constant"]
    assert sum(int(right) for _, _, right in scores["constant"]) >= 6  # of 8


def write(path: Path, frames: NDArray[np.uint8], times: list[int]) -> None:
    """A lossless file whose frames are shown at `times`, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        stream.codec_context.time_base = MILLISECOND
        for pixels, time in zip(frames, times, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = time, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
