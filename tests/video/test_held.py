"""A file that is indexed and read in one go is opened once, with the frames and warnings of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import pytest

from tests.video.barcode import OPEN_GOP, X264, read_numbers, write_clip
from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Sample
from vtcli.errors import VideoDecodeError
from vtcli.video import held
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import open_frame_source
from vtcli.video.held import opened_once

FAR = [55, 3, 4, 30, 59, 3]  # a seek, frames out of order, and one twice
NAMES = (
    "clip.mp4",
    "hevc.mp4",
    "open.mkv",
    "all.mp4",
    "old.mp4",
    "clip.ts",
    "raw.h264",
    "clip.avi",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "clip.mp4", options=X264)
    write_clip(folder / "hevc.mp4", "libx265", options={"x265-params": "keyint=25:log-level=0"})
    write_clip(folder / "open.mkv", options=OPEN_GOP)
    write_clip(folder / "all.mp4", options={"x264-params": "keyint=1:log=-1"})
    write_clip(folder / "old.mp4", "mpeg4")
    write_clip(folder / "clip.ts", "mpeg2video")
    write_clip(folder / "raw.h264", options=X264)
    write_clip(folder / "clip.avi", "mpeg4")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The files that libav opens; all are closed at the end."""
    containers: list[Any] = []
    av_open = av.open

    def counted(*arguments: Any, **options: Any) -> Any:
        containers.append(av_open(*arguments, **options))
        return containers[-1]

    monkeypatch.setattr(av, "open", counted)
    yield containers
    for container in containers:
        with pytest.raises((AssertionError, ValueError)):
            container.seek(0)


def outcome(
    path: Path, indices: Sequence[int], once: bool
) -> tuple[list[int] | str, tuple[str, ...]]:
    """The numbers that the frames show, or an error; and the warnings."""
    with opened_once() if once else nullcontext():
        try:
            source = open_frame_source(path)
            return read_numbers(source.read(indices)), source.warnings
        except VideoDecodeError as error:
            return str(error), ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("indices", [FAR, range(60), [0]], ids=["far", "all", "first"])
def test_the_frames_are_those_of_two_openings(
    clips: Path, name: str, indices: Sequence[int], opened: list[Any]
) -> None:
    assert outcome(clips / name, indices, once=False) == (list(indices), ())
    before = len(opened)
    assert outcome(clips / name, indices, once=True) == (list(indices), ())
    is_held = name in ("clip.mp4", "hevc.mp4", "open.mkv", "all.mp4", "old.mp4")
    assert len(opened) - before == (1 if is_held else before)


@pytest.mark.parametrize("name", ["clip.mp4", "hevc.mp4", "open.mkv", "old.mp4"])
def test_what_is_decoded_to_describe_a_video_is_not_decoded_again(clips: Path, name: str) -> None:
    for first, wanted in ((0, True), (20, False)):
        with opened_once():
            open_frame_source(clips / name)
            held_video = held.take(clips / name)
        assert held_video is not None
        packets = len(held_video.packets)
        frames, following = held_video.from_packet(first)
        left = len(list(following))
        assert bool(frames) is wanted
        assert left == packets - first if first else left < packets
        again, following = held_video.from_packet(0)  # only once: then it has seen other packets
        assert not again
        assert len(list(following)) == packets
        held_video.container.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["middle", "end", "header"])
def test_a_damaged_file_has_the_same_warnings_or_error(
    clips: Path, name: str, kind: str, tmp_path: Path
) -> None:
    data = bytearray((clips / name).read_bytes())
    middle = len(data) // 2
    if kind == "middle":
        data[middle : middle + 60] = bytes(60)
    elif kind == "end":
        del data[-len(data) // 5 :]
    else:
        data[40:60] = bytes(20)
    path = tmp_path / name
    path.write_bytes(data)
    for indices in ([40, 3, 4, 30, 3], range(44), [0]):
        assert outcome(path, indices, once=True) == outcome(path, indices, once=False)


def test_packets_that_are_too_large_to_hold_are_read_again(
    clips: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MOST_BYTES", 1000)
    assert outcome(clips / "clip.mp4", FAR, once=True) == (FAR, ())
    assert len(opened) == 2


def test_the_views_of_a_video_take_one_call_of_a_process(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.video.test_parts import PIPELINE

    reader = ClipReader(PIPELINE, 4, 3)
    with DecodePool(1) as pool:
        calls: list[str] = []
        call = pool.call

        def counted(path: str, function: Any, *arguments: Any) -> Any:
            calls.append(function.__name__)
            return call(path, function, *arguments)

        monkeypatch.setattr(pool, "call", counted)
        loaded = reader.read(Sample("v", clips / "clip.mp4"), open_source=pool.open)
        assert len(list(loaded.clips)) == 12
        assert calls == ["open_and_read"]
        assert read_numbers(loaded.source.read([7])) == [7]  # other frames take another call
        assert calls == ["open_and_read", "read"]
