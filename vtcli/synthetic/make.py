"""Writes a synthetic dataset: scenes of its classes as video files in class folders.

Every frame is encoded as a key frame with a constant quantizer, so that it carries no information
about its neighbors.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError, UsageError
from vtcli.runtime.csv_cells import write_csv
from vtcli.runtime.worker_pool import Heartbeat, WorkerFailure, imap_with_timeout
from vtcli.synthetic.made import is_made, settings_file
from vtcli.synthetic.scene import Scene, render
from vtcli.synthetic.shapes import TEXTURES

if TYPE_CHECKING:
    from vtcli.runtime.progress import ProgressCallback

FRAMES_PER_SECOND = 15
DEFAULT_CLIPS: Mapping[str, int] = {"train": 4000, "val": 400, "test": 800}
_QUANTIZER = 34


@dataclass(frozen=True)
class Family:
    """A synthetic dataset: its name in commands, its title, its classes, and the function that
    draws a scene: `draw_scene(split, class, number, seed=, size=, frames=)`.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    draw_scene: Callable[..., Scene]


@dataclass(frozen=True)
class _Job:
    """One clip to write: its path and the arguments of `draw_scene`."""

    path: Path
    family: Family
    split: str
    motion: str
    number: int
    seed: int
    size: int
    frames: int


def make_dataset(
    folder: str | Path,
    family: Family,
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
    workers: number of processes, 0 and 1 write in this one; the same seed gives the same files with
        any number of them.
    Clips are stored as SPLIT/CLASS/NNNN.mp4 (H.264, 15 frames per second), and SPLIT.csv lists them
    as `path,label`. A smaller dataset is a subset of a larger one with the same seed.
    Raises `UsageError` for invalid numbers, `DataError` if the folder is not empty or cannot be
    written.
    """
    target = Path(os.path.realpath(folder))
    _check(family, clips, seed, size, frames)
    settings_name = settings_file(family.name)
    counts = {split: count for split, count in clips.items() if count}
    settings = {"clips": counts, "seed": seed, "size": size, "frames": frames}
    try:
        if is_made(Path(folder), family.name, family.title, settings):
            return Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{folder} is not an empty folder; give a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            part = Path(temporary)
            jobs = list(_plan(part, family, clips, seed, size, frames))
            for number, job in enumerate(_written(jobs, workers), 1):
                if progress:
                    progress(str(job.path.relative_to(part)), number, len(jobs))
            (part / settings_name).write_text(json.dumps(settings), encoding="utf-8")
            target.mkdir(exist_ok=True)  # an existing folder is kept: it may be someone's cwd
            # The settings come last: with them the dataset is whole.
            for made in sorted(part.iterdir(), key=lambda path: path.name == settings_name):
                made.replace(target / made.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write {folder}: {reason}; give another folder") from error
    return Path(folder)


def _check(family: Family, clips: Mapping[str, int], seed: int, size: int, frames: int) -> None:
    classes = len(family.classes)
    for split, count in clips.items():
        if split not in TEXTURES:
            raise UsageError(f"unknown split '{split}'; choose from {', '.join(TEXTURES)}")
        if count < 0 or count % classes:
            raise UsageError(
                f"{count} {split} clips cannot be divided evenly among {classes} classes; "
                f"choose a multiple of {classes}"
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
    folder: Path, family: Family, clips: Mapping[str, int], seed: int, size: int, frames: int
) -> Iterator[_Job]:
    """Create the folders and lists, and yield the clips to write."""
    for split, count in clips.items():
        if not count:
            continue
        rows = []
        for motion in family.classes:
            (folder / split / motion).mkdir(parents=True)
            for number in range(count // len(family.classes)):
                name = f"{split}/{motion}/{number:04d}.mp4"
                rows.append((name, motion))
                yield _Job(folder / name, family, split, motion, number, seed, size, frames)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            write_csv(file, [("path", "label"), *rows])


def _written(jobs: list[_Job], workers: int) -> Iterator[_Job]:
    """Write the clips, here or in worker processes, and yield each when it is complete."""
    if workers <= 1:
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
    scene = job.family.draw_scene(
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
