"""Windows that are as long as the clip that a model samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny
from vtcli.cli import run
from vtcli.errors import EXIT_OK
from vtcli.inference.auto_windows import clip_seconds
from vtcli.inference.live_decode import LivePlan
from vtcli.weights.resolve import resolve

MODEL = "vivit-nano"  # 16 consecutive frames


def test_a_window_is_as_long_as_a_clip_at_the_frame_rate() -> None:
    dense = resolve(MODEL, graphs=True).card.pipeline
    assert clip_seconds(replace(dense, frames=32, stride=2), 30.0) == pytest.approx(
        64 / 30, abs=1e-3
    )
    assert clip_seconds(dense, 0.0) == pytest.approx(16 / 30, abs=1e-3)  # no rate is stated
    assert clip_seconds(replace(dense, frames=64), 1.0) == 10.0
    resampled = replace(dense, sampling="resampled_windows_looped")
    assert clip_seconds(resampled, 60.0) == pytest.approx(16 / 15, abs=1e-3)
    assert clip_seconds(replace(dense, sampling="uniform_segments"), 60.0) == 2.0


def test_a_live_source_has_windows_by_its_rate_that_overlap_as_asked() -> None:
    plan = LivePlan("-", resolve(MODEL, graphs=True).card.pipeline, 2.0, 1.0, 5.0)
    assert plan.at_rate(10.0) == plan
    for shortest, window in ((0.0, 1.6), (2.0, 2.0)):
        fitted = replace(plan, shortest=shortest).at_rate(10.0)
        assert (fitted.window, fitted.stride) == pytest.approx((window, window / 2))


def test_events_need_no_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tiny.video(tmp_path / "clip.mp4", 40)  # 25 frames a second
    command = ["predict", str(clip), "-m", MODEL, "-j", "0", "--events", "--format", "json"]
    assert run(command) == EXIT_OK
    done = capsys.readouterr()
    table = json.loads(done.out)
    assert (table["window"], table["stride"]) == (0.64, 0.08)
    assert "windows of 0.64s every 0.08s, for clips of 16 frames at 25 frames/s" in done.err
    assert "the model has no class for nothing" in done.err
    assert run([*command, "--stride", "0.32s", "--event-rule", "on=0.6"]) == EXIT_OK
    done = capsys.readouterr()
    assert json.loads(done.out)["stride"] == 0.32
    assert "no class for nothing" not in done.err
