"""Motion-8b: each class is its motion and no other, no frame shows it, and seeds reproduce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.synthetic.test_motion8 import CHANCE, contents, nearest_mean, thumbnail
from vtcli.cli import run
from vtcli.data.open import open_dataset
from vtcli.data.sides import direction_sensitive
from vtcli.errors import EXIT_DATA, EXIT_OK
from vtcli.synthetic import motion8
from vtcli.synthetic.make import make_dataset
from vtcli.synthetic.motion8b import MOTION8B, MOTIONS, draw_scene
from vtcli.synthetic.scene import ANGLE, SIZE, X, Y, render, states_of

CLASSES = list(MOTIONS)
SCENES = 20
MOVING = {
    "zig-zag": {X, Y},
    "orbit": {X, Y},
    "bounce": {Y},
    "shake": {X, Y},
    "grow-shrink": {SIZE},
    "wobble": {ANGLE},
    "spiral": {X, Y},
    "stop-and-go": {X, Y},
}


def paths(motion: str) -> list[NDArray[np.float64]]:
    return [draw_scene("train", motion, n, size=32).path() for n in range(SCENES)]


def distance(path_T4: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each frame is from the first, over the frame's size."""
    return np.hypot(*(path_T4[:, :2] - path_T4[0, :2]).T)


def speeds(path_T4: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hypot(*np.diff(path_T4[:, :2], axis=0).T)


def radii(path_T4: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance from the point that the paths of orbits and spirals go around."""
    return np.hypot(*path_T4[:, :2].T)


def test_no_class_is_one_of_motion8() -> None:
    assert len(CLASSES) == 8
    assert not set(CLASSES) & set(motion8.MOTIONS)
    assert not direction_sensitive(CLASSES)


@pytest.mark.parametrize("motion", CLASSES)
def test_only_the_coordinates_of_a_class_change(motion: str) -> None:
    for path_T4 in paths(motion):
        changed = {c for c in range(4) if np.ptp(path_T4[:, c]) > 1e-9}
        assert changed <= MOVING[motion]
        assert changed


def test_each_motion_is_what_its_name_says() -> None:
    for path_T4 in paths("orbit"):
        assert np.ptp(radii(path_T4)) < 1e-9
        turned = np.unwrap(np.arctan2(path_T4[:, Y], path_T4[:, X]))
        assert abs(turned[-1] - turned[0]) > 2 * np.pi * 0.9
    for path_T4 in paths("spiral"):
        outward = np.sign(radii(path_T4)[-1] - radii(path_T4)[0])
        assert (outward * np.diff(radii(path_T4)) > 0).all()
    for path_T4 in paths("bounce"):
        assert path_T4[:, Y].max() <= 0
        assert np.ptp(path_T4[:, Y]) > 0.2
    for path_T4 in paths("shake"):
        assert distance(path_T4).max() < 0.2
        assert speeds(path_T4).sum() > 0.5
    for path_T4 in paths("zig-zag"):
        turns = np.abs(np.diff(np.arctan2(*np.diff(path_T4[:, :2], axis=0).T))) > 0.3
        assert turns.sum() >= 3
        assert distance(path_T4)[-1] > 0.5
    for path_T4 in paths("stop-and-go"):
        assert 0.3 < (speeds(path_T4) < 1e-9).mean() < 0.6
        assert distance(path_T4)[-1] > 0.4
    for motion, coordinate in (("grow-shrink", SIZE), ("wobble", ANGLE)):
        for path_T4 in paths(motion):
            steps = np.sign(np.diff(path_T4[:, coordinate]))
            assert {-1, 1} <= set(steps)
            assert np.ptp(path_T4[:, coordinate]) <= 0.5


@pytest.mark.parametrize("motion", CLASSES)
def test_states_are_uniformly_distributed_at_any_time_in_every_class(motion: str) -> None:
    scenes = [draw_scene("train", motion, number, size=32, frames=8) for number in range(100)]
    movers = [next(shape for shape in scene.shapes if shape.moves) for scene in scenes]
    states_NT4 = np.stack([states_of(*pair) for pair in zip(scenes, movers, strict=True)])
    steps_N = (np.arange(100) + 0.5) / 100
    # Kolmogorov and Smirnov: 1.95 / sqrt(N) is exceeded by one sample in a thousand.
    assert np.abs(np.sort(states_NT4, axis=0) - steps_N[:, None, None]).max() < 0.195


def test_one_frame_does_not_show_the_class() -> None:
    known, numbers = 24, 40
    clips = [
        [render(draw_scene("train", motion, n, size=48, frames=13)) for n in range(numbers)]
        for motion in CLASSES
    ]
    error = np.sqrt(CHANCE * (1 - CHANCE) / (len(CLASSES) * (numbers - known)))
    for number in (0, 12):
        features = np.array([[thumbnail(clip, number) for clip in row] for row in clips])
        assert nearest_mean(features, known) < CHANCE + 3 * error


def test_the_command_makes_it_and_it_opens_as_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    words = ["--train", "0", "--val", "0", "--test", "16", "--size", "32", "--frames", "4"]
    assert run(["datasets", "make", "motion8b", str(made), *words]) == EXIT_OK
    assert capsys.readouterr().out == f"{made}\n"
    dataset = open_dataset(made, split="test")
    assert sorted(s.path.parent.name for s in dataset.samples) == sorted(CLASSES * 2)
    again = make_dataset(
        tmp_path / "again", MOTION8B, clips={"test": 16}, size=32, frames=4, workers=2
    )
    assert contents(again) == contents(made)
    assert run(["datasets", "make", "motion8b", str(made), *words, "--seed", "1"]) == EXIT_DATA
    assert "holds another Motion-8b (" in capsys.readouterr().err
    assert run(["datasets", "make", "motion8", str(made), *words]) == EXIT_DATA
    assert "is not an empty folder" in capsys.readouterr().err
