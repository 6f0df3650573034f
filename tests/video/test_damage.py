"""Damage that leaves frames readable is a warning; an intact file has none."""

from __future__ import annotations

import random
from pathlib import Path

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
}
# What a cut takes away nothing in these gives away, save for the last frame in most of them.
UNSTATED = {"a.h264": ("libx264", {"options": X264}), "a.hevc": ("libx265", {"options": X265})}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_clip(folder / name, codec, **settings)
        for name, (codec, settings) in {**KINDS, **UNSTATED}.items()
    }


def read(path: Path) -> FrameSource:
    """Eight frames, as a prediction reads them."""
    source = open_frame_source(path)
    source.read(sorted({int((i + 0.5) * source.frames / 8) for i in range(8)}))
    return source


@pytest.mark.parametrize("name", [*KINDS, *UNSTATED])
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
