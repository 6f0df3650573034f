"""Train a model on your own classes: a folder of class folders in, a checkpoint out.

    python examples/own_classes.py [FOLDER]

FOLDER holds one folder per class, with the videos of that class. Without one, a few clips of the
synthetic Motion-8 dataset serve as an example. SMALL is far too little training for real data:
without it, the recipe of the architecture's paper is used.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import vtcli
from vtcli.synthetic.motion8 import make_motion8

MODEL = "uniformerv2-nano"
SMALL = ("--epochs", "1", "--batch-size", "4", "--lr", "1e-3")


def main(videos: Path, run: Path) -> None:
    """Finetune on `videos`, then predict one of them with the result."""
    command = [sys.executable, "-m", "vtcli", "finetune", "--dataset", str(videos), "-m", MODEL]
    subprocess.run([*command, "-o", str(run), *SMALL], check=True)
    checkpoint = run / "best.safetensors"
    video = next(path for path in sorted(videos.rglob("*.mp4")))
    for prediction in vtcli.predict(video, model=checkpoint, topk=3).predictions:
        print(f"{video.parent.name}/{video.name}: {prediction.label} {prediction.score:.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        given = sys.argv[1:]
        if given:
            source = Path(given[0])
        else:
            source = make_motion8(Path(temporary) / "motion8", clips={"train": 24}) / "train"
        main(source, Path(temporary) / "run")
