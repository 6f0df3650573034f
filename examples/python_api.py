"""Predict from Python: one call, a Predictor that loads its weights once, and the network itself.

    python examples/python_api.py [FOLDER]

Works offline: the clips are synthetic, and the model is part of the package. A name of the Hub,
such as `google/vivit-b-16x2-kinetics400` or your own `org/repo`, works in its place.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import vtcli
from vtcli.synthetic.motion8 import make_motion8

MODEL = "videoswin-nano"


def main(folder: Path) -> None:
    """Predict eight synthetic clips, which are written to `folder`."""
    make_motion8(folder, clips={"test": 8})
    clips = sorted(folder.rglob("*.mp4"))

    # One call for one video, or for several.
    result = vtcli.predict(clips[0], model=MODEL, topk=3)
    for prediction in result.predictions:
        print(f"{clips[0].name}: {prediction.label} {prediction.score:.1%}")

    # Many videos: decoding runs ahead of the network. A file that cannot be read is a row as well.
    predictor = vtcli.Predictor(MODEL, topk=1)
    for outcome in predictor.predict(clips):
        if outcome.failed:
            print(f"{outcome.path}: {outcome.error}")
        else:
            top1 = outcome.predictions[0]
            print(f"{Path(outcome.path).name}: {top1.label} {top1.score:.1%}")

    # The network: a normalized clip [B, 3, T, H, W] in, logits [B, K] out.
    model = vtcli.load_model(MODEL)
    config = model.config
    clip = torch.zeros(2, 3, config.num_frames, 32, 32, dtype=model.dtype)
    with torch.inference_mode():
        print("logits", list(model(clip).shape), "of", ", ".join(model.labels))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / "motion8")
