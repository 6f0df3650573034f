"""`vt datasets check` reports every defect and nothing else, and writes the rest as a manifest."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.data.faulty import faulty_inspect, pretend
from tests.forked import Forked
from tests.runtime.processes import children, running, wait_until
from tests.video.barcode import write_clip
from vtcli.cli import run
from vtcli.data.check import (
    CheckResult,
    Issue,
    check_datasets,
    check_manifest,
    open_splits,
    write_manifest,
)
from vtcli.data.fingerprint import (
    DUPLICATE_RMSE,
    Unreadable,
    VideoFingerprint,
    inspect,
    near_duplicate_pairs,
    thumbnail_rmse,
)
from vtcli.data.open import open_dataset
from vtcli.data.samples import Dataset, Sample
from vtcli.errors import (
    EXIT_DATA,
    EXIT_INTERRUPTED,
    EXIT_NO_INPUT,
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    DataError,
)
from vtcli.report.checking import SHOWN, print_check
from vtcli.synthetic.motion8 import draw_scene, encode, render

HEADER = ("path", "label", "split", "start", "end", "id")


def scene_frames(number: int, frames: int = 24) -> NDArray[np.uint8]:
    """A moving scene of its own for each number [T, 80, 80, 3]; 15 frames a second when encoded."""
    return render(draw_scene("train", "right", number, frames=frames))


def recode(path: Path, frames_THWC: NDArray[np.uint8], codec: str, size: tuple[int, int]) -> Path:
    """The same frames with another codec and size (width, height)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 1_000_000
        for number, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            frame = frame.reformat(*size, "yuv420p", interpolation="AREA")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def heartbeat() -> None:
    """A heartbeat that nothing listens to."""


# File, label, split, start, end; and what is wrong with it.
DEFECTS = (
    (("sound.mp4", "run", "train", "", ""), ""),
    (("with space #1 & ümlaut.mp4", "jump", "train", "", ""), ""),
    (("sound 2.mp4", "run", "val", "", ""), ""),
    (("long.mp4", "run", "train", 0.2, 1.0), ""),
    (("gone.mp4", "run", "train", "", ""), "not_found"),
    (("empty.mp4", "run", "train", "", ""), "not_video"),
    (("text.mp4", "jump", "train", "", ""), "not_video"),
    (("half.mp4", "run", "train", "", ""), "corrupt"),
    (("cut.mp4", "run", "train", "", ""), "missing_frames"),
    (("short.mp4", "jump", "train", "", ""), "short"),
    (("long.mp4", "run", "train", 0.2, 0.21), "short"),
    (("long.mp4", "run", "train", 0.5, 9.5), "segment"),
    (("long.mp4", "run", "train", 70, 80), "segment"),
    (("copy.mp4", "run", "train", "", ""), "duplicate"),
    (("coded again.avi", "jump", "train", "", ""), "duplicate"),
    (("leak.mp4", "jump", "train", "", ""), "leakage"),
)


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of videos with one defect each, whose rows are `DEFECTS` with the id `r<row>`."""
    folder = tmp_path_factory.mktemp("defects")
    for number, name in enumerate(("sound.mp4", "with space #1 & ümlaut.mp4", "sound 2.mp4")):
        (folder / name).write_bytes(encode(scene_frames(number)))
    (folder / "long.mp4").write_bytes(encode(scene_frames(3)))
    (folder / "copy.mp4").write_bytes((folder / "sound.mp4").read_bytes())
    (folder / "leak.mp4").write_bytes((folder / "sound 2.mp4").read_bytes())
    recode(folder / "coded again.avi", scene_frames(1), "mpeg4", (120, 64))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("<html>404 not found</html>")
    (folder / "half.mp4").write_bytes(encode(scene_frames(4))[:3000])
    whole = write_clip(folder / "cut.mp4", container_options={"movflags": "faststart"}).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "short.mp4").write_bytes(encode(scene_frames(5)[:1]))
    rows = [(*row, f"r{number}") for number, (row, _) in enumerate(DEFECTS)]
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder / "list.csv"


def test_every_defect_is_reported_and_a_clean_manifest_is_written(
    defects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = defects.with_name("clean.csv")
    words = ["datasets", "check", str(defects), "--format", "json", "-j", "2"]
    assert run([*words, "-o", str(clean)]) == EXIT_SOME_FAILED
    table = json.loads(capsys.readouterr().out)
    wrong = {f"r{number}": problem for number, (_, problem) in enumerate(DEFECTS) if problem}
    assert {line["id"]: line["problem"] for line in table["issues"]} == wrong
    others = {line["id"]: line["other"] for line in table["issues"] if line["other"]}
    assert others == {"r13": "r0", "r14": "r1", "r15": "r2"}
    assert (table["samples"], table["splits"]) == (len(DEFECTS), ["train", "validation"])

    sound = [row for row, problem in DEFECTS if not problem]
    read = [pair for d in open_splits(clean) for pair in samples_of(d)]
    assert sorted((s.path.name, label, s.split) for s, label in read) == sorted(
        (name, label, {"val": "validation"}.get(split, split)) for name, label, split, *_ in sound
    )
    assert {(s.start, s.end) for s, _ in read if s.path.name == "long.mp4"} == {(0.2, 1.0)}
    assert run(["datasets", "check", str(clean)]) == EXIT_OK


def samples_of(dataset: Dataset) -> list[tuple[Sample, str]]:
    return [(s, dataset.classes["action"][s.labels[0]]) for s in dataset.samples]


def test_one_split_is_checked_by_itself(defects: Path) -> None:
    dataset = open_dataset(defects, split="train")
    problems = {issue.problem for issue in check_datasets([dataset]).issues}
    assert "leakage" not in problems


def test_a_decoder_that_hangs_or_crashes_is_an_issue(tmp_path: Path) -> None:
    names = ("a", "hang", "b", "segfault", "c")
    for number, name in enumerate(names):
        (tmp_path / f"{name}.mp4").write_bytes(encode(scene_frames(number, frames=4)))
    result = check_datasets(
        [made([Sample(name, tmp_path / f"{name}.mp4", (0,)) for name in names])],
        inspect=faulty_inspect,
        timeout=1.0,
        workers=2,
    )
    assert {f.sample.id: f.problem for f in result.issues} == {
        "hang": "timeout",
        "segfault": "crashed",
    }
    assert sorted(path.stem for path in result.fingerprints) == ["a", "b", "c"]


def made(samples: Sequence[Sample], split: str = "", **changes: object) -> Dataset:
    """A dataset of these samples, of two classes."""
    fields: dict[str, object] = {"classes": {"action": ("run", "jump")}, **changes}
    return Dataset("made", tuple(samples), summary="", root=Path(), split=split, **fields)  # type: ignore[arg-type]


def pretended(folder: Path, *datasets: Dataset) -> tuple[Issue, ...]:
    """All issues if a video shows its own name, up to a '."""
    for sample in (sample for dataset in datasets for sample in dataset.samples):
        sample.path.write_text(sample.path.stem.partition("'")[0])
    return check_datasets(datasets, inspect=pretend).issues


def in_short(issues: Sequence[Issue]) -> list[tuple[str, str, str]]:
    """(id, problem, id of the duplicate) of each."""
    return [(f.sample.id, f.problem, f.other.id if f.other else "") for f in issues]


def test_only_equal_segments_of_one_video_are_duplicates(tmp_path: Path) -> None:
    long = tmp_path / "long"
    train = [
        Sample("1", long, (0,), 0.0, 2.0, split="train"),
        Sample("2", long, (0,), 1.0, 3.0, split="train"),
        Sample("3", long, (1,), 1.0, 3.0, split="train"),
        Sample("4", tmp_path / "long'", (0,), 1.0, 3.0, split="train"),
        Sample("5", tmp_path / "other", (0,), split="train"),
    ]
    issues = pretended(tmp_path, made(train, "train"))
    assert in_short(issues) == [("3", "duplicate", "2"), ("4", "duplicate", "2")]
    assert [f.detail.endswith("labels differ") for f in issues] == [True, False]
    test = [Sample("6", long, (0,), 8.0, 9.0, split="test")]
    issues = pretended(tmp_path, made(train, "train"), made(test, "test"))
    assert in_short(issues) == [(number, "leakage", "6") for number in "1234"]


def test_official_splits_of_one_dataset_do_not_leak_into_each_other(tmp_path: Path) -> None:
    def part(split: str, *names: str) -> Dataset:
        samples = [Sample(f"{split}/{n}", tmp_path / n, (0,), split=split) for n in names]
        return made(samples, split)

    divided = [
        part("1", "a", "b"),
        part("2", "c", "d"),
        part("train1", "c", "d"),
        part("train2", "a", "b", "d'"),
    ]
    issues = pretended(tmp_path, *divided)
    assert in_short(issues) == [("train2/d'", "leakage", "2/d")]


def test_frame_ranges_are_checked_and_written_as_seconds(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(encode(scene_frames(0)))
    numbers = {"in": (3, 9), "beyond": (30, 60), "rounded up": (10, 30), "one": (4, 4)}
    samples = [
        Sample(name, video, (0,), first_frame=a, last_frame=b) for name, (a, b) in numbers.items()
    ]
    result = check_datasets([made(samples)])
    assert {f.sample.id: f.problem for f in result.issues} == {
        "beyond": "segment",
        "one": "short",
    }
    rows = manifest_rows(result, tmp_path / "clean.csv")
    # Frames 3 to 9 of 15 a second last from 3/15 s to 10/15 s.
    assert [(row["path"], float(row["start"]), float(row["end"])) for row in rows] == [
        ("v.mp4", pytest.approx(0.2), pytest.approx(10 / 15)),
        ("v.mp4", pytest.approx(10 / 15), pytest.approx(31 / 15)),
    ]


def manifest_rows(result: CheckResult, path: Path) -> list[dict[str, str]]:
    write_manifest(result, path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_images(folder: Path, numbers: Sequence[int], first: int = 0) -> Path:
    """`frame_NNN.png` for each number, showing a scene."""
    folder.mkdir()
    for index, number in enumerate(numbers):
        Image.fromarray(scene_frames(first)[index]).save(folder / f"frame_{number:03d}.png")
    return folder


def test_folders_of_frames_are_checked_image_by_image(tmp_path: Path) -> None:
    sound = inspect(write_images(tmp_path / "sound", range(1, 9)), heartbeat)
    assert isinstance(sound, VideoFingerprint)
    assert (sound.frames, sound.fps) == (8, None)
    gap = inspect(write_images(tmp_path / "gap", [1, 2, 5, 6]), heartbeat)
    assert gap == Unreadable("missing_frames", "has image 2 followed by image 5; extract it again")
    mixed = write_images(tmp_path / "mixed", range(4))
    Image.new("RGB", (40, 30)).save(mixed / "frame_002.png")
    truncated = write_images(tmp_path / "truncated", range(4))
    (truncated / "frame_003.png").write_bytes((truncated / "frame_001.png").read_bytes()[:500])
    for folder, name in ((mixed, "frame_002.png"), (truncated, "frame_003.png")):
        found = inspect(folder, heartbeat)
        assert isinstance(found, Unreadable)
        assert found.reason == "corrupt"
        assert name in found.detail
    (tmp_path / "none").mkdir()
    nothing = inspect(tmp_path / "none", heartbeat)
    assert isinstance(nothing, Unreadable)
    assert nothing.reason == "not_video"


def test_equal_folders_of_frames_are_duplicates_and_take_the_frame_rate_of_the_dataset(
    tmp_path: Path,
) -> None:
    folders = [
        write_images(tmp_path / name, range(8), n) for name, n in zip("abc", (0, 1, 0), strict=True)
    ]
    samples = [Sample(folder.name, folder, (0,), 0.0, 2.0) for folder in folders]
    found = check_datasets([made(samples, frame_rate=4.0)]).issues
    assert [(f.sample.id, f.problem) for f in found] == [("c", "duplicate")]
    found = check_datasets([made(samples, frame_rate=24.0)]).issues
    assert [f.problem for f in found] == ["segment"] * 3


@pytest.mark.parametrize(
    ("codec", "name", "size"),
    [
        ("libx264", "a.mp4", (80, 80)),
        ("mpeg4", "a.avi", (160, 120)),
        ("libvpx-vp9", "a.webm", (64, 48)),
    ],
)
def test_transcoded_videos_are_near_duplicates(
    tmp_path: Path, codec: str, name: str, size: tuple[int, int]
) -> None:
    first = tmp_path / "first.mp4"
    first.write_bytes(encode(scene_frames(0)))
    again = recode(tmp_path / name, scene_frames(0), codec, size)
    found = [inspect(path, heartbeat) for path in (first, again)]
    fingerprints = [f for f in found if isinstance(f, VideoFingerprint)]
    assert thumbnail_rmse(*(found.thumbnails for found in fingerprints)) < DUPLICATE_RMSE


def test_near_duplicates_are_exactly_the_pairs_within_the_bound() -> None:
    rng = np.random.default_rng(0)
    count = 1300  # more than one block
    videos = rng.integers(100, 120, (count, 1)) + rng.integers(0, 12, (count, 256))
    videos[700:720] = videos[100:120] + rng.integers(-4, 5, (20, 256))
    found = {(min(pair), max(pair)) for pair in near_duplicate_pairs(videos.astype(np.uint8))}
    exact = set()
    for a in range(count):
        squares = ((videos[a + 1 :] - videos[a]) ** 2).mean(axis=1)
        exact |= {(a, a + 1 + int(b)) for b in np.flatnonzero(squares <= DUPLICATE_RMSE**2)}
    assert found == exact
    assert 0 < len(found & {(100 + n, 700 + n) for n in range(20)}) < 20


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    fast = {"preset": "ultrafast", "x264-params": "log=-1"}
    lengths = {"short": 20, "long": 900}
    clips = [
        str(write_clip(tmp_path / f"{name}.mp4", numbers=range(frames), options=fast))
        for name, frames in lengths.items()
    ]
    code = """
import resource, sys
from pathlib import Path
from vtcli.data.fingerprint import inspect
for path in sys.argv[1:]:
    print(inspect(Path(path), lambda: None).frames)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *clips], capture_output=True, text=True, check=True
    )
    short, before, long, after = map(int, done.stdout.split())
    assert (short, long) == (20, 900)
    # 900 frames of 192 x 128 are 66 MB; ru_maxrss counts in kB.
    assert after - before < 10_000


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_an_interrupted_check_leaves_no_files_and_no_processes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "0.mp4").write_bytes(encode(scene_frames(0)))
    for number in range(1, 3000):
        (tmp_path / "run" / f"{number}.mp4").symlink_to("0.mp4")
    words = ["datasets", "check", tmp_path, "-j", "2", "-o", tmp_path / "clean.csv"]
    with Forked(words, os.environ) as process:
        wait_until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (EXIT_INTERRUPTED, "", "vt: error: interrupted\n")
    wait_until(lambda: not any(map(running, workers)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_exit_codes(defects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = ["datasets", "check"]
    assert run([*check, str(defects), "--data-root", str(tmp_path)]) == EXIT_NO_INPUT
    assert run([*check, str(tmp_path / "none.csv")]) == EXIT_NO_INPUT
    assert run([*check, "nothing"]) == EXIT_USAGE
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("path,label,start\na.mp4,run,soon\n")
    assert run([*check, str(wrong)]) == EXIT_DATA
    assert run([*check, str(defects), "--split", "test"]) == EXIT_DATA
    assert run([*check, str(defects), "-o", str(defects)]) == EXIT_USAGE
    assert run([*check, str(defects), "-o", str(defects / "folder.csv")]) == EXIT_DATA
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 6
    assert all(line.startswith("vt: error: ") for line in errors)


def test_what_a_manifest_cannot_hold_is_refused_before_decoding(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.mp4", (0, 1))
    two_heads = made([sample], classes={"verb": ("cut",), "noun": ("an onion", "bread")})
    with pytest.raises(DataError, match="one label"):
        check_manifest([two_heads], tmp_path / "clean.csv")
    labeled, unlabeled = Sample("a", tmp_path, (0,)), Sample("b", tmp_path)
    with pytest.raises(DataError, match="name the splits that have labels"):
        check_manifest([made([labeled]), made([unlabeled])], tmp_path / "clean.csv")
    check_manifest([made([unlabeled])], tmp_path / "clean.csv")


def test_a_dataset_without_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        check_datasets([made([])])


@pytest.mark.parametrize(("names", "fits"), [(("1", "10"), False), (("0", "1"), True)])
def test_a_manifest_does_not_turn_names_of_digits_into_other_numbers(
    tmp_path: Path, names: tuple[str, str], fits: bool
) -> None:
    for number, label in enumerate(names):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "0.mp4").write_bytes(encode(scene_frames(number)))
    datasets = open_splits(tmp_path / "in")
    path = tmp_path / "out.csv"
    if not fits:
        with pytest.raises(DataError, match=r"digits, such as '1'.*leave -o out"):
            check_manifest(datasets, path)
        return
    check_manifest(datasets, path)
    assert write_manifest(check_datasets(datasets), path) == 2
    before = {s.path: s.labels for s in datasets[0].samples}
    assert {s.path: s.labels for s in open_dataset(path).samples} == before


def test_a_class_without_remaining_samples_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, label in enumerate(("run", "jump")):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "0.mp4").write_bytes(
            encode(scene_frames(number, frames=1 + number))
        )
    words = ["datasets", "check", str(tmp_path / "in"), "-o", str(tmp_path / "clean.csv")]
    assert run(words) == EXIT_SOME_FAILED
    assert "no sample of class 'run' is left" in capsys.readouterr().err


def test_reports_list_the_first_of_many_and_do_not_interpret_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = [Sample(f"{n}", Path(f"[red]{n}[/red] :smile:.mp4"), (0,)) for n in range(25)]
    issues = tuple(Issue("not_found", sample, "is not there") for sample in samples)
    result = CheckResult((made(samples),), 25, {}, issues)
    print_check(result, "table")
    out = capsys.readouterr().out
    assert out.count("[/red] :smile:") == SHOWN
    assert "5 more" in out
    print_check(result, "csv")
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(lines) == 25
    assert lines[3]["path"] == "[red]3[/red] :smile:.mp4"
    print_check(result, "json")
    assert json.loads(capsys.readouterr().out)["problems"] == {"not_found": 25}


def test_a_readable_video_with_signs_of_damage_is_an_issue(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    whole = write_clip(tmp_path / "run" / "whole.gif", "gif", pix_fmt="rgb8").read_bytes()
    (tmp_path / "run" / "cut.gif").write_bytes(whole[: len(whole) * 2 // 3])
    result = check_datasets(open_splits(tmp_path))
    assert [(i.problem, i.sample.path.name) for i in result.issues] == [("damaged", "cut.gif")]
    assert "truncated" in result.issues[0].detail


def test_a_segment_of_a_variable_rate_video_is_checked_by_its_time(tmp_path: Path) -> None:
    # 51 frames at 25 per second, then 9 at 5 per second: 60 frames in 4.04 s.
    times = [*range(51), *range(55, 99, 5)]
    write_clip(tmp_path / "v.mp4", time_of=times.__getitem__)
    (tmp_path / "m.csv").write_text("path,label,start,end\nv.mp4,a,2.5,4.0\nv.mp4,a,7.0,8.0\n")
    issues = check_datasets(open_splits(tmp_path / "m.csv")).issues
    assert [(issue.problem, issue.sample.start) for issue in issues] == [("segment", 7.0)]
