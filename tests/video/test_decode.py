"""Every frame number returns exactly that frame, whatever the container, the codec and the order.

The clips show their own frame numbers (`barcode.py`), so that no decoder is trusted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.barcode import (
    OPEN_GOP,
    X264,
    X265,
    draw,
    read_numbers,
    remux,
    set_edit,
    write_clip,
    write_placeholders,
    write_two_sizes,
)
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import Limits, VideoInfo, probe, read_frames

Make = Callable[[Path], Path]
REALTIME = {"deadline": "realtime", "cpu-used": "8"}


def _clip(name: str, *args: Any, **kwargs: Any) -> Make:
    return lambda folder: write_clip(folder / name, *args, **kwargs)


def _edited(first: int, count: int, options: dict[str, str]) -> Make:
    return lambda folder: set_edit(write_clip(folder / "edited.mp4", options=options), first, count)


def _cut_in_mid_gop(folder: Path) -> Path:
    """A transport stream from packet 40 on: it starts without a key frame, in an open GOP."""
    whole = write_clip(folder / "whole.ts", options=OPEN_GOP).read_bytes()
    cut = folder / "cut.ts"
    cut.write_bytes(whole[40 * 188 :])
    return cut


def _clock_starts_again(folder: Path) -> Path:
    once = write_clip(folder / "once.ts", options=X264).read_bytes()
    twice = folder / "twice.ts"
    twice.write_bytes(once + once)
    return twice


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=12:log=-1"}
INTERLACED = {"x264-params": "tff=1:keyint=12:log=-1"}
AV1 = {"preset": "8", "crf": "20"}
ALL = range(60)

# kind -> how to write it, and the numbers its frames show
KINDS: dict[str, tuple[Make, Sequence[int]]] = {
    "h264": (_clip("a.mp4", options=X264), ALL),
    "open_gop": (_clip("a.mp4", options=OPEN_GOP), ALL),
    "open_gop_mkv": (_clip("a.mkv", options=OPEN_GOP), ALL),
    "hevc": (_clip("a.mp4", "libx265", options=X265), ALL),
    "hevc_10_bit": (_clip("a.mp4", "libx265", options=X265, pix_fmt="yuv420p10le"), ALL),
    "mpeg4_b_frames_mov": (_clip("a.mov", "mpeg4"), ALL),
    "mpeg4_b_frames_avi": (_clip("a.avi", "mpeg4"), ALL),
    "h264_avi": (_clip("a.avi", options=X264), ALL),
    "h264_ts": (_clip("a.ts", options=OPEN_GOP), ALL),
    "h264_flv": (_clip("a.flv", options=X264), ALL),
    "mpeg2_ps": (_clip("a.mpg", "mpeg2video"), ALL),
    "vp9": (_clip("a.webm", "libvpx-vp9", options=REALTIME), ALL),
    "av1": (_clip("a.mp4", "libsvtav1", options=AV1), ALL),
    "gif": (_clip("a.gif", "gif", pix_fmt="rgb8"), ALL),
    "fragmented": (_clip("a.mp4", options=OPEN_GOP, container_options=FRAGMENTED), ALL),
    "variable_rate": (_clip("a.mp4", options=X264, time_of=lambda n: n + n * n // 4), ALL),
    "intra_refresh": (_clip("a.mp4", options=INTRA_REFRESH), ALL),
    "interlaced_ts": (_clip("a.ts", options=INTERLACED), ALL),
    "odd_size_444": (_clip("a.mp4", size=(191, 127), pix_fmt="yuv444p", options=X264), ALL),
    "odd_size_420": (_clip("a.webm", "libvpx-vp9", size=(191, 127), options=REALTIME), ALL),
    "rotated_90": (_clip("a.mp4", turns=1, options=X264), ALL),
    "rotated_180": (_clip("a.mp4", turns=2, options=X264), ALL),
    "rotated_270": (_clip("a.mov", turns=3, options=X264), ALL),
    "one_frame": (_clip("a.mp4", numbers=[7], options=X264), [7]),
    "edit_list_start": (_edited(7, 53, X264), range(7, 60)),
    "edit_list_open_gop": (_edited(13, 30, OPEN_GOP), range(13, 43)),
    "two_sizes_ts": (lambda folder: write_two_sizes(folder / "a.ts"), ALL),
    "two_sizes_mkv": (
        lambda folder: remux(write_two_sizes(folder / "a.ts"), folder / "a.mkv"),
        ALL,
    ),
    "placeholders_avi": (lambda folder: write_placeholders(folder / "a.avi"), ALL),
    "placeholders_mp4": (lambda folder: write_placeholders(folder / "a.mp4"), ALL),
    "cut_in_mid_gop": (_cut_in_mid_gop, range(24, 60)),
    "clock_starts_again": (_clock_starts_again, [*ALL, *ALL]),
}

PATTERNS: dict[str, Callable[[int], list[int]]] = {
    "sequential": lambda n: list(range(n)),
    "random": lambda n: [random.Random(0).randrange(n) for _ in range(16)],
    "uniform": lambda n: np.linspace(0, n - 1, 8).astype(int).tolist(),
    "descending": lambda n: list(range(n - 1, -1, -1)),
    "last": lambda n: [n - 1],
    "duplicates": lambda n: [n // 2, 0, n // 2, n // 2],
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VideoInfo]:
    """The probed clip of a kind, written once per session."""
    made: dict[str, VideoInfo] = {}

    def get(kind: str) -> VideoInfo:
        if kind not in made:
            made[kind] = probe(KINDS[kind][0](tmp_path_factory.mktemp(kind)))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_returns_the_requested_frames(
    kind: str, clip: Callable[[str], VideoInfo]
) -> None:
    info = clip(kind)
    numbers = KINDS[kind][1]
    assert info.frames == len(numbers)
    for name, pattern in PATTERNS.items():
        asked = pattern(info.frames)
        for threads in (1, 2):
            frames = read_frames(info.path, asked, info=info, threads=threads)
            assert frames.dtype == np.uint8
            assert frames.shape == (len(asked), info.height, info.width, 3)
            assert read_numbers(frames) == [numbers[n] for n in asked], (name, threads)


def test_probe_describes_the_upright_video(clip: Callable[[str], VideoInfo]) -> None:
    info = clip("rotated_90")
    assert (info.width, info.height, info.rotation) == (192, 128, 90)
    assert (info.codec, info.container, info.fps, info.exact) == ("h264", "mp4", 25.0, True)
    assert info.duration == pytest.approx(60 / 25)
    assert clip("av1").codec == "av1"
    assert clip("vp9").container == "webm"
    assert (clip("odd_size_420").width, clip("odd_size_420").height) == (191, 127)
    assert not clip("mpeg4_b_frames_avi").exact


@pytest.mark.parametrize("kind", ["h264", "rotated_90", "rotated_270", "odd_size_444"])
def test_colors_and_orientation_are_preserved(kind: str, clip: Callable[[str], VideoInfo]) -> None:
    info = clip(kind)
    frame_HWC = read_frames(info.path, [37], info=info)[0].astype(int)
    expected_HWC = draw(37, info.width, info.height).astype(int)
    assert np.abs(frame_HWC - expected_HWC).mean() < 8


def test_colors_are_rgb(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "red.mp4", numbers=[0], options=X264, tint=(1, 0, 0))
    red, green, blue = read_frames(path, [0])[0].reshape(-1, 3).mean(axis=0)
    assert red > 60
    assert max(green, blue) < 12


def test_numpy_integers_are_frame_numbers(clip: Callable[[str], VideoInfo]) -> None:
    info = clip("h264")
    assert read_numbers(read_frames(info.path, np.array([3, 1]), info=info)) == [3, 1]


def test_no_requested_frames_are_an_empty_array(clip: Callable[[str], VideoInfo]) -> None:
    assert read_frames(clip("h264").path, []).shape == (0, 128, 192, 3)


@pytest.mark.parametrize("number", [-1, 60])
def test_a_number_outside_the_video_is_an_index_error(
    number: int, clip: Callable[[str], VideoInfo]
) -> None:
    with pytest.raises(IndexError, match=f"no frame {number}; its frames are 0 to 59"):
        read_frames(clip("h264").path, [0, number])


def test_an_info_avoids_a_second_probe(
    clip: Callable[[str], VideoInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = clip("h264")
    monkeypatch.setattr("vtcli.video.decode.probe", lambda *_, **__: pytest.fail("probed again"))
    assert read_numbers(read_frames(info.path, [5], info=info)) == [5]


def test_a_relative_name_that_looks_like_a_protocol_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "plain.mp4", numbers=[9]).rename(tmp_path / "concat:plain.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_numbers(read_frames("concat:plain.mp4", [0])) == [9]


def test_decoding_prints_nothing(
    clip: Callable[[str], VideoInfo], capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("h264", "cut_in_mid_gop", "mpeg4_b_frames_avi", "edit_list_open_gop"):
        path = clip(kind).path
        capfd.readouterr()
        read_frames(path, [0, 20])
        assert capfd.readouterr() == ("", "")


def test_frames_are_returned_only_within_the_memory_limit(
    clip: Callable[[str], VideoInfo],
) -> None:
    one_frame = 192 * 128 * 3
    path = clip("h264").path
    read_frames(path, [0, 1], limits=Limits(max_bytes=2 * one_frame))
    with pytest.raises(VideoDecodeError, match="use fewer views") as caught:
        read_frames(path, [0, 1, 2], limits=Limits(max_bytes=2 * one_frame))
    assert caught.value.reason == "limit"
