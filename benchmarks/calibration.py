"""Calibration on held-out data with label noise, from files that `vt eval export` wrote.

    python benchmarks/calibration.py validation.npz test.npz [--noise 0.15] [--repeats 100]

A fraction of the labels is replaced by other classes at random. Both files are pooled and divided
into random halves, since the promises hold for videos of one distribution. Temperature, abstention
threshold and conformal quantile are fitted to one half and checked on the other.
The medians over the repeats are printed, and how often promises were kept.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from vtcli.evaluation import calibration
from vtcli.inference.decision import apply_temperature, conformal_sets


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, K], the mean over views, and labels [N]."""
    with np.load(path) as file:
        logits, target = file["action_logits"].astype(float), file["action_target"][:, 0]
    views = np.exp(logits - logits.max(2, keepdims=True))
    return (views / views.sum(2, keepdims=True)).mean(1), target


def with_noise(label: np.ndarray, classes: int, noise: float, rng: np.random.Generator):
    """Labels of which a random fraction is another class."""
    changed = rng.random(len(label)) < noise
    return np.where(changed, (label + rng.integers(1, classes, len(label))) % classes, label)


def one_repeat(pool, noise: float, alpha: float, coverage: float, seed: int) -> list[float]:
    """Temperature, ECE before and after, threshold found, answered, error of answers, coverage."""
    rng = np.random.default_rng(seed)
    p_all, clean = pool
    y_all = with_noise(clean, p_all.shape[1], noise, rng)
    fit, check = np.array_split(rng.permutation(len(clean)), 2)
    p_val, y_val, p_test, y_test = p_all[fit], y_all[fit], p_all[check], y_all[check]
    temperature = calibration.fit_temperature(p_val, y_val)
    targets = y_test[:, None].tolist()
    before = calibration.confidence_metrics(p_test, targets)
    scaled = apply_temperature(p_test, temperature)
    after = calibration.confidence_metrics(scaled, targets)
    threshold = calibration.abstention_threshold(p_val.max(1), p_val.argmax(1) == y_val, alpha)
    answered = p_test.max(1) > (math.inf if threshold is None else threshold)
    wrong = (p_test.argmax(1) != y_test)[answered]
    quantile = calibration.conformal_quantile(p_val, y_val, coverage)
    covered = conformal_sets(p_test, quantile)[np.arange(len(y_test)), y_test].mean()
    error = float(wrong.mean()) if len(wrong) else 0.0
    found = float(threshold is not None)
    return [temperature, before.ece, after.ece, found, float(answered.mean()), error, covered]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("validation", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--alpha", type=float, default=0.2)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    files = load(args.validation), load(args.test)
    pool = tuple(np.concatenate(parts) for parts in zip(*files, strict=True))
    rows = np.array(
        [
            one_repeat(pool, args.noise, args.alpha, args.coverage, seed)
            for seed in range(args.repeats)
        ]
    )
    temperature, before, after = np.median(rows[:, :3], axis=0)
    with_threshold = rows[rows[:, 3] > 0]
    answered, error = np.median(with_threshold[:, 4:6], axis=0) if len(with_threshold) else (0, 0)
    print(f"{len(pool[1])} videos in random halves, label noise {args.noise:.0%}")
    print(f"temperature {temperature:.2f}; ECE {before:.3f} -> {after:.3f}", end="")
    print(f" (fell in {(rows[:, 2] < rows[:, 1]).sum()} of {len(rows)})")
    print(f"abstain {args.alpha}: found in {rows[:, 3].sum():.0f}, answers {answered:.1%}", end="")
    print(f", error {error:.1%}, above alpha in {(rows[:, 5] > args.alpha).sum()}")
    mean = rows[:, 6].mean()
    print(
        f"coverage {args.coverage}: mean {mean:.3f}, {np.quantile(rows[:, 6], 0.025):.3f}", end=""
    )
    print(f" to {np.quantile(rows[:, 6], 0.975):.3f} in 95 % of repeats")


if __name__ == "__main__":
    main()
