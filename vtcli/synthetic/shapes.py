"""Shapes and background textures of Motion-8, in families of which no two splits share one.

A shape is a union of convex polygons; a texture is a gray image of any mean and contrast.
Shape legend: N side of a texture, M = N // 2 + 1 frequencies of a real FFT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Polygon: TypeAlias = list[tuple[float, float]]


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _ell(rng: Generator) -> list[Polygon]:
    thick, foot = rng.uniform(0.3, 0.45), rng.uniform(0.7, 1.0)
    return [_box(0, 0, thick, 1.4), _box(0, 1.4 - thick, foot, 1.4)]


def _arrow(rng: Generator) -> list[Polygon]:
    thick, wing = rng.uniform(0.12, 0.2), rng.uniform(0.4, 0.6)
    return [_box(-thick, 0, thick, 1), [(-wing, 0), (0, -0.7), (wing, 0)]]


def _wedge(rng: Generator) -> list[Polygon]:
    half = rng.uniform(0.3, 0.5)
    return [[(-half, 1), (0, -1), (half, 1)]]


def _kite(rng: Generator) -> list[Polygon]:
    half, waist = rng.uniform(0.45, 0.65), rng.uniform(-0.6, -0.35)
    return [[(0, -1), (half, waist), (0, 1), (-half, waist)]]


def _hook(rng: Generator) -> list[Polygon]:
    thick, tip = rng.uniform(0.3, 0.4), rng.uniform(0.6, 0.9)
    bow = [_box(0, 0, thick, 1.4), _box(0, 1.4 - thick, 1.1, 1.4)]
    return [*bow, _box(1.1 - thick, tip, 1.1, 1.4)]


def _tee(rng: Generator) -> list[Polygon]:
    thick, short = rng.uniform(0.3, 0.4), rng.uniform(0.3, 0.5)
    return [_box(-short, 0, 0.8, thick), _box(-thick / 2, 0, thick / 2, 1.4)]


def _chevron(rng: Generator) -> list[Polygon]:
    rise, thick = rng.uniform(0.7, 1.0), rng.uniform(0.4, 0.55)
    right = [(0.0, 0.0), (1.0, rise), (1.0, rise + thick), (0.0, thick)]
    return [right, [(-x, y) for x, y in right]]


def _flag(rng: Generator) -> list[Polygon]:
    pole, cloth = rng.uniform(0.2, 0.3), rng.uniform(0.8, 1.1)
    return [_box(0, 0, pole, 1.7), [(0, 0), (pole + cloth, 0.45), (0, 0.9)]]


def _fish(rng: Generator) -> list[Polygon]:
    belly, tail = rng.uniform(0.4, 0.55), rng.uniform(0.35, 0.5)
    body = [(-1.0, 0.0), (-0.3, -belly), (0.6, 0.0), (-0.3, belly)]
    return [body, [(0.3, 0), (1.0, -tail), (1.0, tail)]]


def _chair(rng: Generator) -> list[Polygon]:
    thick, seat = rng.uniform(0.28, 0.36), rng.uniform(0.6, 0.8)
    back = [_box(0, 0, thick, 1.5), _box(0, seat, 1, seat + thick)]
    return [*back, _box(1 - thick, seat, 1, 1.5)]


SHAPES: Mapping[str, tuple[Callable[[Generator], list[Polygon]], ...]] = {
    "train": (_ell, _arrow, _wedge, _kite, _hook),
    "val": (_tee, _chevron),
    "test": (_flag, _fish, _chair),
}
"""The shape families of each split; a function samples convex polygons, whose union is the shape.
None looks the same after a quarter turn, so that its rotation is visible.
"""


def _grid(rng: Generator, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates from 0 to 1 along two orthogonal axes, rotated by a random angle [N, N]."""
    y_NN, x_NN = np.mgrid[:side, :side] / side
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return x_NN * cos - y_NN * sin, x_NN * sin + y_NN * cos


def _waves(rng: Generator, side: int) -> NDArray[np.float64]:
    """The sum of plane waves in random directions, with 2 to 9 periods per frame."""
    waves = (
        np.sin(2 * np.pi * (rng.uniform(2, 9) * _grid(rng, side)[0] + rng.random()))
        for _ in range(4)
    )
    return reduce(np.add, waves)


def _clouds(rng: Generator, side: int) -> NDArray[np.float64]:
    """Noise whose amplitude decreases with frequency."""
    frequency_NM = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency_NM[0, 0] = np.inf
    noise_NM = np.fft.rfft2(rng.standard_normal((side, side)))
    return np.fft.irfft2(noise_NM / frequency_NM ** rng.uniform(1, 1.8), s=(side, side))


def _patches(rng: Generator, side: int) -> NDArray[np.float64]:
    """A Voronoi diagram: each pixel has the gray level of the nearest of several points."""
    count = rng.integers(15, 35)
    x_NN, y_NN = _grid(rng, side)
    across, down = rng.uniform(-1, 1.5, (2, 4 * count, 1, 1))
    nearest_NN = ((x_NN - across) ** 2 + (y_NN - down) ** 2).argmin(axis=0)
    return rng.random(4 * count)[nearest_NN]


def _bricks(rng: Generator, side: int) -> NDArray[np.float64]:
    """Rows of bricks with random gray levels, each row shifted by half a brick."""
    x_NN, y_NN = _grid(rng, side)
    row_NN = np.floor(y_NN * rng.uniform(6, 10)).astype(int)
    column_NN = np.floor(x_NN * rng.uniform(3, 5) + row_NN % 2 / 2).astype(int)
    return rng.random((64, 64))[row_NN, column_NN]


def _ripples(rng: Generator, side: int) -> NDArray[np.float64]:
    """Wavy lines."""
    x_NN, y_NN = _grid(rng, side)
    bends_NN = rng.uniform(0.5, 1.5) * np.sin(2 * np.pi * rng.uniform(1, 3) * x_NN)
    return np.sin(2 * np.pi * rng.uniform(4, 7) * y_NN + bends_NN)


def _weave(rng: Generator, side: int) -> NDArray[np.float64]:
    """The product of two orthogonal gratings."""
    x_NN, y_NN = _grid(rng, side)
    along, across = rng.uniform(3, 8, 2)
    return np.sin(2 * np.pi * (along * x_NN + rng.random())) * np.sin(2 * np.pi * across * y_NN)


def _rings(rng: Generator, side: int) -> NDArray[np.float64]:
    """Rings around a point in or near the frame."""
    x_NN, y_NN = _grid(rng, side)
    distance_NN = np.hypot(x_NN - rng.uniform(-1, 1), y_NN - rng.uniform(-1, 1))
    return np.sin(2 * np.pi * rng.uniform(4, 9) * distance_NN)


TEXTURES: Mapping[str, tuple[Callable[[Generator, int], NDArray[np.float64]], ...]] = {
    "train": (_waves, _clouds, _patches),
    "val": (_bricks, _ripples),
    "test": (_weave, _rings),
}
"""The texture families of each split; each function samples an array [N, N]."""
