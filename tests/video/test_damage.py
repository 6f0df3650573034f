"""Damage that leaves frames readable is a warning; an intact file has none."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.barcode import OPEN_GOP, X264, X265, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.damage import Damage, refuse_damage
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import FrameSource, open_frame_source

KINDS = {
    "h264.mp4": ("libx264", {"options": X264}),
    "open.mp4": ("libx264", {"options": OPEN_GOP}),
    "fast.mp4": ("libx264", {"options": X264, "container_options": {"movflags": "faststart"}}),
    "frag.mp4": (
        "libx264",
        {"options": X264, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "h264.mkv": ("libx264", {"options": OPEN_GOP}),
    "live.mkv": ("libx264", {"options": X264, "container_options": {"live": "1"}}),
    "vp9.webm": ("libvpx-vp9", {}),
    "av1.mkv": ("libsvtav1", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "mjpeg.avi": ("mjpeg", {"pix_fmt": "yuvj420p"}),
    "a.gif": ("gif", {"pix_fmt": "rgb8"}),
    "a.apng": ("apng", {"pix_fmt": "rgb24"}),
    "h264.ts": ("libx264", {"options": OPEN_GOP}),
    "hevc.ts": ("libx265", {"options": X265}),
    "mpeg2.mpg": ("mpeg2video", {}),
    "h264.flv": ("libx264", {"options": X264}),
    "a.wmv": ("wmv2", {}),
    "a.ivf": ("libvpx", {}),
    "a.mxf": ("mpeg2video", {}),
    "a.nut": ("libx264", {"options": X264}),
    "420.y4m": ("wrapped_avframe", {}),
    "deep.y4m": (
        "wrapped_avframe",
        {"pix_fmt": "yuv422p10le", "container_options": {"strict": "-1"}},
    ),
    "odd.y4m": (
        "wrapped_avframe",
        {"pix_fmt": "yuv411p", "size": (187, 113), "container_options": {"strict": "-1"}},
    ),
    "mono.y4m": ("wrapped_avframe", {"pix_fmt": "gray", "container_options": {"strict": "-1"}}),
}
# Nothing in these states a length, but most cuts leave a last frame that ends too early.
RAW = {
    "a.h264": ("libx264", {"options": X264}),
    "open.h264": ("libx264", {"options": OPEN_GOP}),
    "a.hevc": ("libx265", {"options": X265}),
    "a.m2v": ("mpeg2video", {}),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_clip(folder / name, codec, **settings)
        for name, (codec, settings) in {**KINDS, **RAW}.items()
    }


def read(path: Path) -> FrameSource:
    """Eight frames, as a prediction reads them."""
    source = open_frame_source(path)
    source.read(sorted({int((i + 0.5) * source.frames / 8) for i in range(8)}))
    return source


@pytest.mark.parametrize("name", [*KINDS, *RAW])
def test_an_intact_file_has_no_warning(name: str, clips: dict[str, Path]) -> None:
    source = read(clips[name])
    for part in ([29, 30, 31], range(source.frames)):
        source.read(list(part))
    assert source.warnings == ()


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_is_refused_or_has_a_warning(
    name: str, clips: dict[str, Path], tmp_path: Path
) -> None:
    data = clips[name].read_bytes()
    for seed in range(4):
        cut = random.Random(seed).randrange(len(data) // 4, len(data) - 200)
        path = tmp_path / name
        path.write_bytes(data[:cut])
        try:
            assert read(path).warnings, f"{cut} of {len(data)} bytes"
        except VideoDecodeError:
            continue


@pytest.mark.parametrize("name", RAW)
def test_most_cuts_of_a_raw_stream_are_noticed(
    name: str, clips: dict[str, Path], tmp_path: Path
) -> None:
    data = clips[name].read_bytes()
    noticed = 0
    for seed in range(8):
        cut = random.Random(seed).randrange(len(data) // 4, len(data) - 200)
        path = tmp_path / name
        path.write_bytes(data[:cut])
        noticed += bool(open_frame_source(path).warnings)
    assert noticed >= 6


def test_a_gif_whose_blocks_do_not_follow_each_other_has_a_warning(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    data = clips["a.gif"].read_bytes()
    path = tmp_path / "a.gif"
    for damaged, says in (
        (data[:-1] + b"\7" * 9 + b";", f"no block at byte {len(data) - 1},"),
        (data + data, f"{len(data)} bytes follow the stated end"),
    ):
        path.write_bytes(damaged)
        assert says in open_frame_source(path).warnings[0]
    path.write_bytes(data + b"made by a tool")
    assert open_frame_source(path).warnings == ()


def test_an_mp4_that_states_more_frames_than_it_gives_has_a_warning(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    data = bytearray(clips["h264.mp4"].read_bytes())
    # ISO/IEC 14496-12, 8.7.3.2: version and flags, a common size, the number of samples. Their
    # times, in another box, stay those of 60.
    place = data.index(b"stsz") + 4 + 8
    assert struct.unpack_from(">I", data, place) == (60,)
    struct.pack_into(">I", data, place, 40)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    warnings = open_frame_source(path).warnings
    assert "the container states 2.40 s of frames and has 1.60 s" in warnings


def test_streams_that_were_joined_are_intact(clips: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(clips["h264.ts"].read_bytes() * 2)
    source = open_frame_source(path)
    assert (source.frames, source.warnings) == (120, ())


def test_packets_that_the_demuxer_flags_are_counted(clips: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(clips["h264.ts"].read_bytes())
    packets = len(data) // 188
    # ISO/IEC 13818-1, 2.4.3.2: the first bit after the sync byte is transport_error_indicator.
    data[188 * (packets // 2) + 1] |= 0x80
    path = tmp_path / "a.ts"
    path.write_bytes(data)
    assert any("packet" in warning for warning in open_frame_source(path).warnings)


def test_a_worker_process_gives_the_same_warnings(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["mpeg2.mpg"].read_bytes()
    path = tmp_path / "a.mpg"
    path.write_bytes(data[: len(data) * 2 // 3])
    here = open_frame_source(path)
    with DecodePool(1) as pool:
        there = pool.open(path)
        for source in (here, there):
            source.read(range(8))
    assert here.warnings
    assert there.warnings == here.warnings


def test_strict_refuses_with_the_reason_and_the_way_out() -> None:
    refuse_damage("a.mp4", ())
    with pytest.raises(
        VideoDecodeError, match=r"a\.mp4: is damaged \(1 packet .*--strict"
    ) as caught:
        refuse_damage("a.mp4", Damage(flagged_packets=1).sentences())
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("frames", [37, 38, 39, 40])
def test_a_clock_that_jumps_where_streams_were_joined_is_no_damage(
    tmp_path: Path, frames: int
) -> None:
    for name, size, first in (("a", (64, 48), 0), ("b", (96, 64), 2500)):
        write_stream(tmp_path / f"{name}.ts", frames, size, first)
    first, second = ((tmp_path / f"{name}.ts").read_bytes() for name in "ab")
    for number, data in enumerate((first + second, second + first)):
        path = tmp_path / f"joined{number}.ts"
        path.write_bytes(data)
        source = open_frame_source(path)
        assert (source.frames, source.warnings) == (2 * frames, ())


def test_transport_packets_that_libav_skips_are_said(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    """libav takes a place where packets do not begin as such for one that was sought."""
    data = bytearray(clips["h264.ts"].read_bytes())
    middle = len(data) // 188 // 2 * 188
    data[middle : middle + 512] = random.Random(0).randbytes(512)
    path = tmp_path / "a.ts"
    path.write_bytes(data)
    warnings = open_frame_source(path).warnings
    assert f"3 of {len(data) // 188} transport packets do not begin as such" in warnings
    path.write_bytes(clips["h264.ts"].read_bytes())
    assert open_frame_source(path).warnings == ()


def test_a_gap_between_two_key_frames_is_damage(tmp_path: Path) -> None:
    """What follows begins with the tables and a key frame, but its counts go on."""
    path = tmp_path / "a.ts"
    write_stream(path, 96, (64, 48), 0)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        keys = [packet.pos for packet in packets if packet.is_keyframe and packet.pos]
    found = 0
    for first, second in pairwise(keys[1:]):
        path.write_bytes(data[: first - 376] + data[second - 376 :])
        found += bool(open_frame_source(path).warnings)
    assert found >= len(keys) - 3  # one in 16 counts on by chance


def write_stream(path: Path, frames: int, size: tuple[int, int], first: int) -> None:
    """A transport stream at 25 frames a second, whose clock begins with frame `first`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 12
        noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray((noise + number).astype(np.uint8))
            frame.pts = first + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
