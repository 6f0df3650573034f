"""s3:// and gs:// URLs give the frames of the same local files, from stores on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.registry import _registry

from tests import tiny
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.inference.inputs import describe, find_videos
from vtcli.video import remote
from vtcli.video.decode import probe, read_frames
from vtcli.video.remote import RemotePath

DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}


@pytest.fixture
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def gs() -> Iterator[str]:
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server")
    with server.create_server("127.0.0.1", 0, in_memory=True) as running:
        host, port = running._api._httpd.server_address
        yield f"http://{host}:{port}"


@pytest.fixture(params=DRIVERS)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """An fsspec file system with the bucket `clips`, which is configured as a user would do it.

    Even tiny files are read in ranges, and temporary files are the test's.
    """
    endpoint = request.getfixturevalue(request.param)
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": endpoint,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "WHOLE_BYTES", 0)
    monkeypatch.setattr(remote, "spool_folder", str(tmp_path))
    fsspec.get_filesystem_class(request.param).clear_instance_cache()
    system = fsspec.filesystem(request.param)
    system.mkdir("clips")
    yield system
    system.clear_instance_cache()


def test_videos_in_a_bucket_are_found_and_read_as_local_ones(store: Any, tmp_path: Path) -> None:
    scheme = store.protocol[0]
    for name in ("clip.mp4", "clip.mkv"):
        store.pipe_file(f"clips/in/{name}", tiny.video(tmp_path / name, 60).read_bytes())
    store.pipe_file("clips/in/notes.txt", b"no video")
    urls = [f"{scheme}://clips/in/clip.mkv", f"{scheme}://clips/in/clip.mp4"]
    assert find_videos([f"{scheme}://clips/in/"]) == urls
    assert find_videos([f"{scheme}://clips/*/*.mp4"]) == urls[1:]
    for url in urls:
        local = tmp_path / url.rpartition("/")[2]
        info = probe(url)
        assert isinstance(info.path, RemotePath)
        assert bool(info.path.spooled) == url.endswith(".mkv")  # the other is read in ranges
        assert np.array_equal(
            read_frames(info.path, [59, 7], info=info), read_frames(local, [59, 7])
        )
        before = describe(url)
        assert before.size == local.stat().st_size
        store.pipe_file(url, local.read_bytes() + b"\0")
        assert describe(url).etag not in ("", before.etag)
    with pytest.raises(VideoDecodeError, match="does not exist") as raised:
        probe(f"{scheme}://clips/in/none.mp4")
    assert raised.value.reason == "not_found"


@pytest.mark.parametrize("scheme", DRIVERS)
def test_a_missing_driver_is_named_with_the_extra_that_has_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, DRIVERS[scheme], None)
    monkeypatch.delitem(_registry, scheme, raising=False)
    pattern = rf"{scheme}://.*{DRIVERS[scheme]}.*pip install 'vtcli\[remote\]'"
    with pytest.raises(UsageError, match=pattern):
        probe(f"{scheme}://bucket/clip.mp4")
