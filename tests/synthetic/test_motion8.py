"""Motion-8: the class shows only over time, backwards is the opposite class, seeds reproduce."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vtcli.cli import run
from vtcli.data.open import open_dataset
from vtcli.errors import EXIT_DATA, EXIT_OK, EXIT_USAGE, DataError, UsageError
from vtcli.synthetic import make
from vtcli.synthetic.motion8 import (
    MOTIONS,
    PARTNERS,
    Scene,
    Shape,
    draw_scene,
    encode,
    make_motion8,
    render,
    states_of,
)
from vtcli.synthetic.shapes import SHAPES, TEXTURES
from vtcli.video.decode import probe, read_frames

CLASSES = list(MOTIONS)
COUNTS = {"train": 32, "val": 8, "test": 16}
CHANCE = 1 / 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_motion8(tmp_path_factory.mktemp("made") / "motion8", clips=COUNTS, seed=5)


def wedge(motion: str, frames: int = 9, size: int = 128) -> Scene:
    """A white wedge on black that points right, in the center of the frame halfway through."""
    slant = 1.2
    edges = [
        (-1, 0, 0.6),
        (np.cos(slant), np.sin(slant), 0.3),
        (np.cos(slant), -np.sin(slant), 0.3),
    ]
    white, state = np.full(3, 255, np.float32), (0.5, 0.5, 0.5, 0.0)
    return Scene(
        motion,
        0.02,
        (Shape((np.array(edges, np.float32),), white, state, moves=True),),
        np.zeros((size + 2, size + 2, 3), np.float32),
        1,
        np.zeros((frames, 2), np.int64),
        np.zeros((size, size), np.float32),
        np.zeros((frames, 2), np.int64),
    )


def measured(frame_HWC: NDArray[np.uint8]) -> dict[str, float]:
    """The center and number of white pixels, and the angle of the farthest one: clockwise from
    the right, because rows are counted downwards.
    """
    y, x = np.nonzero(frame_HWC[..., 0] > 127)
    dx, dy = x - x.mean(), y - y.mean()
    tip = np.hypot(dx, dy).argmax()
    angle = np.arctan2(dy[tip], dx[tip])
    return {"across": x.mean(), "down": y.mean(), "area": len(x), "clockwise": angle}


@pytest.mark.parametrize(
    ("motion", "changes", "sign"),
    [
        ("left", "across", -1),
        ("right", "across", 1),
        ("up", "down", -1),
        ("down", "down", 1),
        ("approach", "area", 1),
        ("recede", "area", -1),
        ("clockwise", "clockwise", 1),
        ("counter-clockwise", "clockwise", -1),
    ],
)
def test_every_class_shows_its_motion_and_no_other(motion: str, changes: str, sign: int) -> None:
    frames = render(wedge(motion))
    first, last = measured(frames[0]), measured(frames[-1])
    small = {"across": 4, "down": 4, "area": 0.1 * first["area"], "clockwise": 0.2}
    for name, bound in small.items():
        change = last[name] - first[name]
        assert (change * sign > bound) if name == changes else (abs(change) < bound)


@pytest.mark.parametrize("motion", CLASSES)
def test_a_clip_played_backwards_is_a_clip_of_the_opposite_class(motion: str) -> None:
    scene = draw_scene("train", motion, 3, size=48, frames=10)
    assert scene.backwards().motion == PARTNERS[motion] != motion
    assert np.array_equal(render(scene.backwards()), render(scene)[::-1])
    assert scene.backwards().backwards().motion == motion


def test_frames_are_encoded_independently(tmp_path: Path) -> None:
    frames = render(draw_scene("train", "left", 0))
    forwards, backwards = tmp_path / "f.mp4", tmp_path / "b.mp4"
    forwards.write_bytes(encode(frames))
    backwards.write_bytes(encode(frames[::-1]))
    numbers = range(len(frames))
    decoded = read_frames(forwards, numbers)
    assert np.array_equal(decoded, read_frames(backwards, numbers)[::-1])
    assert np.abs(decoded.astype(int) - frames).mean() < 10


@pytest.mark.parametrize("motion", CLASSES)
def test_states_are_uniformly_distributed_at_any_time_in_every_class(motion: str) -> None:
    scenes = [draw_scene("train", motion, number, size=32, frames=8) for number in range(100)]
    movers = [next(shape for shape in scene.shapes if shape.moves) for scene in scenes]
    states_NT4 = np.stack([states_of(*pair) for pair in zip(scenes, movers, strict=True)])
    sorted_NT4 = np.sort(states_NT4, axis=0)
    steps_N = (np.arange(100) + 0.5) / 100
    # Kolmogorov and Smirnov: 1.95 / sqrt(N) is exceeded by one sample in a thousand.
    assert np.abs(sorted_NT4 - steps_N[:, None, None]).max() < 1.95 / np.sqrt(100)
    opposite = [[shape for shape in scene.shapes if shape.moves][1] for scene in scenes]
    apart_N4 = [np.subtract(a.state, b.state) % 1 for a, b in zip(movers, opposite, strict=True)]
    assert np.allclose(np.stack(apart_N4)[:, :3], 0.5)


def nearest_mean(features_NKD: NDArray[Any], known: int) -> float:
    """Accuracy of a nearest-class-mean classifier: clips [class, number] before `known` give the
    means, the others are classified.
    """
    spread_D = features_NKD[:, :known].std(axis=(0, 1)) + 1e-6
    scaled_NKD = features_NKD / spread_D
    means_ND = scaled_NKD[:, :known].mean(axis=1)
    distances = np.linalg.norm(scaled_NKD[:, known:, None] - means_ND, axis=-1)
    return float((distances.argmin(axis=-1) == np.arange(len(means_ND))[:, None]).mean())


def thumbnail(frames_THWC: NDArray[np.uint8], number: int) -> NDArray[Any]:
    return frames_THWC[number].reshape(8, 6, 8, 6, 3).mean(axis=(1, 3, 4)).ravel()


def drift(frames_THWC: NDArray[np.uint8]) -> NDArray[Any]:
    """How the clip's content moves across and down (Lucas and Kanade, one window)."""
    gray_THW = frames_THWC.mean(axis=3)
    along_time, down, across = np.gradient(gray_THW)
    return np.array([-(along_time * g).sum() / (g * g).sum() for g in (across, down)])


def test_one_frame_does_not_show_the_class_and_motion_does() -> None:
    known, numbers = 24, 40
    clips = [
        [render(draw_scene("train", motion, number, size=48)) for number in range(numbers)]
        for motion in CLASSES
    ]

    def score(feature: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> float:
        return nearest_mean(np.array([[feature(clip) for clip in row] for row in clips]), known)

    error = np.sqrt(CHANCE * (1 - CHANCE) / (len(CLASSES) * (numbers - known)))
    for number in (0, 12, 23):
        assert score(lambda clip, n=number: thumbnail(clip, n)) < CHANCE + 3 * error
    assert score(drift) > 0.45


def test_splits_share_no_shapes_and_no_textures() -> None:
    for families in (SHAPES, TEXTURES):
        functions = [family for split in COUNTS for family in families[split]]
        assert len(functions) == len(set(functions)) >= 6


def test_it_opens_as_folders_and_as_manifests(dataset: Path) -> None:
    for split, count in COUNTS.items():
        as_folder, as_list = (
            open_dataset(dataset, split=split),
            open_dataset(dataset / f"{split}.csv"),
        )
        for read in (as_folder, as_list):
            assert sorted(read.classes["action"]) == sorted(CLASSES)
            labels = [sample.labels[0] for sample in read.samples]
            assert [labels.count(index) for index in range(8)] == [count // 8] * 8
            classes = read.classes["action"]
            assert all(classes[s.labels[0]] == s.path.parent.name for s in read.samples)
        assert {s.path for s in as_folder.samples} == {s.path for s in as_list.samples}


def test_clips_are_small_h264_files(dataset: Path) -> None:
    files = sorted(dataset.rglob("*.mp4"))
    assert len(files) == sum(COUNTS.values())
    assert max(file.stat().st_size for file in files) < 40_000
    info = probe(files[0])
    assert (info.codec, info.frames, info.fps) == ("h264", 24, 15)
    assert (info.width, info.height) == (80, 80)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_depend_on_the_seed_and_not_on_the_workers(dataset: Path, tmp_path: Path) -> None:
    again = contents(make_motion8(tmp_path / "again", clips=COUNTS, seed=5, workers=2))
    assert again == contents(dataset)
    smaller = contents(make_motion8(tmp_path / "smaller", clips={"train": 8}, seed=5))
    clips = {name: data for name, data in smaller.items() if name.endswith(".mp4")}
    assert len(clips) == 8
    assert clips.items() <= again.items()
    other = contents(make_motion8(tmp_path / "other", clips={"train": 8}, seed=6))
    assert all(other[name] != data for name, data in clips.items())
    assert len(set(again.values())) == len(again)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clips": {"train": 7}}, "multiple of 8"),
        ({"clips": {"val": -8}}, "multiple of 8"),
        ({"clips": {"train": 0, "val": 0, "test": 0}}, "nothing to make"),
        ({"clips": {"training": 8}}, "choose from train, val, test"),
        ({"size": 33}, "even size"),
        ({"size": 16}, "even size"),
        ({"frames": 1}, "no motion"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_invalid_numbers_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_motion8(tmp_path / "made", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(dataset)
    assert run(["datasets", "make", "motion8", str(dataset)]) == EXIT_DATA
    assert "holds another Motion-8" in capsys.readouterr().err
    assert contents(dataset) == before


def test_the_same_dataset_is_made_once(tmp_path: Path) -> None:
    folder, options = tmp_path / "made", {"clips": {"test": 8, "val": 0}, "size": 32, "frames": 4}
    make_motion8(folder, **options)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make_motion8(folder, **options)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    (folder / "test" / "up" / "0000.mp4").unlink()
    with pytest.raises(DataError, match=r"lacks test/up/0000\.mp4"):
        make_motion8(folder, **options)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        make_motion8(tmp_path, clips={"test": 8})


def test_an_existing_empty_folder_is_filled_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = (tmp_path / "there").stat().st_ino
    (tmp_path / "link").symlink_to("there")
    make_motion8(tmp_path / "link", clips={"test": 8}, size=32, frames=4)
    assert (tmp_path / "there").stat().st_ino == before
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "there").glob("test/*/0000.mp4"))) == 8


def test_a_full_disk_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(frames: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(make, "encode", full)
    with pytest.raises(DataError, match="No space left"):
        make_motion8(tmp_path / "made", clips={"train": 8})
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_folder_of_the_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "new" / "motion8"
    words = ["--train", "0", "--val", "0", "--test", "8", "--size", "32", "--frames", "4"]
    assert run(["datasets", "make", "motion8", str(made), *words]) == EXIT_OK
    assert capsys.readouterr().out == f"{made}\n"
    assert len(list(made.glob("test/*/0000.mp4"))) == 8
    assert run(["datasets", "make", "kinetics", str(made)]) == EXIT_USAGE
