"""Frames that a damaged file has lost are reported, and replaced only on request."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import av
import pytest

from tests.video.barcode import OPEN_GOP, X264, read_numbers, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import FramesRepeatedWarning, probe, read_frames

INDEX_FIRST = {"movflags": "faststart"}


def cut(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


@pytest.fixture
def cut_mp4(tmp_path: Path) -> Path:
    """60 frames according to the index in front, of which about half are present."""
    path = write_clip(tmp_path / "cut.mp4", options=OPEN_GOP, container_options=INDEX_FIRST)
    return cut(path, 0.7)


@pytest.fixture
def broken_mp4(tmp_path: Path) -> Path:
    """60 frames in GOPs of 12 without B-frames; frame 26 is overwritten, 36 is the next key."""
    path = write_clip(
        tmp_path / "broken.mp4", options={"x264-params": "keyint=12:bframes=0:scenecut=0:log=-1"}
    )
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][26]
        start, size = packet.pos, packet.size
        assert start is not None
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def test_a_truncated_file_keeps_its_frame_count_and_its_frames(cut_mp4: Path) -> None:
    info = probe(cut_mp4)
    assert info.frames == 60
    assert read_numbers(read_frames(cut_mp4, range(25))) == list(range(25))


@pytest.mark.parametrize("asked", [[59], [0, 30, 59], list(range(60))])
def test_frames_beyond_the_truncation_are_missing(cut_mp4: Path, asked: list[int]) -> None:
    with pytest.raises(VideoDecodeError, match="copy or download it again") as caught:
        read_frames(cut_mp4, asked)
    assert caught.value.reason == "missing_frames"


def test_no_number_of_a_truncated_file_returns_a_wrong_frame(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", options=OPEN_GOP, container_options=INDEX_FIRST)
    data = whole.read_bytes()
    for size in range(len(data) // 2, len(data), len(data) // 40):
        whole.write_bytes(data[:size])
        for number in (10, 20, 30, 40, 50, 59):
            with contextlib.suppress(VideoDecodeError):
                assert read_numbers(read_frames(whole, [number])) == [number]


def test_a_file_without_its_index_is_corrupt(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "a.mp4", options=X264), 0.7)
    with pytest.raises(VideoDecodeError, match="index is missing or damaged") as caught:
        probe(path)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
def test_containers_without_a_leading_index_have_the_frames_that_are_present(
    suffix: str, tmp_path: Path
) -> None:
    path = cut(write_clip(tmp_path / f"a{suffix}", "mpeg4"), 0.7)
    frames = probe(path).frames
    assert 20 < frames < 50
    assert read_numbers(read_frames(path, range(20))) == list(range(20))


def test_frames_that_depend_on_a_damaged_one_are_not_returned(broken_mp4: Path) -> None:
    good = [*range(26), *range(36, 60)]
    assert read_numbers(read_frames(broken_mp4, good)) == good
    for number in (26, 27, 35):
        with pytest.raises(VideoDecodeError, match="is damaged") as caught:
            read_frames(broken_mp4, [0, number])
        assert caught.value.reason == "corrupt"
        assert caught.value.backend_messages


def test_nearest_repeats_the_last_intact_frame_with_a_warning(broken_mp4: Path) -> None:
    asked = [0, 5, 10, 15, 20, 25, 27, 40, 45, 50]
    with pytest.warns(FramesRepeatedWarning, match="1 of 10 frames"):
        frames = read_frames(broken_mp4, asked, missing="nearest")
    assert read_numbers(frames) == [0, 5, 10, 15, 20, 25, 25, 40, 45, 50]


def test_nearest_repeats_the_end_of_a_truncated_file(cut_mp4: Path) -> None:
    known = 25
    with pytest.warns(FramesRepeatedWarning):
        frames = read_frames(cut_mp4, [*range(known), 59], missing="nearest")
    last = read_numbers(frames)[-1]
    assert read_numbers(frames)[:-1] == list(range(known))
    assert known - 1 <= last < 59


def test_nearest_replaces_at_most_a_tenth(broken_mp4: Path) -> None:
    with pytest.raises(VideoDecodeError, match="more than a tenth") as caught:
        read_frames(broken_mp4, [0, 27, 28], missing="nearest")
    assert caught.value.reason == "missing_frames"


def test_nearest_on_an_intact_file_repeats_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_numbers(read_frames(path, [3, 59], missing="nearest")) == [3, 59]


def test_damage_prints_nothing(
    broken_mp4: Path, cut_mp4: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    for path in (broken_mp4, cut_mp4):
        with pytest.raises(VideoDecodeError):
            read_frames(path, range(60))
    assert capfd.readouterr() == ("", "")
