"""The four small models of this package: training one, and checking that it sees motion.

    python tools/nano.py train vivit-nano MOTION8 -o RUNS     vt finetune on a made Motion-8
    python tools/nano.py check vivit-nano TEST                vt eval on a made test part, as it is,
                                                              played backwards, and standing still

A trained file goes to vtcli/weights/bundled with the command and the seed on its card; what
`train` prints belongs into weights_registry.toml.
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
# What a model is trained by beyond the recipe `nano`.
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
    dataset: Annotated[Path, typer.Argument(help=f"Made by: {MADE_BY}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the run.")],
    seed: int = 0,
) -> None:
    """Train a model and put it into the package."""
    checkpoint = load_registry(extra=()).find(model)
    path = bundled_path(checkpoint)
    if path is None:
        raise typer.BadParameter(f"{checkpoint.id} does not come with this package")
    run = output / model
    options = ["--init", "scratch", "--recipe", "nano", "--seed", str(seed), "--cache-gb", "4"]
    options += OPTIONS.get(model, [])

    def words(dataset: Path | str, run: Path | str) -> list[str]:
        source = ["--dataset", "motion8", "--data-root", str(dataset)]
        return ["finetune", *source, "-m", model, *options, "-o", str(run)]

    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vtcli", *words(dataset, run)], check=True)
    minutes = (time.perf_counter() - start) / 60
    said = shlex.join(["vt", *words("MOTION8", "RUN")])
    card = replace(
        read_card(run / "best.safetensors"),
        id=checkpoint.id,
        model=checkpoint.model,
        pretrain=checkpoint.pretrain,
        license=checkpoint.license,
        notes=f"{MADE_BY}; {said}; {minutes:.0f} minutes on {os.cpu_count()} cores",
        source={},
    )
    tensors = {name: t.clone() for name, t in open_tensors(run / "best.safetensors").items()}
    digest = write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})
    typer.echo(f"{path}: {minutes:.1f} minutes, bytes = {path.stat().st_size}, sha256 = {digest}")


@app.command()
def check(
    model: str,
    dataset: Annotated[Path, typer.Argument(help="Made by: vt datasets make motion8")],
) -> None:
    """Say how many clips of a test part are answered rightly; of the clips played backwards, how
    many as the partner class; of a single frame repeated, how many rightly.
    """
    test = open_dataset("motion8", dataset, "test")
    with TemporaryDirectory() as folder:
        clips = {
            "right": {str(sample.path): motion for sample, motion in labeled(test)},
            "partner class, played backwards": backwards(test, Path(folder, "backwards")),
            "right, one frame repeated": standing_still(test, Path(folder, "still")),
        }
        for words, wanted in clips.items():
            share = 100 * share_answered(model, wanted)
            typer.echo(f"{model}: {share:.1f} % {words}, of {len(wanted)} clips")


def share_answered(model: str, wanted: Mapping[str, str]) -> float:
    """How many clips are answered as wanted."""
    outcomes = Predictor(model, topk=1, precision="fp32").predict(list(wanted))
    right = [
        isinstance(outcome, VideoPrediction)
        and outcome.predictions[0].label == wanted[outcome.path]
        for outcome in outcomes
    ]
    return sum(right) / len(right)


def backwards(test: Dataset, folder: Path) -> dict[str, str]:
    """The clips played backwards, coded anew, and the partner of each one's class."""
    return {
        _written(folder / f"{number}.mp4", frames_of(sample)[::-1]): PARTNERS[motion]
        for number, (sample, motion) in enumerate(labeled(test))
    }


def standing_still(test: Dataset, folder: Path) -> dict[str, str]:
    """The middle frame of each clip repeated, coded anew, and the clip's class."""
    made = {}
    for number, (sample, motion) in enumerate(labeled(test)):
        frames = frames_of(sample)
        middle = frames[len(frames) // 2]
        made[_written(folder / f"{number}.mp4", np.stack([middle] * len(frames)))] = motion
    return made


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
