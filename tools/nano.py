"""The four nano models of this package: train one, and check that it recognizes motion.

    python tools/nano.py train vivit-nano MOTION8 -o RUNS     vt finetune on a generated Motion-8
    python tools/nano.py check vivit-nano TEST                accuracy on a generated test split: as
                                                              it is, reversed, and frozen

The trained file is written to vtcli/weights/bundled, with the command and the seed in its model
card; copy the size and digest that `train` prints to weights_registry.toml.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset, Sample
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import VideoPrediction
from vtcli.synthetic.motion8 import PARTNERS, encode
from vtcli.video.decode import probe, read_frames
from vtcli.weights.checkpoint import CARD_KEY, open_tensors, read_card, write_checkpoint
from vtcli.weights.registry import bundled_path, load_registry

MADE_BY = "vt datasets make motion8 MOTION8 --train 8000 --val 400 --seed 0"
# Options of a model in addition to the recipe `nano`.
OPTIONS = {
    "uniformerv2-nano": ["--epochs", "12"],
    "videoswin-nano": ["--epochs", "12", "--lr", "1e-3"],
    "vivit-nano": ["--epochs", "32", "--warmup-epochs", "2"],
    "xvit-nano": ["--warmup-epochs", "2"],
}

app = typer.Typer(add_completion=False)


@app.command()
def train(
    model: str,
    dataset: Annotated[Path, typer.Argument(help=f"Written by: {MADE_BY}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the run.")],
    seed: int = 0,
) -> None:
    """Train a model and write it into the package."""
    checkpoint = load_registry(extra=()).find(model)
    path = bundled_path(checkpoint)
    if path is None:
        raise typer.BadParameter(f"{checkpoint.id} is not bundled with this package")
    run = output / model
    options = ["--init", "scratch", "--recipe", "nano", "--seed", str(seed), "--ram-cache-gb", "4"]
    options += OPTIONS.get(model, [])

    def words(dataset: Path | str, run: Path | str) -> list[str]:
        source = ["--dataset", "motion8", "--data-root", str(dataset)]
        return ["finetune", *source, "-m", model, *options, "-o", str(run)]

    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vtcli", *words(dataset, run)], check=True)
    minutes = (time.perf_counter() - start) / 60
    command = shlex.join(["vt", *words("MOTION8", "RUN")])
    card = replace(
        read_card(run / "best.safetensors"),
        id=checkpoint.id,
        model=checkpoint.model,
        pretrain=checkpoint.pretrain,
        license=checkpoint.license,
        notes=f"{MADE_BY}; {command}; {minutes:.0f} minutes on {os.cpu_count()} cores",
        source={},
    )
    tensors = {name: t.clone() for name, t in open_tensors(run / "best.safetensors").items()}
    digest = write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})
    typer.echo(f"{path}: {minutes:.1f} minutes, bytes = {path.stat().st_size}, sha256 = {digest}")


@app.command()
def check(
    model: str,
    dataset: Annotated[Path, typer.Argument(help="Written by: vt datasets make motion8")],
) -> None:
    """Print the accuracy on a test split, on the reversed clips (whose label is the partner class),
    and on the middle frame of each clip repeated.
    """
    test = open_dataset("motion8", dataset, "test")
    with TemporaryDirectory() as folder:
        clips = {
            "of the clips": {str(sample.path): motion for sample, motion in labeled(test)},
            "of the reversed clips (partner class)": reversed_clips(test, Path(folder, "reversed")),
            "of one frame repeated": frozen_clips(test, Path(folder, "frozen")),
        }
        for which, labels in clips.items():
            accuracy = 100 * accuracy_on(model, labels)
            typer.echo(f"{model}: {accuracy:.1f} % {which}, {len(labels)} in all")


def accuracy_on(model: str, labels: Mapping[str, str]) -> float:
    """Top-1 accuracy on clips, path -> label, as a fraction."""
    outcomes = Predictor(model, topk=1, precision="fp32").predict(list(labels))
    correct = [
        isinstance(outcome, VideoPrediction)
        and outcome.predictions[0].label == labels[outcome.path]
        for outcome in outcomes
    ]
    return sum(correct) / len(correct)


def reversed_clips(test: Dataset, folder: Path) -> dict[str, str]:
    """The reversed clips, encoded again, with the partner of each one's class."""
    return {
        _written(folder / f"{number}.mp4", frames_of(sample)[::-1]): PARTNERS[motion]
        for number, (sample, motion) in enumerate(labeled(test))
    }


def frozen_clips(test: Dataset, folder: Path) -> dict[str, str]:
    """The middle frame of each clip repeated, encoded again, with the clip's class."""
    labels = {}
    for number, (sample, motion) in enumerate(labeled(test)):
        frames = frames_of(sample)
        middle = frames[len(frames) // 2]
        labels[_written(folder / f"{number}.mp4", np.stack([middle] * len(frames)))] = motion
    return labels


def labeled(test: Dataset) -> Iterator[tuple[Sample, str]]:
    """Every sample with its class."""
    return ((sample, test.classes["action"][sample.labels[0]]) for sample in test.samples)


def frames_of(sample: Sample) -> NDArray[np.uint8]:
    """All frames of a clip [T, H, W, 3]."""
    info = probe(sample.path)
    return read_frames(info.path, range(info.frames), info=info)


def _written(path: Path, frames_THWC: NDArray[np.uint8]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(np.ascontiguousarray(frames_THWC)))
    return str(path)


if __name__ == "__main__":
    app()
