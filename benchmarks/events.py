"""Events of the nano models: a rule fitted to one film, judged on another with other shapes.

    python benchmarks/events.py FOLDER [--models vivit-nano ...] [--clips 192] [--window 1.1s]
    python benchmarks/events.py FOLDER --background

Writes two films to FOLDER (192 clips with the shapes of Motion-8's validation split, 96 with those
of its test split), and for each model prints F1 at tIoU 0.5 and false events per minute of
background on the second film, by the default rule and by the one that was fitted to the first. With
--background, models are fine-tuned first, on clips of the training split (30 of each motion) and on
120 of a class background, half of them still and half noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vtcli.synthetic.film import write_film
from vtcli.synthetic.motion8 import MOTIONS, draw_scene, encode, render

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")


def vt(*words: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "vtcli", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def evaluate(folder: Path, film: str, model: object, *words: object) -> dict[str, Any]:
    """The report of `vt eval --events` on a film."""
    dataset = ("--dataset", folder / f"{film}.csv", "-m", model, "-j", 0, "--precision", "fp32")
    return json.loads(vt("eval", "--events", *dataset, *words, "--format", "json"))


def write_clips(folder: Path, part: str, motions: int, backgrounds: int) -> None:
    """A folder per class, with so many clips of each motion and of the background."""
    number = 0 if part == "train" else 50_000
    for name in (*MOTIONS, "background"):
        target = folder / part / name
        target.mkdir(parents=True, exist_ok=True)
        for place in range(backgrounds if name == "background" else motions):
            number += 1
            rng = np.random.default_rng(number)
            motion = str(rng.choice(list(MOTIONS))) if name == "background" else name
            scene = draw_scene(part, motion, number, seed=3)
            if name == "background":
                scene = replace(scene, step=0.0)
            frames = render(scene)
            if name == "background" and place % 2:
                frames = rng.integers(256, size=(*frames.shape[:3], 1), dtype=np.uint8)
                frames = np.repeat(frames, 3, axis=3)
            (target / f"{place}.mp4").write_bytes(encode(frames))


def fine_tuned(folder: Path, model: str) -> Path:
    """The weights of a model that was fine-tuned with a background class."""
    run = folder / f"{model}-background"
    if not (run / "best.safetensors").exists():
        vt("finetune", "--dataset", folder / "clips", "-m", model, "-o", run, "-j", 0)
    return run / "best.safetensors"


def main() -> None:
    """Parse, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--window", default="1.1s")
    parser.add_argument("--stride", default="0.1s")
    parser.add_argument("--background", action="store_true")
    args = parser.parse_args()
    if args.background and not (args.folder / "clips").exists():
        write_clips(args.folder / "clips", "train", 30, 120)
        write_clips(args.folder / "clips", "val", 6, 24)
    films = (("fit", args.clips, "val", 1), ("test", 96, "test", 2))
    for film, clips, split, seed in films:
        if not (args.folder / f"{film}.csv").exists():
            write_film(args.folder, film, clips, split=split, seed=seed)
    windows = ("--window", args.window, "--stride", args.stride)
    for name in args.models:
        model = fine_tuned(args.folder, name) if args.background else name
        kind = f"{name}-events" if args.background else name
        run, fitted = args.folder / kind, args.folder / f"{kind}.safetensors"
        evaluate(args.folder, "fit", model, *windows, "-o", run)
        vt("eval", "calibrate", run, "-o", fitted)
        before = evaluate(args.folder, "test", model, *windows)
        after = evaluate(args.folder, "test", fitted)
        for rule, report in (("default", before), ("calibrated", after)):
            f1, false = report["f1"]["0.5"], report["false_per_minute"]
            print(f"{name} {rule}: F1 {f1:.3f}, {false:.2f} false per minute", end="; ")
            print(f"mean mAP {report['mean_map']:.3f}, F1 at 0.7 {report['f1']['0.7']:.3f}")


if __name__ == "__main__":
    main()
