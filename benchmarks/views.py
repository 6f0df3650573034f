"""Views that `--views auto` needs, on noisy Motion-8: python benchmarks/views.py MODEL

Clips of validation and test are rendered with noise added to every pixel, and all views are scored.
The pool is divided at random into halves, again and again; the rule is learned on one and tried on
the other.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import vtcli
from vtcli.evaluation.stopping import RISK, StoredViews, fit_threshold
from vtcli.synthetic.motion8 import FRAMES_PER_SECOND, MOTIONS, draw_scene, render


def view_scores(model: str, views: str, per_class: int, noise: float) -> np.ndarray:
    """Probabilities of every view [N, V, K] of clips with Gaussian noise of this deviation."""
    predictor = vtcli.Predictor(model, views=views, precision="fp32")
    scores, right = [], 0
    for split in ("test", "val"):
        rng = np.random.default_rng(5)
        for motion in MOTIONS:
            for number in range(per_class):
                frames = render(draw_scene(split, motion, number, seed=7))
                noisy = frames + noise * rng.standard_normal(frames.shape)
                outcome = predictor.predict_frames(
                    noisy.clip(0, 255).astype(np.uint8), FRAMES_PER_SECOND
                )
                scores.append(outcome.view_logits["action"].double().softmax(1).numpy())
                right += outcome.label == motion
    print(f"{model}: {right / len(scores):.1%} of {len(scores)} clips right with {views} views")
    return np.stack(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--views", default="12x1")
    parser.add_argument("--per-class", type=int, default=150)
    parser.add_argument("--noise", type=float, default=80, help="gray levels")
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pool = view_scores(args.model, args.views, args.per_class, args.noise)
    trials = []
    for seed in range(args.repeats):
        order = np.random.default_rng(seed).permutation(len(pool))
        fit_half, check_half = np.array_split(order, 2)
        fit = fit_threshold(StoredViews({"action": pool[fit_half]}), args.views)
        trial = StoredViews({"action": pool[check_half]}).try_threshold(fit.threshold, fit.spread)
        trials.append((trial.mean_views, trial.agreement))
    views, agreement = np.array(trials).T
    for name, values in (("views per video", views), ("same first class", agreement)):
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        print(f"{name}: mean {values.mean():.4f}, median {middle:.4f} ({low:.4f}-{high:.4f})")
    print(f"divisions with less than {1 - RISK:.0%}: {(agreement < 1 - RISK).sum()}")


if __name__ == "__main__":
    main()
