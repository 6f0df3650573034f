"""Files that are not videos are refused before decoding, with a reason and a fix."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream

from tests.video.barcode import X264, write_clip
from vtcli.errors import EXIT_NO_INPUT, VideoDecodeError
from vtcli.video.decode import Limits, probe, read_frames


def refusal(path: str | Path, **limits: int) -> VideoDecodeError:
    """The error that both `probe` and `read_frames` raise."""
    with pytest.raises(VideoDecodeError) as probing:
        probe(path, limits=Limits(**limits))
    with pytest.raises(VideoDecodeError) as reading:
        read_frames(path, [0], limits=Limits(**limits))
    assert reading.value.reason == probing.value.reason
    assert str(path) in str(probing.value)
    assert "\n" not in str(probing.value)
    assert probing.value.exit_code == EXIT_NO_INPUT
    return probing.value


def write_sound(path: Path, cover: bool = False) -> Path:
    """Half a second of silence, with or without a cover image."""
    codec = "pcm_s16le" if path.suffix == ".wav" else "aac"
    silence = av.AudioFrame.from_ndarray(
        np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono"
    )
    silence.sample_rate = 16000
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=16000)
        assert isinstance(sound, AudioStream)
        if cover:
            cover = container.add_stream("mjpeg", rate=1)
            assert isinstance(cover, VideoStream)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            image = av.VideoFrame(64, 48, "yuvj420p")
            container.mux([*cover.encode(image), *cover.encode(None)])
        container.mux([*sound.encode(silence), *sound.encode(None)])
    return path


def test_a_missing_file(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nothing.mp4")
    assert error.reason == "not_found"
    assert "No such file" in str(error)


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs a user without root permissions"
)
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "locked.mp4", numbers=[0])
    path.chmod(0)
    assert refusal(path).reason == "not_found"


def test_a_folder(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.reason == "not_video"
    assert "is a folder; use the video files in it" in str(error)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    error = refusal(path)
    assert error.reason == "not_video"
    assert "is empty" in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refusal(tmp_path / "pipe.mp4").reason == "not_video"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just a letter to a friend\n" * 40, "not a video in a supported container"),
        (b"\x00", "not a video in a supported container"),
        (bytes(range(256)) * 64, "not a video in a supported container"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is an image"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "is an image"),
    ],
    ids=["text", "one byte", "bytes", "png", "jpeg"],
)
def test_other_files_named_mp4(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    error = refusal(path)
    assert error.reason == "not_video"
    assert message in str(error)
    assert error.backend_messages


def test_a_real_image(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.png", "png", [0], pix_fmt="rgb24")
    assert refusal(path).reason == "not_video"
    assert refusal(path.rename(tmp_path / "a.mp4")).reason == "not_video"


def _hls(clip: Path) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{clip}\n#EXT-X-ENDLIST\n"


def _ffconcat(clip: Path) -> str:
    return f"ffconcat version 1.0\nfile {clip.name}\n"


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".txt"])
@pytest.mark.parametrize("listing", [_hls, _ffconcat])
def test_playlists_are_not_followed(
    listing: Callable[[Path], str], suffix: str, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.ts", options=X264)
    path = tmp_path / f"list{suffix}"
    path.write_text(listing(clip))
    error = refusal(path)
    assert error.reason == "not_video"
    assert "is a playlist" in str(error)


def test_a_url_of_a_stream_is_refused_without_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        error = refusal(f"rtmp://127.0.0.1:{server.getsockname()[1]}/a.mp4")
        with pytest.raises(TimeoutError):
            server.accept()
    assert error.reason == "unsupported"
    assert "download it first" in str(error)


@pytest.mark.parametrize("name", ["sound.m4a", "sound.wav", "sound.mkv"])
def test_audio_without_video(name: str, tmp_path: Path) -> None:
    error = refusal(write_sound(tmp_path / name))
    assert error.reason == "no_video_stream"
    assert "has no video stream" in str(error)


def test_audio_with_a_cover_image(tmp_path: Path) -> None:
    error = refusal(write_sound(tmp_path / "song.mp4", cover=True))
    assert error.reason == "no_video_stream"
    assert "only audio" in str(error)


def test_a_huge_frame_is_refused_from_its_header(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.gif", "gif", [0], pix_fmt="rgb8")
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, 6, 16384, 8704)
    path.write_bytes(data)
    error = refusal(path)
    assert error.reason == "limit"
    assert "16384x8704" in str(error)


def test_too_many_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264)
    assert refusal(path, max_frames=59).reason == "limit"
    assert probe(path, limits=Limits(max_frames=60)).frames == 60


def test_an_unknown_codec(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", "mpeg4", options={})
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
    assert refusal(path).reason == "unsupported"


def test_refusals_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(100))
    capfd.readouterr()
    assert refusal(path).reason == "corrupt"
    assert capfd.readouterr() == ("", "")


def test_a_small_file_that_decodes_to_gigapixels_is_refused_at_once(tmp_path: Path) -> None:
    # GIF89a: a screen of 6000 x 5900 pixels, and 400 frames of 2 x 2.
    frame = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0)
    frame += b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 6000, 5900, 0x80, 0, 0) + bytes(6)
    path = tmp_path / "bomb.gif"
    path.write_bytes(head + 400 * frame + b";")
    assert refusal(path).reason == "limit"


def test_a_list_in_place_of_a_video_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    path.write_text("path,label\na.mp4,up\n")
    with pytest.raises(VideoDecodeError, match="give a list of videos with --from-file"):
        probe(path)
