"""Clips of events: the right part of a live stream, whatever its codec, and bounded memory."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video import barcode
from vtcli.errors import DataError
from vtcli.inference import event_clips
from vtcli.inference.event_clips import EventClips
from vtcli.inference.windows import Segment
from vtcli.runtime.worker_pool import WorkerPool
from vtcli.video.live_source import Connection, Opening
from vtcli.video.recorder import Recorder, Recording, write_clip

BEGAN = 1_700_000_000.25
EVENT = Segment(1.0, 1.6, 3, "Turning left/right", 0.9, 2)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as pool:
        yield pool


def record(path: Path) -> list[Recording]:
    """The pieces of a stream, each with the description, as a reader keeps them."""
    with closing(Connection(str(path), Opening(growth=0.0))) as connection:
        recorder = Recorder(connection.stream)
        connection.on_packet = recorder.add
        assert list(connection)
        pieces = recorder.finish()
    return [piece.moved(0.0, 1, pieces[0].description) for piece in pieces]


def numbers(path: Path) -> tuple[str, list[int]]:
    """The codec of a clip, and the numbers that its frames show."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return container.streams.video[0].codec_context.codec.canonical_name, barcode.read_numbers(
            np.stack(frames)
        )


@pytest.mark.parametrize(
    ("name", "codec", "options", "written"),
    [
        ("a.ts", "libx264", barcode.X264, "h264"),
        ("a.mkv", "libx264", barcode.X264, "h264"),
        ("a.ts", "libx265", barcode.X265, "hevc"),
        ("a.mkv", "mjpeg", {"q": "2"}, "h264"),
    ],
)
def test_a_clip_has_the_frames_from_the_key_frame_before_it(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], written: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source = barcode.write_clip(tmp_path / name, codec, pix_fmt=pix_fmt, options=options)
    write_clip(record(source), 1.0, 1.8, tmp_path / "clip.mp4")  # frames 25 to 45
    found, shown = numbers(tmp_path / "clip.mp4")
    first = 25 if codec == "mjpeg" else 24
    assert found == written
    assert shown[: 45 - first] == list(range(first, 45))
    assert shown[-1] <= 48  # frames that these need


def test_clips_are_named_by_time_and_label_and_do_not_replace_each_other(
    tmp_path: Path, pool: WorkerPool
) -> None:
    source = barcode.write_clip(tmp_path / "a.ts", options=barcode.X264)
    notes: list[str] = []
    clips = EventClips(tmp_path / "clips", 0.2, 0.2, notes.append)
    for piece in record(source):
        clips.record("a", piece)
    named = [clips.add("a", EVENT, BEGAN, prefix) for prefix in ("", "", "rtsp://host/one")]
    assert [path.name for path in named] == [
        "20231114T221321.250Z_Turning-left-right.mp4",
        "20231114T221321.250Z_Turning-left-right_2.mp4",
        "20231114T221321.250Z_rtsp-host-one_Turning-left-right.mp4",
    ]
    clips.advance("a", 2.4, pool)
    clips.finish("a", pool)
    assert sorted((tmp_path / "clips").iterdir()) == sorted(named)
    assert numbers(named[0])[1][0] == 12  # the key frame before 0.8 s
    assert (notes, clips.saved, clips.failed) == ([], 3, 0)


def test_only_what_coming_events_need_is_kept(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = barcode.write_clip(tmp_path / "a.ts", numbers=range(250), options=barcode.X264)
    clips = EventClips(tmp_path, 1.0, 1.0, print)
    for piece in record(source):
        clips.record("a", piece)
        clips.advance("a", piece.end, pool)
        kept = clips._kept["a"].pieces
        assert kept[0].start >= piece.end - 1.0 - 2 * 0.6 or kept[0].start == 0
    monkeypatch.setattr(event_clips, "MAX_BYTES", kept[-1].size + 1)
    clips.record("a", kept[-1])
    assert len(clips._kept["a"].pieces) == 1


def test_a_full_disk_or_a_folder_that_goes_away_is_said_once(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = record(barcode.write_clip(tmp_path / "a.ts", options=barcode.X264))
    notes: list[str] = []
    clips = EventClips(tmp_path / "clips", 0.2, 0.2, notes.append)
    (tmp_path / "clips").rmdir()
    (tmp_path / "clips").write_text("")
    for piece in pieces:
        clips.record("a", piece)
    for _ in range(2):
        clips.add("a", EVENT, BEGAN)
    clips.finish("a", pool)
    assert notes == [f"a clip was not saved: cannot write {tmp_path / 'clips'}: File exists"]
    assert (clips.saved, clips.failed) == (0, 2)
    with pytest.raises(DataError, match="cannot write clips to"):
        EventClips(tmp_path / "clips", 0, 0, print)

    full = namedtuple("full", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full(100))
    with pytest.raises(DataError, match="the disk is full"):
        write_clip(pieces, 0, 1, tmp_path / "clip.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ts", "clips"]


def test_a_stream_without_a_key_frame_there_has_no_clip(tmp_path: Path, pool: WorkerPool) -> None:
    pieces = record(barcode.write_clip(tmp_path / "a.ts", options=barcode.X264))
    notes: list[str] = []
    clips = EventClips(tmp_path / "clips", 0.2, 0.2, notes.append)
    clips.record("a", pieces[0])
    clips.add("a", Segment(5.0, 6.0, 0, "late", 1.0, 1), BEGAN)
    clips.finish("a", pool)
    assert notes == ["a clip was not saved: there is no key frame of the stream in its time"]
