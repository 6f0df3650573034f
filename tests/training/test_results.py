"""The time left of a training counts what validation costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtcli.training.results import TrainProgress, expected_validation_time

PROGRESS = TrainProgress(
    epoch=1,
    epochs=4,
    step=2,
    steps=10,
    loss=1.0,
    top1=0.5,
    lr=1e-3,
    step_time=3.0,
    data_fraction=0.0,
    failed_videos=0,
    clips_per_step=8,
    val_videos=16,
)


def test_validation_is_part_of_the_time_left() -> None:
    measured = replace(PROGRESS, measured_validation_time=7.0)
    assert measured.seconds_left == pytest.approx(28 * 3.0 + 3 * 7.0)
    # Two batches of eight without the backward pass, two thirds of a step.
    assert PROGRESS.seconds_left == pytest.approx(28 * 3.0 + 3 * 2 * 1.0)


def test_reading_costs_in_validation_what_it_costs_in_training() -> None:
    assert expected_validation_time(8, 8, 2.0, 1.0) == pytest.approx(2.0)
    assert expected_validation_time(8, 8, 2.0, 0.25) == pytest.approx(0.5 + 0.5)
