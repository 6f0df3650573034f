"""A failing disk or network mount is an I/O error, not a damaged or shortened video."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import pytest

from tests import tiny
from vtcli.errors import VideoDecodeError
from vtcli.runtime.io_errors import is_transient_io_error
from vtcli.video import container
from vtcli.video.probe import probe


class _Failing:
    """An opened container whose packets end with an I/O error."""

    name = "video.mp4"

    def __init__(self, number: int) -> None:
        self.number = number

    def demux(self, stream: object) -> Iterator[Any]:
        raise av.error.OSError(self.number, "Input/output error", self.name)
        yield


def test_an_io_error_between_packets_is_not_the_end_of_the_video() -> None:
    failing: Any = _Failing(errno.EIO)
    with pytest.raises(VideoDecodeError, match="check the disk or the network mount") as raised:
        list(container.packets(failing, failing))
    assert raised.value.reason == "io_error"


def test_a_damaged_file_ends_where_it_breaks_off() -> None:
    failing: Any = _Failing(errno.EINVAL)
    assert list(container.packets(failing, failing)) == []


def test_a_file_that_fails_to_open_with_an_io_error_is_not_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.video(tmp_path / "a.mp4", 12, (48, 40))

    def fail(name: str, **options: object) -> object:
        raise av.error.OSError(errno.EIO, "Input/output error", name)

    monkeypatch.setattr(container.av, "open", fail)
    with pytest.raises(VideoDecodeError, match="Input/output error") as raised:
        probe(tmp_path / "a.mp4")
    assert raised.value.reason == "io_error"


def test_an_error_is_transient_because_of_its_cause() -> None:
    error = ValueError("cannot be read")
    error.__cause__ = OSError(errno.ETIMEDOUT, "Connection timed out")
    assert is_transient_io_error(error)
    error.__cause__ = OSError(errno.ENOENT, "No such file or directory")
    assert not is_transient_io_error(error)
