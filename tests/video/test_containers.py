"""Containers that need no other file are read, and the rest is refused with the true reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.video.barcode import X264, X265, draw, read_numbers, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import probe, read_frames
from vtcli.video.extensions import has_video_suffix

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
