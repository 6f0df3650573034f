"""Motion-8: a synthetic dataset of eight motions that a single frame cannot distinguish.

Two shapes move over a textured background in front of a shaking camera. The state of a shape is a
point on a torus: x, y, size and angle are all periodic (a shape that leaves on one side comes back
on the other; one that reaches the largest size fades out while it fades in at the smallest). At any
time each of the four is uniformly distributed, whatever the class: the class only determines which
one changes, and in which direction. So frames have the same distribution in all eight classes, and
a clip played backwards is a clip of the opposite class. Every frame is encoded as a key frame with
a constant quantizer, so that it carries no information about its neighbors.

The splits have no family of shapes and no kind of texture in common (`vtcli.synthetic.shapes`).

Shape legend: T frames, S height and width, N side of the background, E edges of a convex polygon.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vtcli.errors import DataError, UsageError
from vtcli.runtime.worker_pool import Heartbeat, WorkerFailure, imap_with_timeout
from vtcli.synthetic.made import SETTINGS_FILE, is_made
from vtcli.synthetic.shapes import SHAPES, TEXTURES

if TYPE_CHECKING:
    from vtcli.runtime.progress import ProgressCallback

Floats: TypeAlias = NDArray[np.float32]

X, Y, SIZE, ANGLE = range(4)
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

FRAMES_PER_SECOND = 15
DEFAULT_CLIPS: Mapping[str, int] = {"train": 4000, "val": 400, "test": 800}
# Periods that a coordinate moves through in one clip. Rotation is slower: many shapes look nearly
# the same after half a turn, and every third frame has to show the direction.
_PERIODS = {X: (0.7, 1.2), Y: (0.7, 1.2), SIZE: (0.7, 1.2), ANGLE: (0.45, 0.8)}
# Radius over frame size; the fraction of the period between them that is spent fading.
_SMALLEST, _LARGEST, _FADING = 0.09, 0.42, 0.15
_QUANTIZER = 34


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
class Scene:
    """Everything a clip is rendered from; rendering is deterministic.

    `step` is in periods per frame. `background` [N, N, 3] is larger than the frame by `margin` on
    each side; `shakes` [T, 2] are camera offsets (y, x) within that margin. `grain` [S, S], in
    gray levels, is rolled by `rolls` [T, 2] in each frame.
    """

    motion: str
    step: float
    shapes: tuple[Shape, ...]
    background: Floats
    margin: int
    shakes: NDArray[np.int64]
    grain: Floats
    rolls: NDArray[np.int64]

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
    slowest, fastest = _PERIODS[MOTIONS[motion][0]]
    return Scene(
        motion,
        float(rng.uniform(slowest, fastest)) / frames,
        tuple(shapes),
        background_NN3,
        margin,
        rng.integers(-margin, margin, (frames, 2), endpoint=True),
        (rng.standard_normal((size, size)) * rng.uniform(1, 5)).astype(np.float32),
        rng.integers(size, size=(frames, 2)),
    )


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
    coordinate, sign = MOTIONS[scene.motion]
    frames = len(scene.shakes)
    states_T4 = np.tile(np.array(shape.state), (frames, 1))
    if shape.moves:
        # Counted from the middle, so that playing backwards only changes the sign.
        states_T4[:, coordinate] += sign * scene.step * (np.arange(frames) - (frames - 1) / 2)
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


@dataclass(frozen=True)
class _Job:
    """One clip to write: its path and the arguments of `draw_scene`."""

    path: Path
    split: str
    motion: str
    number: int
    seed: int
    size: int
    frames: int


def make_motion8(
    folder: str | Path,
    *,
    clips: Mapping[str, int] = DEFAULT_CLIPS,
    seed: int = 0,
    size: int = 80,
    frames: int = 24,
    workers: int = 1,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write the dataset to a new or empty folder and return it; files appear when all are complete.

    A folder that holds the dataset with the same settings is left as it is.

    clips: number of clips of all classes together, for each of `train`, `val` and `test`; a split
        that is absent or has 0 clips is left out.
    size, frames: height and width in pixels, and frames per clip.
    workers: number of processes; the same seed gives the same files with any number of them.
    Clips are stored as SPLIT/CLASS/NNNN.mp4 (H.264, 15 frames per second), and SPLIT.csv lists them
    as `path,label`. A smaller dataset is a subset of a larger one with the same seed.
    Raises `UsageError` for invalid numbers, `DataError` if the folder is not empty or cannot be
    written.
    """
    target = Path(os.path.realpath(folder))
    _check(clips, seed, size, frames)
    counts = {split: count for split, count in clips.items() if count}
    settings = {"clips": counts, "seed": seed, "size": size, "frames": frames}
    try:
        if is_made(Path(folder), settings):
            return Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{folder} is not an empty folder; give a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            part = Path(temporary)
            jobs = list(_plan(part, clips, seed, size, frames))
            for number, job in enumerate(_written(jobs, workers), 1):
                if progress:
                    progress(str(job.path.relative_to(part)), number, len(jobs))
            (part / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
            target.mkdir(exist_ok=True)  # an existing folder is kept: it may be someone's cwd
            # The settings come last: with them the dataset is whole.
            for made in sorted(part.iterdir(), key=lambda path: path.name == SETTINGS_FILE):
                made.replace(target / made.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write {folder}: {reason}; give another folder") from error
    return Path(folder)


def _check(clips: Mapping[str, int], seed: int, size: int, frames: int) -> None:
    for split, count in clips.items():
        if split not in TEXTURES:
            raise UsageError(f"unknown split '{split}'; choose from {', '.join(TEXTURES)}")
        if count < 0 or count % len(MOTIONS):
            raise UsageError(
                f"{count} {split} clips cannot be divided evenly among {len(MOTIONS)} classes; "
                f"choose a multiple of {len(MOTIONS)}"
            )
    if not any(clips.values()):
        raise UsageError(
            "there is nothing to make; choose more than 0 clips for at least one split"
        )
    if seed < 0:
        raise UsageError(f"the seed is {seed}; choose 0 or more")
    if size < 32 or size % 2:
        raise UsageError(
            f"frames of {size}x{size} are not supported; choose an even size, 32 or more"
        )
    if frames < 2:
        raise UsageError(f"a clip with {frames} frames shows no motion; choose 2 or more")


def _plan(
    folder: Path, clips: Mapping[str, int], seed: int, size: int, frames: int
) -> Iterator[_Job]:
    """Create the folders and lists, and yield the clips to write."""
    for split, count in clips.items():
        if not count:
            continue
        rows = []
        for motion in MOTIONS:
            (folder / split / motion).mkdir(parents=True)
            for number in range(count // len(MOTIONS)):
                name = f"{split}/{motion}/{number:04d}.mp4"
                rows.append((name, motion))
                yield _Job(folder / name, split, motion, number, seed, size, frames)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows])


def _written(jobs: list[_Job], workers: int) -> Iterator[_Job]:
    """Write the clips, here or in worker processes, and yield each when it is complete."""
    if workers == 1:
        for job in jobs:
            _write_clip(job)
            yield job
        return
    with closing(imap_with_timeout(_write_clip, jobs, workers)) as outcomes:
        for job, outcome in outcomes:
            if isinstance(outcome, WorkerFailure):
                raise DataError(f"cannot write clips: {outcome.detail}; use fewer workers")
            yield job


def _write_clip(job: _Job, heartbeat: Heartbeat | None = None) -> None:
    scene = draw_scene(
        job.split, job.motion, job.number, seed=job.seed, size=job.size, frames=job.frames
    )
    job.path.write_bytes(encode(render(scene)))


def encode(frames_THWC: NDArray[np.uint8]) -> bytes:
    """An MP4 file with these uint8 RGB frames [T, H, W, 3], all of them key frames."""
    # Not at module level: listing classes needs no decoder.
    import av

    file = io.BytesIO()
    options = {"preset": "veryfast", "qp": str(_QUANTIZER), "g": "1", "x264-params": "log=-1"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
