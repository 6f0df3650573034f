"""Containers that need no other file are read, and the rest is refused with the true reason."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.video.barcode import X264, X265, draw, read_numbers, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import probe, read_frames
from vtcli.video.extensions import has_video_suffix
from vtcli.video.sequential import stream_frames

KINDS = {
    "a.mxf": ("mpeg2video", {}),
    "a.nut": ("libx264", {"options": X264}),
    "a.h264": ("libx264", {"options": X264}),
    "a.hevc": ("libx265", {"options": X265}),
    "a.vob": ("mpeg2video", {}),
    "a.m2v": ("mpeg2video", {}),
    "a.ivf": ("libvpx-vp9", {}),
    "a.apng": ("apng", {"pix_fmt": "rgb24"}),
    "a.3g2": ("libx264", {"options": X264}),
    "a.f4v": ("libx264", {"options": X264}),
    "a.y4m": ("wrapped_avframe", {}),
    "a.dv": ("dvvideo", {"size": (720, 576), "pix_fmt": "yuv420p"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_container_without_references_is_read(name: str, tmp_path: Path) -> None:
    codec, settings = KINDS[name]
    path = write_clip(tmp_path / name, codec, range(30), **settings)
    info = probe(path)
    assert info.frames == 30
    assert info.duration == pytest.approx(30 / 25, abs=2e-3)
    assert read_numbers(read_frames(path, [0, 13, 29])) == [0, 13, 29]
    assert has_video_suffix(name)


@pytest.mark.parametrize("name", ["a.h264", "a.hevc"])
def test_frames_of_a_raw_stream_follow_at_the_rate_its_codec_states(
    name: str, tmp_path: Path
) -> None:
    codec, params = ("libx264", "x264-params") if name == "a.h264" else ("libx265", "x265-params")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, 12, options={params: "log-level=none"})
        stream.width, stream.height = 192, 128
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number, 192, 128))))
        container.mux(stream.encode(None))
    info = probe(tmp_path / name)
    assert (info.frames, info.fps, info.duration) == (6, 12.0, pytest.approx(0.5))


def test_a_program_stream_is_known_by_its_old_extension() -> None:
    assert has_video_suffix("A.MPE")


@pytest.mark.parametrize("name", ["a.webp", "a.tif", "a.bmp", "a.png", "a.jpg"])
def test_an_image_is_refused_as_one(name: str, tmp_path: Path) -> None:
    Image.fromarray(draw(1, 192, 128)).save(tmp_path / name)
    with pytest.raises(VideoDecodeError, match="is an image") as caught:
        probe(tmp_path / name)
    assert caught.value.reason == "not_video"


def test_an_animated_webp_is_refused_as_such(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(draw(n, 192, 128)) for n in range(4)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=40)
    with pytest.raises(VideoDecodeError, match=r"WebP.*convert it") as caught:
        probe(tmp_path / "a.webp")
    assert caught.value.reason == "unsupported"


MATRICES = {
    # (a, b, c, d) in units of 1: column of the shown frame = a x + c y, row = b x + d y.
    "flip left and right": (-1, 0, 0, 1),
    "flip upside down": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "transpose along the other diagonal": (0, -1, -1, 0),
    "turn by 90 degrees": (0, 1, -1, 0),
    "turn by 180 degrees": (-1, 0, 0, -1),
}


def shown(stored: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """By definition: every stored pixel at the place that the matrix gives it."""
    a, b, c, d = matrix
    y, x = np.indices(stored.shape[:2])
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    result = np.empty((row.max() + 1, column.max() + 1, 3), stored.dtype)
    result[row, column] = stored
    return result


def write_matrix(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """Set the display matrix of an MP4 file: 40 bytes after the name of a box of version 0.

    Source: ISO/IEC 14496-12, 8.3.2.
    """
    data = bytearray(path.read_bytes())
    a, b, c, d = (round(value * 65536) for value in matrix)
    place = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(("degrees", "turned"), [(30, 0), (60, 90), (0.2, None), (90, None)])
def test_a_turn_by_another_angle_is_said(
    degrees: float, turned: int | None, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    write_matrix(path, (cos, -sin, sin, cos))
    info = probe(path)
    assert bool(info.warnings) == (turned is not None)
    if turned is not None:
        assert f"turned by {degrees} degrees, but are turned by {turned}" in info.warnings[0]
        assert info.rotation == turned


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_is_honored_also_where_it_mirrors(name: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264)
    stored = read_frames(path, [3, 40])
    write_matrix(path, MATRICES[name])
    info = probe(path)
    expected = [shown(frame, MATRICES[name]) for frame in stored]
    assert (info.height, info.width) == expected[0].shape[:2]
    np.testing.assert_array_equal(read_frames(path, [3, 40]), expected)
    (_, streamed) = next(iter(stream_frames(info, [3])))
    np.testing.assert_array_equal(streamed, expected[0])
