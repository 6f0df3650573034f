"""The fingerprint of one video after decoding all of it, or the reason why it is unusable.

The part of `vtcli.data.check` that runs in worker processes. A video is never in memory as a
whole. Its fingerprint has four gray thumbnails of 8 x 8 pixels, from the middles of the video's
four quarters, so that another codec, size or frame rate changes it little.

Shape legend: H height, W width of a frame; N videos, D = 4 * 8 * 8 gray levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError, VideoReason
from vtcli.runtime.worker_pool import Heartbeat
from vtcli.video.backends_pyav import decode_all
from vtcli.video.damage import listen
from vtcli.video.decode import probe
from vtcli.video.frame_folder import frame_numbers
from vtcli.video.frame_source import FrameFolder, open_frame_source
from vtcli.video.orientation import quarter_turns, upright
from vtcli.video.times import are_even

DUPLICATE_RMSE = 2.5
"""Two videos count as duplicates if the root mean square error of their thumbnails is at most this,
in gray levels of 0 to 255. Transcoding costs 0.3 to 1.5 levels and halving the size about 1; videos
with different content are at least 10 apart, and different videos of a fixed camera are in between.
"""

_QUARTERS, _SIDE = 4, 8
_BLOCK = 1024


@dataclass(frozen=True)
class VideoFingerprint:
    """A video that can be decoded to its end.

    `frames` is their number. `fps` is 0.0 if the file does not store it, None for a folder of
    frames, which cannot. `size` is in bytes, of the file or of all images of a folder; `thumbnails`
    has D bytes. `times` are those of the frames (see `FrameSource`) where `fps` does not give them.
    `warnings` are signs of damage.
    """

    frames: int
    fps: float | None
    size: int
    thumbnails: bytes
    times: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A video that cannot be used: the reason as one word and as a sentence."""

    reason: VideoReason
    detail: str


def inspect(path: Path, heartbeat: Heartbeat) -> VideoFingerprint | Unreadable:
    """Decode all frames of a video file or folder of frames; `heartbeat` is called for each."""
    try:
        return (
            _inspect_folder(path, heartbeat) if path.is_dir() else _inspect_video(path, heartbeat)
        )
    except VideoDecodeError as error:
        return Unreadable(error.reason, str(error).removeprefix(f"{path}: "))
    except MemoryError:
        return Unreadable("limit", "needs more memory than is available; scale it down first")
    except Exception as error:
        return Unreadable("corrupt", f"cannot be read ({error}); copy it again")


def _inspect_video(path: Path, heartbeat: Heartbeat) -> VideoFingerprint:
    info = probe(path)
    wanted = _middles(info.frames)
    thumbnails = {}
    with listen() as heard:
        for position, frame in decode_all(info):
            heartbeat()
            if position in wanted:
                rgb_HW3 = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                shown_HW3 = upright(rgb_HW3, quarter_turns(frame), info.mirrored)
                thumbnails[position] = _thumbnail(shown_HW3)
    joined = b"".join(thumbnails[position] for position in wanted)
    assert info.index is not None
    times = info.index.times
    uneven = None if are_even(times, info.fps) else times
    warnings = tuple(dict.fromkeys([*info.warnings, *heard.sentences()]))
    size = path.stat().st_size
    return VideoFingerprint(info.frames, info.fps, size, joined, uneven, warnings)


def _inspect_folder(path: Path, heartbeat: Heartbeat) -> VideoFingerprint:
    source = open_frame_source(path)
    assert isinstance(source, FrameFolder)
    _check_numbers(path, [image.name for image in source.images])
    wanted = _middles(source.frames)
    thumbnails = {}
    first: tuple[int, ...] | None = None
    for position in range(source.frames):
        heartbeat()
        rgb_HW3 = source.read([position])[0]
        first = first or rgb_HW3.shape
        if rgb_HW3.shape != first:
            name = source.images[position].name
            text = f"contains images of different sizes, the first is {name}; extract it again"
            raise VideoDecodeError(path, "corrupt", text)
        if position in wanted:
            thumbnails[position] = _thumbnail(rgb_HW3)
    size = sum(image.stat().st_size for image in source.images)
    return VideoFingerprint(source.frames, None, size, b"".join(thumbnails[p] for p in wanted))


def _check_numbers(folder: Path, names: Sequence[str]) -> None:
    """Raise `VideoDecodeError` if the numbers of the frames are whole and not consecutive."""
    numbers = frame_numbers(names)
    if not all(number.is_integer() for number in numbers):
        return
    for before, after in pairwise(map(int, numbers)):
        if after != before + 1:
            text = f"has image {before} followed by image {after}; extract it again"
            raise VideoDecodeError(folder, "missing_frames", text)


def _middles(frames: int) -> list[int]:
    """The index of the frame in the middle of each quarter of a video."""
    return [int((quarter + 0.5) * frames / _QUARTERS) for quarter in range(_QUARTERS)]


def _thumbnail(rgb_HW3: NDArray[np.uint8]) -> bytes:
    """A frame's mean gray level in each of 8 x 8 cells, as 64 bytes."""
    cells = rgb_HW3.mean(axis=2)
    for axis in (0, 1):
        edges = np.arange(_SIDE + 1) * cells.shape[axis] // _SIDE
        sums = np.add.reduceat(cells, edges[:-1], axis=axis)
        cells = sums / np.maximum(1, np.diff(edges)).reshape(-1, *[1] * (1 - axis))
    return np.round(cells).astype(np.uint8).tobytes()


def digest(path: Path, heartbeat: Heartbeat) -> str | Unreadable:
    """The SHA-256 of a file, or of the images of a folder in order, in hexadecimal digits."""
    total = hashlib.sha256()
    try:
        source = open_frame_source(path) if path.is_dir() else None
        for file in source.images if isinstance(source, FrameFolder) else (path,):
            with file.open("rb") as opened:
                while chunk := opened.read(2**20):
                    total.update(chunk)
                    heartbeat()
    except (OSError, VideoDecodeError) as error:
        return Unreadable("corrupt", f"cannot be read again ({error}); copy it again")
    return total.hexdigest()


def near_duplicate_pairs(thumbnails_ND: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """All pairs of videos whose thumbnails are within `DUPLICATE_RMSE` of each other."""
    means_N = thumbnails_ND.mean(axis=1)
    order_N = np.argsort(means_N, kind="stable")
    means_N = means_N[order_N]
    bound = DUPLICATE_RMSE**2 * thumbnails_ND.shape[1]
    for start in range(0, len(order_N), _BLOCK):
        rows = order_N[start : start + _BLOCK]
        # Means differ by at most the root mean square error, so videos beyond it cannot match.
        brightest = means_N[start + len(rows) - 1] + DUPLICATE_RMSE
        end = int(np.searchsorted(means_N, brightest, side="right"))
        for other in range(start, end, _BLOCK):
            columns = order_N[other : min(other + _BLOCK, end)]
            squared = _squared_distances(thumbnails_ND[rows], thumbnails_ND[columns])
            for i, j in np.argwhere(squared <= bound).tolist():
                if start + i < other + j:
                    yield int(rows[i]), int(columns[j])


def group_copies(
    fingerprints: Mapping[Path, VideoFingerprint], digests: Mapping[Path, str]
) -> dict[Path, Path]:
    """For each video, the one that represents all that are the same."""
    by_bytes: dict[str | Path, Path] = {}
    parent = {path: by_bytes.setdefault(digests.get(path, path), path) for path in fingerprints}
    distinct = list(by_bytes.values())

    def root_of(path: Path) -> Path:
        while parent[path] != path:
            parent[path] = parent[parent[path]]
            path = parent[path]
        return path

    if distinct:
        thumbnails = b"".join(fingerprints[path].thumbnails for path in distinct)
        pairs = near_duplicate_pairs(np.frombuffer(thumbnails, np.uint8).reshape(len(distinct), -1))
        for a, b in pairs:
            parent[root_of(distinct[b])] = root_of(distinct[a])
    return {path: root_of(path) for path in fingerprints}


def _squared_distances(a_MD: NDArray[np.uint8], b_ND: NDArray[np.uint8]) -> NDArray[np.float32]:
    a_MD, b_ND = a_MD.astype(np.float32), b_ND.astype(np.float32)
    return (a_MD**2).sum(1)[:, None] + (b_ND**2).sum(1) - 2 * a_MD @ b_ND.T


def thumbnail_rmse(a: bytes, b: bytes) -> float:
    """The root mean square error between two videos' thumbnails, in gray levels of 0 to 255."""
    gray_2D = np.frombuffer(a + b, np.uint8).astype(float).reshape(2, -1)
    return float(np.sqrt(np.mean((gray_2D[0] - gray_2D[1]) ** 2)))
