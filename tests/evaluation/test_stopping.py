"""When views may stop: learned from stored scores, with a bound on how often the class differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.evaluation.harness import evaluated, vt_here
from vtcli.errors import DataError, WeightsError
from vtcli.evaluation import stopping
from vtcli.evaluation.stopping import FEWEST, RISK, StoredViews, fit_threshold
from vtcli.inference.predictor import Predictor
from vtcli.weights.checkpoint import CARD_KEY, open_tensors, read_card, write_checkpoint


def probabilities(samples: int, seed: int, views: int = 10, classes: int = 4) -> np.ndarray:
    """Views of videos that are more or less clear: [N,V,K]."""
    rng = np.random.default_rng(seed)
    clear_N11 = rng.gamma(1.5, 1.5, (samples, 1, 1))
    of_video = clear_N11 * rng.standard_normal((samples, 1, classes))
    logits = of_video + rng.standard_normal((samples, views, classes))
    p = np.exp(logits)
    return p / p.sum(2, keepdims=True)


def by_hand(p_VK: np.ndarray, threshold: float, spread: list[float]) -> tuple[int, bool]:
    """Views of one video, and whether its first class is that of all views."""
    for v in range(1, len(p_VK) + 1):
        mean = p_VK[:v].mean(0)
        second, first = np.sort(mean)[-2:]
        if v == len(p_VK) or first - second >= threshold * spread[v - 1]:
            return v, bool(mean.argmax() == p_VK.mean(0).argmax())
    raise AssertionError


def test_a_trial_is_what_the_rule_does_video_by_video() -> None:
    p = probabilities(50, seed=0)
    spread = [float(((p[:, :v].mean(1) - p.mean(1)) ** 2).mean() ** 0.5) for v in range(1, 10)]
    stored = StoredViews({"action": p})
    assert stored.spread_V["action"][:-1] == pytest.approx(spread)
    for threshold in (0.5, 2.0, 8.0):
        used, same = zip(*(by_hand(p_VK, threshold, spread) for p_VK in p), strict=True)
        trial = stored.try_threshold(threshold, {"action": spread})
        assert trial.mean_views == pytest.approx(np.mean(used))
        assert trial.agreement == pytest.approx(np.mean(same))


def test_the_threshold_keeps_its_promise_and_saves_views() -> None:
    fit = fit_threshold(StoredViews({"action": probabilities(2000, seed=1)}), "10x1")
    changed = round((1 - fit.agreement) * 2000)
    bound = binomtest(changed, 2000, alternative="less").proportion_ci(0.95, "exact").high
    assert bound <= RISK
    new = StoredViews({"action": probabilities(20000, seed=2)})
    trial = new.try_threshold(fit.threshold, fit.spread)
    assert trial.agreement >= 1 - RISK
    assert trial.mean_views < 7
    assert trial.mean_views == pytest.approx(fit.mean_views, rel=0.05)


def test_the_promise_is_broken_about_as_rarely_as_stated() -> None:
    new = StoredViews({"action": probabilities(20000, seed=3)})
    broken = 0
    for seed in range(100, 160):
        fit = fit_threshold(StoredViews({"action": probabilities(600, seed)}), "10x1")
        broken += new.try_threshold(fit.threshold, fit.spread).agreement < 1 - RISK
    assert broken <= 6  # 3 are expected at most


def test_views_that_never_disagree_stop_at_once() -> None:
    same = np.repeat(probabilities(400, seed=4)[:, :1], 6, 1)
    assert fit_threshold(StoredViews({"action": same}), "6x1").mean_views == 1


def test_too_few_videos_or_views_are_refused() -> None:
    assert 0.99**FEWEST <= 0.05 < 0.99 ** (FEWEST - 1)
    with pytest.raises(DataError, match="298 videos are too few"):
        fit_threshold(StoredViews({"action": probabilities(298, seed=5)}), "10x1")
    with pytest.raises(DataError, match="one view per video"):
        fit_threshold(StoredViews({"action": probabilities(400, seed=5, views=1)}), "1x1")


def test_calibrate_stores_the_rule_that_predict_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run, _ = evaluated(tmp_path)
    words = ["eval", "calibrate", run, "-m", model, "--views", "-o", tmp_path / "auto.safetensors"]
    refused = vt_here(*words)
    assert refused.returncode == 7
    assert "16 videos are too few" in refused.stderr
    assert not (tmp_path / "auto.safetensors").exists()
    monkeypatch.setattr(stopping, "FEWEST", 16)
    monkeypatch.setattr(stopping, "RISK", 0.4)
    done = vt_here(*words)
    assert done.returncode == 0, done.stderr
    assert "views per video" in done.stdout
    card = read_card(tmp_path / "auto.safetensors")
    assert card.adaptive_views["views"] == "2x1"
    assert card.adaptive_views["samples"] == 16
    assert len(card.adaptive_views["spread"]["action"]) == 1
    videos = sorted((tmp_path / "videos").rglob("*.mp4"))
    with Predictor(tmp_path / "auto.safetensors", views="auto") as predictor:
        used = [len(outcome.views) for outcome in predictor.predict(videos) if not outcome.failed]
    assert np.mean(used) == pytest.approx(card.adaptive_views["mean_views"])
    # Other classes have no rule.
    assert card.with_classes(3, (), predictor.net.config).adaptive_views == {}
    for change in ({"views": "many"}, {"threshold": "1"}, {"spread": {"action": []}}, {"more": 1}):
        damaged = replace(card, adaptive_views={**card.adaptive_views, **change})
        metadata = {CARD_KEY: damaged.to_json()}
        write_checkpoint(tmp_path / "bad.safetensors", open_tensors(model), metadata)
        with pytest.raises(WeightsError, match=r"its (adaptive_views|calibration)"):
            read_card(tmp_path / "bad.safetensors")
