"""A video with captions is the same video except for the boxes."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.video.barcode import X264, read_numbers, write_clip
from vtcli.errors import DataError, VideoDecodeError
from vtcli.runtime.files import atomic_write
from vtcli.video.decode import probe, read_frames
from vtcli.video.overlay import annotate
from vtcli.video.sequential import frame_times


class Caption(NamedTuple):
    start: float
    end: float
    label: str
    score: float = 0.5


# Portrait, so that the box is below the numbers that the frames show.
TALL = (192, 512)


def tall_clip(path: Path, **settings: object) -> Path:
    return write_clip(path, size=TALL, numbers=range(40), options=X264, **settings)  # type: ignore[arg-type]


def gray_clip(path: Path, size: tuple[int, int] = (320, 240), level: int = 128) -> Path:
    """Ten frames of a single gray, at 10 fps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p"
        gray_HWC = np.full((size[1], size[0], 3), level, np.uint8)
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


def annotated(source: Path, *captions: Caption) -> NDArray[np.uint8]:
    """All frames of the annotated video [N, H, W, 3]."""
    output = source.with_name("annotated.mp4")
    annotate(probe(source), captions, output)
    return read_frames(output, range(probe(output).frames))


def test_every_frame_keeps_its_number_time_and_size(tmp_path: Path) -> None:
    squares = [place + place * (place + 1) // 2 for place in range(40)]
    source = probe(tall_clip(tmp_path / "a.mp4", time_of=squares.__getitem__))
    annotate(source, [Caption(0, 1e9, "a label")], tmp_path / "b.mp4")
    result = probe(tmp_path / "b.mp4")
    assert (result.width, result.height, result.codec) == (*TALL, "h264")
    np.testing.assert_allclose(frame_times(result)[:-1], frame_times(source)[:-1], atol=1e-4)
    assert read_numbers(read_frames(tmp_path / "b.mp4", range(40))) == list(range(40))


# The third window of 0.1 s starts slightly after the frame at 0.3 s.
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.6), (3 * 0.1, 6 * 0.1)])
def test_a_caption_is_shown_only_from_its_start_to_its_end(
    start: float, end: float, tmp_path: Path
) -> None:
    frames = annotated(gray_clip(tmp_path / "a.mp4"), Caption(start, end, "a label"))
    spread = np.ptp(frames[:, :, :, 0].reshape(10, -1).astype(int), axis=1)
    assert [bool(s > 50) for s in spread] == [False] * 3 + [True] * 3 + [False] * 4
    upper_NHWC = frames[:, :190]
    assert np.abs(upper_NHWC.astype(int) - 128).max() <= 4


def test_the_length_of_the_bar_is_the_score(tmp_path: Path) -> None:
    def white(score: float) -> int:
        frame_HWC = annotated(gray_clip(tmp_path / "a.mp4"), Caption(0, 1, "mm", score))[5]
        # The last rows with white pixels are those of the bar.
        rows_H = np.flatnonzero((frame_HWC[..., 0] > 200).sum(1) > 4)
        return int((frame_HWC[rows_H[-1], :, 0] > 180).sum())

    assert white(0.3) / white(0.6) == pytest.approx(0.5, abs=0.05)


def test_a_box_darkens_the_frame_and_adds_no_color(tmp_path: Path) -> None:
    frame_HWC = annotated(gray_clip(tmp_path / "a.mp4", level=230), Caption(0, 1, "a label"))[5]
    assert frame_HWC.min() < 110
    assert np.ptp(frame_HWC.astype(int), axis=2).max() <= 3


def test_a_rotated_video_is_written_upright(tmp_path: Path) -> None:
    source = tall_clip(tmp_path / "a.mp4", turns=1)
    frames = annotated(source, Caption(0, 9, "a label"))
    assert frames.shape[1:3] == (512, 192)
    assert read_numbers(frames) == list(range(40))


@pytest.mark.parametrize("size", [(33, 65), (16, 16), (2, 2), (1920, 34)])
def test_any_size_can_be_drawn_on(size: tuple[int, int], tmp_path: Path) -> None:
    source = gray_clip(tmp_path / "a.mkv", size)
    long = "a label that is far too long for a image this small"
    frames = annotated(source, Caption(0, 0.5, long), Caption(0.5, 1, ""))
    assert frames.shape == (10, size[1] + size[1] % 2, size[0] + size[0] % 2, 3)


@pytest.mark.parametrize(
    "label",
    [
        "腕相撲",
        "армрестлинг é",
        "مصارعة",
        "🤼 emoji",
        "two\nlines\tand a tab",
        "",
        "\udcff\x00",
        "<&>",
    ],
)
def test_any_label_can_be_drawn(label: str, tmp_path: Path) -> None:
    assert len(annotated(gray_clip(tmp_path / "a.mp4"), Caption(0, 1, label))) == 10


def with_sound(path: Path, codec: str) -> Path:
    """One second of video and of a tone; the video starts at 0.4 s in a transport stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        layout = "s16" if codec.startswith("pcm") else "fltp"
        sound = container.add_stream(codec, rate=44100, layout="mono")
        for place in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for place in range(43):
            tone = np.sin(np.arange(place * 1024, (place + 1) * 1024) / 20)[None]
            samples = (tone * 9000).astype(np.int16) if layout == "s16" else tone.astype(np.float32)
            piece = av.AudioFrame.from_ndarray(samples, layout, "mono")
            piece.sample_rate, piece.pts = 44100, place * 1024
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def sound_of(path: Path) -> tuple[list[bytes], float]:
    """The packets of a file's audio, and its start relative to the video."""
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert video.start_time is not None
        assert video.time_base is not None
        packets = [packet for packet in container.demux(sound) if packet.size]
        assert packets[0].pts is not None
        begin = packets[0].pts * packets[0].time_base - video.start_time * video.time_base
        return [bytes(packet) for packet in packets], float(begin)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mkv", "libmp3lame"), ("a.ts", "mp2")],
)
def test_audio_is_copied_in_sync(name: str, codec: str, tmp_path: Path) -> None:
    source = with_sound(tmp_path / name, codec)
    annotate(probe(source), [], tmp_path / "b.mp4")
    packets, begin = sound_of(tmp_path / "b.mp4")
    expected, expected_begin = sound_of(source)
    assert packets == expected
    assert begin == pytest.approx(expected_begin, abs=0.002)


def test_audio_that_mp4_does_not_support_is_left_out(tmp_path: Path) -> None:
    annotate(probe(with_sound(tmp_path / "a.mkv", "pcm_s16le")), [], tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_a_damaged_video_leaves_no_partial_file(tmp_path: Path) -> None:
    whole = tall_clip(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(VideoDecodeError), atomic_write(tmp_path / "b.mp4") as part:
        annotate(probe(cut), [], part)
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs to fill")
def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 255, (20, 240, 320, 3), np.uint8)
    source = tmp_path / "noise.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    small = tmp_path / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        full = pytest.raises(DataError, match="the disk is full")
        with full, atomic_write(small / "b.mp4") as part:
            annotate(probe(source), [], part)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=False)
