"""Motion-8: a synthetic dataset of eight motions that a single frame cannot distinguish.

The class determines which coordinate of a shape's state changes (`vtcli.synthetic.scene`), and in
which direction: a clip played backwards is a clip of the opposite class.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.synthetic import scene
from vtcli.synthetic.make import (
    DEFAULT_CLIPS,
    FRAMES_PER_SECOND,
    Family,
    encode,
    make_dataset,
)
from vtcli.synthetic.scene import ANGLE, SIZE, Shape, X, Y, render, scene_parts, states_of
from vtcli.synthetic.shapes import TEXTURES

__all__ = [
    "DEFAULT_CLIPS",
    "FRAMES_PER_SECOND",
    "MOTION8",
    "MOTIONS",
    "PARTNERS",
    "Scene",
    "Shape",
    "draw_scene",
    "encode",
    "make_motion8",
    "render",
    "states_of",
]

MOTIONS: Mapping[str, tuple[int, int]] = {
    "left": (X, -1),
    "right": (X, 1),
    "up": (Y, -1),
    "down": (Y, 1),
    "approach": (SIZE, 1),
    "recede": (SIZE, -1),
    "clockwise": (ANGLE, 1),
    "counter-clockwise": (ANGLE, -1),
}
"""The coordinate of a shape's state that changes in each class, and its direction."""

PARTNERS: Mapping[str, str] = {
    name: next(n for n, (c, s) in MOTIONS.items() if (c, s) == (coordinate, -sign))
    for name, (coordinate, sign) in MOTIONS.items()
}
"""The opposite class, which a clip of each class belongs to when played backwards."""

# Periods that a coordinate moves through in one clip. Rotation is slower: many shapes look nearly
# the same after half a turn, and every third frame has to show the direction.
_PERIODS = {X: (0.7, 1.2), Y: (0.7, 1.2), SIZE: (0.7, 1.2), ANGLE: (0.45, 0.8)}


@dataclass(frozen=True, eq=False)
class Scene(scene.Scene):
    """A scene whose moving shapes change one coordinate by `step` in every frame."""

    def path(self) -> NDArray[np.float64]:
        """What is added to the states of moving shapes in every frame [T, 4], in periods."""
        coordinate, sign = MOTIONS[self.motion]
        frames = len(self.shakes)
        path_T4 = np.zeros((frames, 4))
        # Counted from the middle, so that playing backwards only changes the sign.
        path_T4[:, coordinate] = sign * self.step * (np.arange(frames) - (frames - 1) / 2)
        return path_T4

    def backwards(self) -> Scene:
        """The scene whose clip is this one's clip played backwards."""
        return replace(
            self,
            motion=PARTNERS[self.motion],
            shakes=self.shakes[::-1],
            rolls=self.rolls[::-1],
        )


def draw_scene(
    split: str, motion: str, number: int, *, seed: int = 0, size: int = 80, frames: int = 24
) -> Scene:
    """The `number`-th random scene of a class: a pure function of its arguments."""
    key = list(TEXTURES).index(split), list(MOTIONS).index(motion)
    rng = np.random.default_rng([seed, *key, number])
    return Scene(motion, **scene_parts(rng, split, _PERIODS[MOTIONS[motion][0]], size, frames))


MOTION8 = Family("motion8", "Motion-8", tuple(MOTIONS), draw_scene)


def make_motion8(folder: str | Path, **settings: Any) -> Path:
    """Write Motion-8 to a new or empty folder and return it; see `make_dataset`."""
    return make_dataset(folder, MOTION8, **settings)
