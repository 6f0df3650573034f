"""On held-out Motion-8 with label noise, calibration and its promises hold for a bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.harness import vt_here
from vtcli.evaluation import calibration
from vtcli.inference.decision import apply_temperature, conformal_sets

NOISE, ALPHA, COVERAGE, SPLITS = 0.1, 0.2, 0.9, 40


@pytest.mark.slow
def test_calibration_on_held_out_motion8_with_label_noise(tmp_path: Path) -> None:
    data, run, file = tmp_path / "m8", tmp_path / "run", tmp_path / "scores.npz"
    words = ["--train", "8", "--val", "8", "--test", "400"]
    assert vt_here("datasets", "make", "motion8", data, *words).returncode == 0
    words = ["--split", "test", "-m", "vivit-nano.motion8", "-o", run, "--device", "cpu"]
    assert vt_here("eval", "--dataset", data, *words).returncode == 0
    assert vt_here("eval", "export", run, "-o", file).returncode == 0
    with np.load(file) as stored:
        logits, clean = stored["action_logits"][:, 0].astype(float), stored["action_target"][:, 0]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rng = np.random.default_rng(0)
    before, after, broken, covered = [], [], 0, []
    for _ in range(SPLITS):
        noisy = rng.random(400) < NOISE
        label = np.where(noisy, (clean + rng.integers(1, 8, 400)) % 8, clean)
        fit, check = np.array_split(rng.permutation(400), 2)
        targets = label[check][:, None].tolist()
        scaled = apply_temperature(p[check], calibration.fit_temperature(p[fit], label[fit]))
        before.append(calibration.confidence_metrics(p[check], targets).ece)
        after.append(calibration.confidence_metrics(scaled, targets).ece)
        correct = p.argmax(1) == label
        threshold = calibration.abstention_threshold(p[fit].max(1), correct[fit], ALPHA)
        if threshold is not None:
            answered = p[check].max(1) > threshold
            broken += bool((~correct[check][answered]).mean() > ALPHA)
        sets = conformal_sets(
            p[check], calibration.conformal_quantile(p[fit], label[fit], COVERAGE)
        )
        covered.append(sets[np.arange(200), label[check]].mean())
    assert np.mean(after) < np.mean(before)
    assert broken <= 0.05 * SPLITS
    # The 99 % interval of one split (200 + 200 videos) around ceil(201 * 0.9) / 201.
    assert abs(np.mean(covered) - 181 / 201) < 2.58 * (0.09 * 2 / 200) ** 0.5
