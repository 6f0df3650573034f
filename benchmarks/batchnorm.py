"""How far gradient accumulation is from one large batch: python benchmarks/batchnorm.py

uniformerv2-nano is fine-tuned on Motion-8 with batches of 16 clips, and with the same clips as two
forward passes of 8 (`--grad-accum-steps 2`); it has no dropout. Everything else is equal, so that
only two things can differ: the clips that BatchNorm takes its statistics from, and the clips and
mixing fractions of mixup. Prints for each combination the largest difference of the validation
logits after training, and the root mean square, with the logits' own root mean square.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vtcli.data.clip_loader import ClipReader
from vtcli.data.splits import TrainValSplit, split_train_val
from vtcli.models.recipe import Recipe
from vtcli.runtime.distributed import Group
from vtcli.synthetic.motion8 import make_motion8
from vtcli.training.choose import choose_recipe, training_budget
from vtcli.training.init import plan_init
from vtcli.training.plan import TrainPlan, TrainSettings
from vtcli.training.trainer import Trainer

MODEL = "uniformerv2-nano"
CLIPS = 16
MIXUP = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--videos", type=int, default=32, help="for training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = {"train": options.videos, "val": 16}
        make_motion8(folder / "data", clips=clips, size=32)
        split = split_train_val(folder / "data")
        print("statistics mixup  largest    rms  (rms of the logits)")
        for frozen in (True, False):
            for mixup in (0.0, MIXUP):
                logits = []
                for accumulated in (1, 2):
                    run = folder / f"{frozen}-{mixup}-{accumulated}"
                    changes = {"freeze_bn": frozen, "mixup": mixup}
                    recipe = _recipe(split, options.epochs, accumulated)
                    logits.append(_logits_after(run, split, replace(recipe, **changes)))
                difference = logits[0] - logits[1]
                print(
                    f"{'frozen' if frozen else 'updated':10} {mixup:5.1f} "
                    f"{float(difference.abs().max()):8.1e} {_rms(difference):6.1e}  "
                    f"({_rms(logits[0]):.2f})",
                    flush=True,
                )


def _recipe(split: TrainValSplit, epochs: int, accumulated: int) -> Recipe:
    """The default recipe of this data, with 16 clips per optimizer step."""
    init = plan_init(MODEL, "checkpoint", {"action": 8}, Recipe())
    given = {
        "epochs": epochs,
        "batch_size": CLIPS // accumulated,
        "grad_accum_steps": accumulated,
        "hflip": 0.0,
    }
    return choose_recipe(training_budget(init, split, 1), "small", given).recipe


def _logits_after(folder: Path, split: TrainValSplit, recipe: Recipe) -> Tensor:
    """The logits [V,K] of the validation videos after a training."""
    folder.mkdir()
    init = plan_init(MODEL, "checkpoint", {"action": 8}, recipe)
    settings = TrainSettings(device="cpu", workers=1)
    trainer = Trainer(TrainPlan(split, init, "small", recipe, 0, 1, settings), folder, Group())
    trainer.fit()
    reader = ClipReader(init.pipeline, 1, 1)
    network = trainer.train_step.eval_model.eval()
    with torch.inference_mode():
        return torch.cat(
            [
                network(next(reader.read(sample, (0,)).clips)[None])
                for sample in split.validation.samples
            ]
        )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


if __name__ == "__main__":
    main()
