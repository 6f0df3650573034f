"""Times are the container's timestamps: segments, durations and clocks that are reset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.barcode import X264, read_numbers, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import probe
from vtcli.video.frame_source import open_frame_source

# A phone's recording in units of 1/25 s: 51 frames at 25 per second, then 9 at 5 per second.
PHONE = [*range(51), *range(55, 99, 5)]


def numbers_in(path: Path, start: float | None, end: float | None) -> list[int]:
    source = open_frame_source(path, seconds=(start, end))
    return read_numbers(source.read(range(source.frames)))


def inside(units: Sequence[int], start: float, end: float) -> list[int]:
    """By definition: the frames whose timestamp is in the segment."""
    return [n for n, unit in enumerate(units) if start <= unit / 25 < end]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.mov"])
@pytest.mark.parametrize("part", [(2.01, 4.0), (0.0, 2.0), (1.9, 2.3), (2.5, 3.5), (3.0, 9.9)])
def test_a_segment_has_the_frames_whose_timestamp_is_in_it(
    name: str, part: tuple[float, float], tmp_path: Path
) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    options = None if codec == "libvpx-vp9" else X264
    path = write_clip(tmp_path / name, codec, options=options, time_of=PHONE.__getitem__)
    start, end = part
    if end > PHONE[-1] / 25 + 1.2:
        with pytest.raises(VideoDecodeError, match="correct the annotation"):
            numbers_in(path, start, end)
    else:
        assert numbers_in(path, start, end) == inside(PHONE, start, end)


def test_nine_frames_are_in_the_slow_half_of_a_phone_recording(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264, time_of=PHONE.__getitem__)
    assert open_frame_source(path, seconds=(2.01, 4.0)).frames == 9


def test_a_segment_between_two_frames_has_the_one_that_is_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264, time_of=PHONE.__getitem__)
    assert numbers_in(path, 2.25, 2.35) == [51]
    assert numbers_in(path, 2.2, 2.2) == [51]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.nut"])
def test_time_zero_is_the_first_frame_of_a_stream_that_starts_late(
    name: str, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / name, options=X264, time_of=lambda n: 1_000_000 + n)
    assert probe(path).duration == pytest.approx(60 / 25, abs=2e-3)
    assert numbers_in(path, 1.0, 1.2) == [25, 26, 27, 28, 29]


def test_the_duration_is_that_of_the_frames_not_of_the_audio(tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", options=X264)
    path = tmp_path / "sound.mp4"
    with av.open(str(silent)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=16000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        samples = np.zeros((1, 16000 * 20), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        target.mux([*audio.encode(frame), *audio.encode(None)])
    assert probe(path).duration == pytest.approx(60 / 25, abs=1e-6)


@pytest.mark.parametrize("offset", [0, 30, 1_000_000])
def test_joined_transport_streams_last_as_long_as_their_parts(offset: int, tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", options=X264, numbers=range(50))
    two = write_clip(
        tmp_path / "two.ts", options=X264, numbers=range(50, 100), time_of=lambda n: n + offset
    )
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    assert probe(path).duration == pytest.approx(4.0, abs=1e-3)
    assert numbers_in(path, 2.4, 2.6) == [60, 61, 62, 63, 64]


def test_frames_that_an_avi_file_dropped_take_their_time(tmp_path: Path) -> None:
    units = [n if n < 20 else n + 25 for n in range(40)]
    path = write_clip(
        tmp_path / "a.avi", "mjpeg", range(40), pix_fmt="yuvj420p", time_of=units.__getitem__
    )
    assert probe(path).frames == 40
    assert probe(path).duration == pytest.approx(65 / 25, abs=1e-6)
    assert numbers_in(path, 1.8, 2.0) == [20, 21, 22, 23, 24]


def test_the_delays_of_a_gif_are_its_times(tmp_path: Path) -> None:
    units = [0, 5, 10, 40, 45]
    path = write_clip(
        tmp_path / "a.gif", "gif", range(5), pix_fmt="rgb8", time_of=units.__getitem__
    )
    assert open_frame_source(path, seconds=(1.0, 1.9)).frames == 2
    assert open_frame_source(path, seconds=(0.0, 1.0)).frames == 3
