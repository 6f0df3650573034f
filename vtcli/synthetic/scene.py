"""Scenes of the synthetic datasets: shapes that move over a texture, rendered as frames.

Two shapes move over a textured background in front of a shaking camera. The state of a shape is a
point on a torus: x, y, size and angle are all periodic (a shape that leaves on one side comes back
on the other; one that reaches the largest size fades out while it fades in at the smallest). The
states halfway through a clip are uniformly distributed, and the path of a class is added to them:
at any time each of the four is uniformly distributed, whatever the class. So frames have the same
distribution in all classes, and no single frame tells them apart.

The splits have no family of shapes and no kind of texture in common (`vtcli.synthetic.shapes`).

Shape legend: T frames, S height and width, N side of the background, E edges of a convex polygon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vtcli.synthetic.shapes import SHAPES, TEXTURES

Floats: TypeAlias = NDArray[np.float32]

X, Y, SIZE, ANGLE = range(4)
# Radius over frame size; the fraction of the period between them that is spent fading.
_SMALLEST, _LARGEST, _FADING = 0.09, 0.42, 0.15


@dataclass(frozen=True)
class Shape:
    """A shape of one color, made of convex pieces.

    `pieces`: for each, a row (x, y, d) per edge [E, 3]: the outward normal and its distance from
    the shape's center, in units of the shape's radius. `color` is RGB, 0 to 255. `state` is x, y,
    size and angle halfway through the clip, in periods.
    """

    pieces: tuple[Floats, ...]
    color: Floats
    state: tuple[float, float, float, float]
    moves: bool


@dataclass(frozen=True, eq=False)
class Scene(ABC):
    """Everything a clip is rendered from; rendering is deterministic.

    `step` is the speed of the motion, in periods per frame. `background` [N, N, 3] is larger
    than the frame by `margin` on each side; `shakes` [T, 2] are camera offsets (y, x) within that
    margin. `grain` [S, S], in gray levels, is rolled by `rolls` [T, 2] in each frame.
    """

    motion: str
    step: float
    shapes: tuple[Shape, ...]
    background: Floats
    margin: int
    shakes: NDArray[np.int64]
    grain: Floats
    rolls: NDArray[np.int64]

    @abstractmethod
    def path(self) -> NDArray[np.float64]:
        """What is added to the states of moving shapes in every frame [T, 4], in periods."""


def scene_parts(
    rng: Generator, split: str, cycles: tuple[float, float], size: int, frames: int
) -> dict[str, Any]:
    """Random fields of a `Scene`, except those that say how it moves: `step` is drawn so that the
    clip shows `cycles` (least, most) periods.
    """
    margin = max(1, round(size / 64))
    background_NN3 = _background(rng, split, size + 2 * margin)
    level = float(background_NN3.mean())
    state = rng.random(4)
    # Half a period apart, one of the two is always fully visible while the other fades.
    opposite = (state + np.array([0.5, 0.5, 0.5, rng.random()])) % 1
    shapes = [_shape(rng, split, level, s, moves=True) for s in (state, opposite)]
    if rng.random() < 0.5:
        still = rng.random(4) * (1, 1, 0.4, 1) + (0, 0, 0.3, 0)
        shapes.insert(0, _shape(rng, split, level, still, moves=False))
    return {
        "step": float(rng.uniform(*cycles)) / frames,
        "shapes": tuple(shapes),
        "background": background_NN3,
        "margin": margin,
        "shakes": rng.integers(-margin, margin, (frames, 2), endpoint=True),
        "grain": (rng.standard_normal((size, size)) * rng.uniform(1, 5)).astype(np.float32),
        "rolls": rng.integers(size, size=(frames, 2)),
    }


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a clip as uint8 RGB [T, S, S, 3]."""
    size = len(scene.grain)
    frames_TSS3 = np.stack(
        [scene.background[y : y + size, x : x + size] for y, x in scene.shakes + scene.margin]
    )
    for shape in scene.shapes:
        frames_TSS3 += _cover(scene, shape)[..., None] * (shape.color - frames_TSS3)
    for frame_SS3, roll in zip(frames_TSS3, scene.rolls, strict=True):
        frame_SS3 += np.roll(scene.grain, tuple(roll), axis=(0, 1))[..., None]
    return np.clip(frames_TSS3, 0, 255).astype(np.uint8)


def states_of(scene: Scene, shape: Shape) -> NDArray[np.float64]:
    """A shape's x, y, size and angle in every frame [T, 4], in periods."""
    states_T4 = np.tile(np.array(shape.state), (len(scene.shakes), 1))
    if shape.moves:
        states_T4 += scene.path()
    return states_T4 % 1


def _cover(scene: Scene, shape: Shape) -> Floats:
    """A shape's opacity at each pixel, 0 to 1 [T, S, S], anti-aliased over one pixel."""
    size = len(scene.grain)
    x_T, y_T, size_T, angle_T = states_of(scene, shape).T
    radius_T = size * _SMALLEST * (_LARGEST / _SMALLEST) ** size_T
    opacity_T = np.minimum(1, np.minimum(size_T, 1 - size_T) / _FADING)
    cos_T, sin_T = np.cos(2 * np.pi * angle_T), np.sin(2 * np.pi * angle_T)
    dx_TS = _offsets(x_T * size - scene.shakes[:, 1], size)
    dy_TS = _offsets(y_T * size - scene.shakes[:, 0], size)

    def beyond_edge(edge: Floats) -> Floats:
        x, y, distance = edge.tolist()
        from_dx_TS = (x * cos_T - y * sin_T)[:, None] * dx_TS - (distance * radius_T)[:, None]
        from_dy_TS = (x * sin_T + y * cos_T)[:, None] * dy_TS
        return from_dx_TS.astype(np.float32)[:, None] + from_dy_TS.astype(np.float32)[..., None]

    # A pixel is outside a convex piece if it is beyond any edge, outside the shape if it is
    # outside all pieces.
    pieces = (reduce(np.maximum, map(beyond_edge, piece_E3)) for piece_E3 in shape.pieces)
    cover_TSS = np.clip(0.5 - reduce(np.minimum, pieces), 0, 1)
    return cover_TSS * opacity_T.astype(np.float32)[:, None, None]


def _offsets(center_T: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Offsets from a center to each pixel of a periodic line [T, S]."""
    return (np.arange(size) - center_T[:, None] + size / 2) % size - size / 2


def _shape(
    rng: Generator, split: str, level: float, state: NDArray[np.float64], moves: bool
) -> Shape:
    """A random shape of the split's families, clearly darker or brighter than the background."""
    families = SHAPES[split]
    polygons = families[rng.integers(len(families))](rng)
    points = np.array([point for polygon in polygons for point in polygon])
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    scale = 1 / np.linalg.norm(points - center, axis=1).max()
    mirrored = rng.choice([-1, 1])
    pieces = tuple(
        _edges((np.array(polygon) - center) * scale * (mirrored, 1)) for polygon in polygons
    )
    darkest, brightest, apart = 15.0, 240.0, 75.0
    darker, brighter = max(0.0, level - apart - darkest), max(0.0, brightest - level - apart)
    along = rng.uniform(-darker, brighter)
    gray = level - apart + along if along < 0 else level + apart + along
    tint = rng.uniform(-60, 60, 3)
    color = np.clip(gray + tint - tint.mean(), 0, 255).astype(np.float32)
    return Shape(pieces, color, tuple(state.tolist()), moves)


def _edges(corners_E2: NDArray[np.float64]) -> Floats:
    """The edges [E, 3] of a convex polygon in the form of `Shape.pieces`."""
    along_E2 = np.roll(corners_E2, -1, axis=0) - corners_E2
    normal_E2 = np.stack([along_E2[:, 1], -along_E2[:, 0]], axis=1)
    normal_E2 /= np.linalg.norm(normal_E2, axis=1, keepdims=True)
    distance_E = (normal_E2 * corners_E2).sum(axis=1)
    inwards_E = normal_E2 @ corners_E2.mean(axis=0) > distance_E
    edges_E3 = np.concatenate([normal_E2, distance_E[:, None]], axis=1)
    return np.where(inwards_E[:, None], -edges_E3, edges_E3).astype(np.float32)


def _background(rng: Generator, split: str, side: int) -> Floats:
    """A random texture of one color [N, N, 3], 0 to 255."""
    kinds = TEXTURES[split]
    texture_NN = kinds[rng.integers(len(kinds))](rng, side)
    texture_NN = (texture_NN - texture_NN.mean()) / texture_NN.std()
    color = rng.uniform(80, 175) + rng.uniform(-25, 25, 3)
    contrast = rng.uniform(10, 24) * rng.uniform(0.7, 1.3, 3)
    return (color + contrast * texture_NN[..., None]).astype(np.float32)
