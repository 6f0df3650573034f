"""Frames by number are the same however a sample is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video.barcode import RATE, draw, read_numbers, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video.frame_source import FOLDER_RATE, open_frame_source


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames that show their number, at 25 fps."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def images(folder: Path, numbers: range, name: str) -> Path:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(draw(number, 192, 128)).save(folder / name.format(number))
    return folder


def test_a_video_is_read_by_number(clip: Path) -> None:
    source = open_frame_source(clip)
    assert (source.frames, source.fps) == (60, RATE)
    assert read_numbers(source.read([3, 59, 3])) == [3, 59, 3]


def test_a_segment_in_seconds_has_the_frames_of_its_time(clip: Path) -> None:
    source = open_frame_source(clip, seconds=(0.4, 1.2))
    assert source.frames == 20
    assert read_numbers(source.read([0, 19])) == [10, 29]
    assert open_frame_source(clip, seconds=(2.0, None)).frames == 10


def test_a_segment_by_frame_numbers_includes_both_ends(clip: Path) -> None:
    source = open_frame_source(clip, frame_range=(7, 9))
    assert read_numbers(source.read(range(source.frames))) == [7, 8, 9]


def test_an_end_rounded_up_beyond_the_video_is_clamped(clip: Path) -> None:
    assert open_frame_source(clip, seconds=(2.0, 3.2)).frames == 10
    assert open_frame_source(clip, seconds=(1.0, 1.0)).frames == 1


@pytest.mark.parametrize("part", [(3.0, 4.0), (-1.0, 2.0), (2.0, 1.0), (1.0, 3.5)])
def test_a_segment_outside_the_video_is_an_error(clip: Path, part: tuple[float, float]) -> None:
    with pytest.raises(VideoDecodeError, match="correct the annotation") as caught:
        open_frame_source(clip, seconds=part)
    assert caught.value.reason == "missing_frames"


@pytest.mark.parametrize("name", ["{:05d}.png", "img_{}.png", "frame {} .png"])
def test_a_folder_of_images_is_read_in_the_order_of_their_numbers(
    tmp_path: Path, name: str
) -> None:
    source = open_frame_source(images(tmp_path / "frames", range(1, 14), name), frame_rate=10.0)
    assert (source.frames, source.fps) == (13, 10.0)
    assert read_numbers(source.read([0, 9, 12])) == [1, 10, 13]
    part = open_frame_source(tmp_path / "frames", seconds=(0.5, 0.8), frame_rate=10.0)
    assert read_numbers(part.read(range(part.frames))) == [6, 7, 8]


def test_images_have_a_default_frame_rate(tmp_path: Path) -> None:
    assert open_frame_source(images(tmp_path / "f", range(2), "{}.png")).fps == FOLDER_RATE


def test_a_folder_that_cannot_be_read_is_an_error_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoDecodeError, match="without images"):
        open_frame_source(tmp_path / "empty")
    folder = images(tmp_path / "frames", range(3), "{}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
    with pytest.raises(VideoDecodeError, match=r"1\.png: is an image that cannot be read"):
        open_frame_source(folder).read([0, 1])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "1.png")
    with pytest.raises(VideoDecodeError, match="different sizes"):
        open_frame_source(folder).read([0, 1])
    with pytest.raises(VideoDecodeError, match="No such file") as caught:
        open_frame_source(tmp_path / "gone")
    assert caught.value.reason == "not_found"


SIZE_NAMES = [
    "img_{}_64x64.png",
    "frame{}_25fps.png",
    "{}-crop0.png",
    "t{}_of_13.png",
    "v1_{}.png",
    "t{}.5s.png",
]


@pytest.mark.parametrize("name", SIZE_NAMES)
def test_the_number_that_varies_gives_the_order(tmp_path: Path, name: str) -> None:
    source = open_frame_source(images(tmp_path / "f", range(1, 14), name))
    assert read_numbers(source.read(range(13))) == list(range(1, 14))
    assert source.warnings == ()


@pytest.mark.parametrize("name", ["t_{0}_{1:03d}.png", "at 10.0{0}.{1:02d}.png", "s{0}f{1}.png"])
def test_minutes_and_seconds_in_names_give_the_order(tmp_path: Path, name: str) -> None:
    pairs = [(high, low) for high in range(3) for low in (0, 5, 40)]
    folder = tmp_path / "f"
    folder.mkdir()
    for number, pair in enumerate(pairs):
        Image.fromarray(draw(number, 192, 128)).save(folder / name.format(*pair))
    source = open_frame_source(folder)
    assert read_numbers(source.read(range(9))) == list(range(9))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1.png", "01.png", "2.png"), "two images with one number, 01.png and 1.png"),
        (("9_1.png", "5_4.png", "2_8.png"), "two numbers that give different orders"),
    ],
)
def test_names_that_leave_the_order_open_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        Image.fromarray(draw(0, 192, 128)).save(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=message):
        open_frame_source(tmp_path)


def test_images_of_a_kind_that_is_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.ppm").write_bytes(b"P6 1 1 255 abc")
    with pytest.raises(VideoDecodeError, match=r"1 \.ppm file.* convert them to PNG"):
        open_frame_source(tmp_path)


def test_rgb_and_flow_in_one_folder_are_refused_naming_both(tmp_path: Path) -> None:
    folder = images(tmp_path / "f", range(8), "img_{:05d}.png")
    for axis in "xy":
        for number in range(8):
            Image.fromarray(np.zeros((128, 192), np.uint8)).save(
                folder / f"flow_{axis}_{number:05d}.png"
            )
    with pytest.raises(VideoDecodeError, match=r"img_00000\.png.*flow_x_00000\.png|flow") as caught:
        open_frame_source(folder)
    assert caught.value.reason == "unsupported"


def test_hidden_files_and_stray_pictures_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = images(tmp_path / "f", range(8), "{:05d}.png")
    (folder / "._00001.png").write_bytes(b"resource fork")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "cover.jpg")
    source = open_frame_source(folder)
    assert read_numbers(source.read(range(source.frames))) == list(range(8))
    assert [w for w in source.warnings if "1 hidden image" in w]
    assert [w for w in source.warnings if "cover.jpg" in w]


def test_images_of_16_bits_are_scaled(tmp_path: Path) -> None:
    folder = images(tmp_path / "f", range(3), "{}.png")
    for number in range(3):
        gray = draw(number, 192, 128)[..., 0].astype(np.uint16) * 257
        Image.fromarray(gray).save(folder / f"{number}.png")
    frames = open_frame_source(folder).read([0, 2])
    np.testing.assert_array_equal(frames[1], draw(2, 192, 128))


def test_the_orientation_of_a_photo_is_honored(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.3, 4.6.4: rotate by 90 degrees clockwise to show it
    stored = draw(5, 192, 128)
    Image.fromarray(stored).save(tmp_path / "f" / "1.png", exif=exif)
    (shown,) = open_frame_source(tmp_path / "f").read([0])
    np.testing.assert_array_equal(shown, np.rot90(stored, -1))


@pytest.mark.parametrize("suffix", ["tif", "tiff", "jfif", "webp", "bmp"])
def test_known_images_are_frames(tmp_path: Path, suffix: str) -> None:
    kind = {"jfif": "jpeg", "tif": "tiff"}.get(suffix, suffix)
    (tmp_path / "f").mkdir()
    for number in range(3):
        path = tmp_path / "f" / f"{number}.{suffix}"
        Image.fromarray(draw(number, 192, 128)).save(path, kind)
    assert read_numbers(open_frame_source(tmp_path / "f").read([0, 1, 2])) == [0, 1, 2]
