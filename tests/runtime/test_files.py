"""Files appear complete or not at all, and only errors of the output are reported as such."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from threading import Thread

import pytest

from vtcli.errors import DataError
from vtcli.runtime.files import (
    atomic_write,
    is_complete,
    link_without_overwrite,
    require_place,
)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as part:
        part.write_text("all of it")
        assert not target.exists()
    assert target.read_text() == "all of it"
    with suppress(KeyError), atomic_write(target) as part:
        part.write_text("half")
        raise KeyError
    assert target.read_text() == "all of it"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to("real/a.txt")
    with atomic_write(tmp_path / "link.txt") as part:
        part.write_text("all of it")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "all of it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received: list[str] = []
    reader = Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    with atomic_write(tmp_path / "pipe") as part:
        part.write_text("all of it")
    reader.join(10)
    assert received == ["all of it"]
    assert (tmp_path / "pipe").is_fifo()


def test_an_error_of_another_file_is_raised_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), atomic_write(target):
        (tmp_path / "other.txt").read_text()
    with pytest.raises(OSError, match="Input/output error") as raised, atomic_write(target):
        raise OSError(errno.EIO, "Input/output error")  # a read that fails names no file
    assert not isinstance(raised.value, DataError)
    with pytest.raises(PermissionError), atomic_write(target):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "b.txt"))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_output_names_it(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    denied = raises(r"cannot write .*/a\.txt: Permission denied; choose another place with -o")
    with denied, atomic_write(target) as part:
        raise PermissionError(errno.EACCES, "Permission denied", str(part))
    with raises(r"cannot write .*/a\.txt: the disk is full"), atomic_write(target):
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` raises it
    with raises(r"cannot write .*/a\.txt: the disk is full"), atomic_write(target, size=2**62):
        pass
    with raises(r"cannot write .*/a\.txt: No such file"), atomic_write(target):
        pass  # nothing was written
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_reported_as_the_output() -> None:
    device = Path("/dev/full")
    with raises("cannot write /dev/full: the disk is full"), atomic_write(device) as part:
        part.write_text("something")


def raises(message: str) -> AbstractContextManager[object]:
    return pytest.raises(DataError, match=message)


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "part"
    for content in ("first", "second"):
        (tmp_path / "fresh").unlink(missing_ok=True)  # the first may be the same file as the part
        (tmp_path / "fresh").write_text(content)
        assert link_without_overwrite(tmp_path / "fresh", target) == (content == "first")
    assert target.read_text() == "first"


@pytest.mark.parametrize(("age_s", "is_free"), [(0, False), (120, True)])
def test_a_name_that_a_killed_process_reserved_becomes_free(
    tmp_path: Path, age_s: int, is_free: bool
) -> None:
    target, fresh = tmp_path / "part", tmp_path / "fresh"
    target.touch()
    moment = target.stat().st_mtime - age_s
    os.utime(target, (moment, moment))
    assert not is_complete(target)
    fresh.write_text("rows")
    assert link_without_overwrite(fresh, target) == is_free
    assert is_complete(target) == is_free


def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    require_place(tmp_path / "new" / "folder" / "out.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    require_place(tmp_path / "file")
    with pytest.raises(DataError, match=r"file/out\.csv: Not a directory; choose another place"):
        require_place(tmp_path / "file" / "out.csv")
    with pytest.raises(DataError, match=r"cannot write /proc/out\.csv"):
        require_place(Path("/proc/out.csv"))
