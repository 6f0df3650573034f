"""Films with known events: Motion-8 clips one after the other, with stretches between them in which
nothing happens.

A stretch is still (the shapes of a scene stand still while the camera shakes and the grain changes,
as in every clip) or noise (a new random image in each frame). A film is a pure function of its
arguments. The clips of a film are new ones: those of a data set with the same seed are others.

Shape legend: T frames, S height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtcli.runtime.csv_cells import write_csv
from vtcli.runtime.files import atomic_write
from vtcli.synthetic.motion8 import FRAMES_PER_SECOND, MOTIONS, draw_scene, encode, render

STILL, NOISE = "still", "noise"
SHORTEST, LONGEST = 1.0, 4.0
"""Seconds of a stretch between two clips."""
_DIRECT = 0.2
"""Fraction of clips that follow the one before without a stretch between them."""
_FIRST_NUMBER = 100_000
"""Of the scenes of a film: data sets have those from 0 on."""


@dataclass(frozen=True)
class Part:
    """A clip or a stretch of a film: its name, its number among all, and its first frame."""

    name: str
    number: int
    first: int
    frames: int

    @property
    def is_event(self) -> bool:
        """Whether it is a clip."""
        return self.name in MOTIONS

    @property
    def times(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return self.first / FRAMES_PER_SECOND, (self.first + self.frames) / FRAMES_PER_SECOND


def plan_film(clips: int, seed: int, frames: int = 24) -> list[Part]:
    """The parts of a film with `clips` clips of `frames` frames, the classes equally often.

    No two clips of one class follow each other directly.
    """
    rng = np.random.default_rng([seed, clips, frames])
    parts: list[Part] = []

    def add(name: str, length: int) -> None:
        first = parts[-1].first + parts[-1].frames if parts else 0
        parts.append(Part(name, len(parts), first, length))

    for name in _order(rng, clips):
        follows = bool(parts) and parts[-1].name != name
        if not (follows and rng.random() < _DIRECT):
            seconds = rng.uniform(SHORTEST, LONGEST)
            add(STILL if rng.random() < 0.5 else NOISE, round(seconds * FRAMES_PER_SECOND))
        add(name, frames)
    add(STILL, round(LONGEST * FRAMES_PER_SECOND))
    return parts


def _order(rng: np.random.Generator, clips: int) -> Sequence[str]:
    rounds = -(-clips // len(MOTIONS))
    return [str(name) for _ in range(rounds) for name in rng.permutation(list(MOTIONS))][:clips]


def write_film(
    folder: Path, name: str, clips: int, *, split: str = "test", seed: int = 0, size: int = 80
) -> list[Part]:
    """Write `name`.mp4, and its events to `name`.csv (path, label, start, end); returns the parts.

    split: the families of shapes and textures, as in Motion-8.
    """
    parts = plan_film(clips, seed)
    film = encode(np.concatenate(list(_rendered(parts, split, seed, size))))
    with atomic_write(folder / f"{name}.mp4", len(film)) as part:
        part.write_bytes(film)
    rows = [(f"{name}.mp4", p.name, *(f"{t:.3f}" for t in p.times)) for p in parts if p.is_event]
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        write_csv(file, [("path", "label", "start", "end"), *rows])
    return parts


def _rendered(
    parts: Sequence[Part], split: str, seed: int, size: int
) -> Iterator[NDArray[np.uint8]]:
    """The frames [T,S,S,3] of each part."""
    for part in parts:
        number = _FIRST_NUMBER + part.number
        rng = np.random.default_rng([seed, number])
        if part.name == NOISE:
            gray_TSS1 = rng.integers(256, size=(part.frames, size, size, 1), dtype=np.uint8)
            yield np.repeat(gray_TSS1, 3, axis=3)
            continue
        motion = part.name if part.is_event else str(rng.choice(list(MOTIONS)))
        scene = draw_scene(split, motion, number, seed=seed, size=size, frames=part.frames)
        yield render(scene if part.is_event else replace(scene, step=0.0))
