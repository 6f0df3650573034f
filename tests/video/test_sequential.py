"""One pass over a file yields the same frames as reading them by number, and their times."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.barcode import OPEN_GOP, X264, read_numbers, set_edit, write_clip
from vtcli.errors import VideoDecodeError
from vtcli.video import backends_pyav, sequential
from vtcli.video.decode import probe
from vtcli.video.sequential import frame_times, stream_frames


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "open.mp4", "turned.mp4"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_requested_frames_are_yielded_in_order_each_once(
    name: str, threads: int, tmp_path: Path
) -> None:
    path = write_clip(
        tmp_path / name,
        "mpeg4" if name == "a.avi" else "libx264",
        options=None if name == "a.avi" else OPEN_GOP if name == "open.mp4" else X264,
        turns=name == "turned.mp4",
    )
    for requested in (range(60), [59, 7, 7, 30, 8], [0], []):
        got = list(stream_frames(probe(path), requested, threads))
        assert [position for position, _ in got] == sorted(set(requested))
        for position, frame_HWC in got:
            assert frame_HWC.shape == (128, 192, 3)
            assert read_numbers(frame_HWC[None]) == [position]


def test_frames_that_are_reordered_are_all_yielded(tmp_path: Path) -> None:
    # Neighbors have each other's timestamps, which the decoder of this codec accepts.
    path = write_clip(tmp_path / "a.mkv", "ffv1", range(20))
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.dts, packet.pts = 40 * number, 40 * (number ^ 1) + 40
            packet.stream = copied
            target.mux(packet)
    info = probe(tmp_path / "b.mkv")
    assert info.frames >= 19
    yielded = [position for position, _ in stream_frames(info, range(info.frames))]
    assert yielded == list(range(info.frames))


def test_an_intact_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(write_clip(tmp_path / "a.mp4", options=X264))
    opened = []

    def counted(path: Path, threads: int = 1) -> object:
        opened.append(path)
        return opening(path, threads)

    opening = sequential.open_video
    for module in (sequential, backends_pyav):
        monkeypatch.setattr(module, "open_video", counted)
    assert len(list(stream_frames(info, range(0, 60, 2)))) == 30
    assert opened == [info.path]


def test_only_damage_before_a_requested_frame_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options=X264)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = {packet.pts: (packet.pos, packet.size) for packet in packets}
    info = probe(path)
    assert info.index is not None
    place, size = places[int(info.index.pts[36])]
    data = bytearray(path.read_bytes())
    data[place + size // 4 : place + size] = b"\xff" * (size - size // 4)
    path.write_bytes(data)
    assert [position for position, _ in stream_frames(info, range(30))] == list(range(30))
    with pytest.raises(VideoDecodeError) as caught:
        list(stream_frames(info, range(60)))
    assert caught.value.reason == "corrupt"


def test_the_frames_of_a_truncated_file_are_yielded_before_the_error(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "a.mp4", options=X264, container_options={"movflags": "faststart"}
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    yielded: list[int] = []
    with pytest.raises(VideoDecodeError) as caught:
        yielded.extend(position for position, _ in stream_frames(probe(cut), range(60)))
    assert caught.value.reason == "missing_frames"
    assert yielded == list(range(len(yielded)))
    assert len(yielded) >= 20


def test_times_are_those_of_the_timestamps(tmp_path: Path) -> None:
    even = probe(write_clip(tmp_path / "even.mp4"))
    np.testing.assert_allclose(frame_times(even), np.arange(61) / 25, atol=1e-6)
    late = probe(write_clip(tmp_path / "late.ts", time_of=lambda place: place + 100))
    np.testing.assert_allclose(frame_times(late), np.arange(61) / 25, atol=1e-4)
    squares = [place * (place + 1) // 2 for place in range(10)]
    info = probe(write_clip(tmp_path / "v.mkv", numbers=range(10), time_of=squares.__getitem__))
    np.testing.assert_allclose(frame_times(info)[:-1], np.array(squares) / 25, atol=1e-3)
    assert frame_times(info)[-1] > frame_times(info)[-2]


def test_times_without_timestamps_follow_the_frame_rate(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "a.avi", "mpeg4"))
    assert not info.exact
    np.testing.assert_allclose(frame_times(info), np.arange(61) / 25, atol=1e-9)


def test_times_start_where_an_edit_list_starts(tmp_path: Path) -> None:
    info = probe(set_edit(write_clip(tmp_path / "a.mp4", options=X264), 5, 20))
    np.testing.assert_allclose(frame_times(info), np.arange(info.frames + 1) / 25, atol=1e-6)
