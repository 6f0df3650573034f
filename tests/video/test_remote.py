"""Videos behind URLs give the frames of the same local file, and of a large MP4 little is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from tests import tiny
from tests.remote_server import FileServer, serve
from tests.video.test_pipeline import TABLE
from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import sample_of
from vtcli.errors import VideoDecodeError
from vtcli.video import backends_pyav, remote
from vtcli.video.decode import probe, read_frames
from vtcli.video.decode_pool import DecodePool, source_info
from vtcli.video.pipeline import Pipeline
from vtcli.video.remote import RemotePath, locate


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """With ranges. Even tiny files are read in ranges, and temporary files are the test's."""
    monkeypatch.setattr(remote, "WHOLE_BYTES", 0)
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(remote, "spool_folder", str(tmp_path / "spool"))
    (tmp_path / "files").mkdir()
    with serve(FileServer(tmp_path / "files")) as running:
        yield running


def same_as_local(server: FileServer, name: str) -> RemotePath:
    """Compare index and frames with those of the local file."""
    local = probe(server.folder / name)
    info = probe(f"{server.url}/{name}")
    assert (info.frames, info.fps, info.duration) == (local.frames, local.fps, local.duration)
    assert local.index is not None
    assert info.index is not None
    for field in ("pts", "packet", "key_pts", "key_packet"):
        assert np.array_equal(getattr(local.index, field), getattr(info.index, field))
    indices = [0, local.frames // 2, local.frames - 1]
    wanted = read_frames(local.path, indices, info=local)
    assert np.array_equal(wanted, read_frames(info.path, indices, info=info))
    assert isinstance(info.path, RemotePath)
    assert info.warnings == local.warnings == ()
    if server.ranges:  # without, the server has sent more than was read until it noticed
        assert info.path.bytes_read == server.sent["/" + name]
    return info.path


def test_a_file_of_a_data_set_on_the_hub_is_read_in_ranges(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for revision in ("main", "v2"):
        folder = server.folder / f"datasets/org/name/resolve/{revision}/videos"
        folder.mkdir(parents=True)
        tiny.video(folder / "clip.mp4", 60)
    for name, revision in (("name", "main"), ("name@v2", "v2")):
        info = probe(f"hf://datasets/org/{name}/videos/clip.mp4")
        assert read_frames(info.path, [59], info=info).shape == (1, 48, 64, 3)
        assert isinstance(info.path, RemotePath)
        sent = server.sent[f"/datasets/org/name/resolve/{revision}/videos/clip.mp4"]
        assert not info.path.spooled
        assert info.path.bytes_read == sent
    with pytest.raises(VideoDecodeError, match="does not exist"):
        probe("hf://datasets/org/name/videos/none.mp4")


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_frames_are_those_of_the_local_file(server: FileServer, suffix: str, ranges: bool) -> None:
    server.ranges = ranges
    tiny.video(server.folder / f"clip.{suffix}", 60)
    path = same_as_local(server, f"clip.{suffix}")
    assert bool(path.spooled) == (suffix == "mkv" or not ranges)


def test_of_two_gigabytes_with_the_index_at_the_end_little_is_read(server: FileServer) -> None:
    """The media box of a small file is stretched by a hole, behind which its index lies."""
    whole = tiny.video(server.folder / "small.mp4", 60).read_bytes()
    at, size = whole.index(b"mdat") - 4, 2 << 30
    end = at + int.from_bytes(whole[at : at + 4], "big")
    assert whole[end + 4 : end + 8] == b"moov"
    with (server.folder / "large.mp4").open("wb") as file:
        file.write(whole[:at] + struct.pack(">I", size) + whole[at + 4 : end])
        file.seek(at + size)
        file.write(whole[end:])
    path = same_as_local(server, "large.mp4")
    assert path.size > size
    assert path.bytes_read < 4 << 20


def test_a_connection_that_breaks_is_tried_again_and_then_named(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtcli.video.remote.time.sleep", lambda seconds: None)
    tiny.video(server.folder / "clip.mp4", 60)
    server.breaks = 1
    info = probe(f"{server.url}/clip.mp4")
    assert info.frames == 60
    server.breaks = 10**6
    with pytest.raises(VideoDecodeError, match="check the connection and try again") as raised:
        read_frames(info.path, [0], info=info)
    assert raised.value.reason == "io_error"


@pytest.mark.parametrize("states_length", [True, False])
def test_what_can_only_be_read_whole_has_a_limit(
    server: FileServer, states_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges, server.states_length = False, states_length
    video = tiny.video(server.folder / "clip.mp4", 60)
    assert probe(f"{server.url}/clip.mp4").frames == 60
    monkeypatch.setattr(remote, "MAX_DOWNLOAD", video.stat().st_size - 1)
    before = set(os.listdir(str(remote.spool_folder)))
    with pytest.raises(VideoDecodeError, match="convert it to MP4") as raised:
        locate(f"{server.url}/clip.mp4")
    assert raised.value.reason == "limit"
    assert set(os.listdir(str(remote.spool_folder))) == before


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{}/nothere.mp4", "not_found"),
        ("{}/junk.mp4", "not_video"),
        ("{}/list.m3u8", "not_video"),
        ("ftp://host/clip.mp4", "unsupported"),
        ("concat://a|b", "unsupported"),
        ("http://127.0.0.1:1/clip.mp4", "io_error"),
        ("hf://models/a/b.mp4", "unsupported"),
    ],
)
def test_each_failure_has_its_reason(server: FileServer, url: str, reason: str) -> None:
    (server.folder / "junk.mp4").write_bytes(b"junk" * 100)
    (server.folder / "list.m3u8").write_text(f"#EXTM3U\n{server.url}/clip.mp4\n")
    with pytest.raises(VideoDecodeError) as raised:
        probe(url.format(server.url))
    assert raised.value.reason == reason
    assert raised.value.path == url.format(server.url)
    assert server.sent["/clip.mp4"] == 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_views_are_those_of_the_local_file(
    server: FileServer, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(backends_pyav, "_read_slow")  # the index is right, and so is what it finds
    local = tiny.video(server.folder / f"clip.{suffix}", 60)
    pipeline = Pipeline.from_dict(TABLE | {"frames": 8})
    reader = ClipReader(pipeline, 4, 3, strict=True)
    with DecodePool(0) as pool:
        clips = [
            list(reader.read(sample_of(path), open_source=pool.open).clips)
            for path in (str(local), f"{server.url}/clip.{suffix}")
        ]
    assert len(clips[0]) == 12
    assert all(map(torch.equal, *clips))


def test_decode_processes_count_bytes_and_remove_their_copies(server: FileServer) -> None:
    tiny.video(server.folder / "clip.mkv", 60)
    with DecodePool(1) as pool:
        source = pool.open(f"{server.url}/clip.mkv")
        path = source_info(source).path
        assert isinstance(path, RemotePath)
        assert os.path.exists(path.spooled)
        assert source.read([3]).shape == (1, 48, 64, 3)
        assert path.bytes_read == server.sent["/clip.mkv"]
        del source
        assert not os.path.exists(path.spooled)
