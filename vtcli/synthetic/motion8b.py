"""Motion-8b: eight motions that Motion-8 does not have, rendered in the same way.

The classes are shapes of a path through the states (`vtcli.synthetic.scene`), whatever its
direction: a clip played backwards, or seen in a mirror, is a clip of the same class. A network
trained on Motion-8 has not seen them, so they show what fine-tuning learns.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vtcli.synthetic import scene
from vtcli.synthetic.make import Family
from vtcli.synthetic.scene import ANGLE, SIZE, X, Y, scene_parts
from vtcli.synthetic.shapes import TEXTURES

Values: TypeAlias = NDArray[np.float64]


def _toward(angle: float, along_T: Values, across_T: Values | float = 0.0) -> Values:
    """A path [T, 4] in the plane: along a direction (in radians) and across it."""
    path_T4 = np.zeros((len(along_T), 4))
    path_T4[:, X] = np.cos(angle) * along_T - np.sin(angle) * across_T
    path_T4[:, Y] = np.sin(angle) * along_T + np.cos(angle) * across_T
    return path_T4


def _changing(coordinate: int, value_T: Values) -> Values:
    """A path [T, 4] on which one coordinate changes."""
    path_T4 = np.zeros((len(value_T), 4))
    path_T4[:, coordinate] = value_T
    return path_T4


def _zig_zag(rng: Generator, cycle_T: Values) -> Values:
    """Straight on while it goes from side to side in straight lines."""
    side_T = 2 * np.abs(2 * (cycle_T % 1) - 1) - 1
    along_T = rng.uniform(0.7, 1.2) * _elapsed(cycle_T)
    return _toward(rng.uniform(0, 2 * np.pi), along_T, rng.uniform(0.1, 0.15) * side_T)


def _orbit(rng: Generator, cycle_T: Values) -> Values:
    """Around a point at a constant distance."""
    turn_T = rng.choice([-1, 1]) * 2 * np.pi * cycle_T
    return _toward(0.0, np.cos(turn_T), np.sin(turn_T)) * rng.uniform(0.15, 0.25)


def _bounce(rng: Generator, cycle_T: Values) -> Values:
    """Up and down as a ball on the ground: parabolas."""
    phase_T = cycle_T % 1
    return _changing(Y, -rng.uniform(0.25, 0.4) * 4 * phase_T * (1 - phase_T))


def _shake(rng: Generator, cycle_T: Values) -> Values:
    """Quickly to and fro on a short line."""
    length_T = rng.uniform(0.06, 0.09) * np.sin(2 * np.pi * cycle_T)
    return _toward(rng.uniform(0, 2 * np.pi), length_T)


def _grow_shrink(rng: Generator, cycle_T: Values) -> Values:
    """Larger and smaller in turn."""
    return _changing(SIZE, rng.uniform(0.15, 0.25) * np.sin(2 * np.pi * cycle_T))


def _wobble(rng: Generator, cycle_T: Values) -> Values:
    """Turning a little to one side and the other."""
    return _changing(ANGLE, rng.uniform(0.08, 0.14) * np.sin(2 * np.pi * cycle_T))


def _spiral(rng: Generator, cycle_T: Values) -> Values:
    """Around a point, away from it or toward it."""
    turn_T = rng.choice([-1, 1]) * 2 * np.pi * cycle_T
    elapsed_T = _elapsed(cycle_T)
    radius_T = 0.03 + rng.uniform(0.3, 0.4) * rng.choice([elapsed_T, 1 - elapsed_T])
    return _toward(0.0, radius_T * np.cos(turn_T), radius_T * np.sin(turn_T))


def _stop_and_go(rng: Generator, cycle_T: Values) -> Values:
    """Straight on, with stops as long as the moves."""
    gone_T = np.floor(cycle_T) + np.minimum(1, 2 * (cycle_T % 1))
    per_cycle = rng.uniform(0.7, 1.2) / (cycle_T[-1] - cycle_T[0])
    return _toward(rng.uniform(0, 2 * np.pi), per_cycle * gone_T)


def _elapsed(cycle_T: Values) -> Values:
    """The time from 0 at the first frame to 1 at the last."""
    return (cycle_T - cycle_T[0]) / (cycle_T[-1] - cycle_T[0])


MOTIONS: Mapping[str, tuple[Callable[[Generator, Values], Values], tuple[float, float]]] = {
    "zig-zag": (_zig_zag, (2.0, 3.0)),
    "orbit": (_orbit, (1.0, 1.6)),
    "bounce": (_bounce, (2.0, 3.0)),
    "shake": (_shake, (2.8, 3.6)),
    "grow-shrink": (_grow_shrink, (1.2, 2.0)),
    "wobble": (_wobble, (1.5, 2.5)),
    "spiral": (_spiral, (1.5, 2.2)),
    "stop-and-go": (_stop_and_go, (2.0, 3.0)),
}
"""The path of each class, a function of the cycle of each frame, and how many cycles (least, most)
a clip shows.
"""


@dataclass(frozen=True, eq=False)
class Scene(scene.Scene):
    """A scene whose moving shapes follow `course` [T, 4], in periods."""

    course: Values

    def path(self) -> Values:
        """What is added to the states of moving shapes in every frame [T, 4], in periods."""
        return self.course


def draw_scene(
    split: str, motion: str, number: int, *, seed: int = 0, size: int = 80, frames: int = 24
) -> Scene:
    """The `number`-th random scene of a class: a pure function of its arguments."""
    key = list(TEXTURES).index(split), list(MOTIONS).index(motion)
    # One number more than for Motion-8, so that the two have no scene in common.
    rng = np.random.default_rng([seed, *key, number, 1])
    draw_path, cycles = MOTIONS[motion]
    parts = scene_parts(rng, split, cycles, size, frames)
    cycle_T = rng.random() + parts["step"] * np.arange(frames)
    return Scene(motion, **parts, course=draw_path(rng, cycle_T))


MOTION8B = Family("motion8b", "Motion-8b", tuple(MOTIONS), draw_scene)
