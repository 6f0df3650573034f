"""decord is optional, agrees with PyAV on the files it may read, and refuses the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.barcode import (
    OPEN_GOP,
    X264,
    X265,
    read_numbers,
    remux,
    set_edit,
    write_clip,
    write_two_sizes,
)
from vtcli.errors import VideoDecodeError
from vtcli.video.decode import read_frames

Make = Callable[[Path], Path]


def _clip(name: str, *args: Any, **kwargs: Any) -> Make:
    return lambda folder: write_clip(folder / name, *args, **kwargs)


LET_IN: dict[str, Make] = {
    "open_gop": _clip("a.mp4", options=OPEN_GOP),
    "open_gop_mkv": _clip("a.mkv", options=OPEN_GOP),
    "hevc": _clip("a.mp4", "libx265", options=X265),
    "mpeg4_b_frames": _clip("a.mov", "mpeg4"),
    "variable_rate": _clip("a.mp4", options=X264, time_of=lambda n: n + n * n // 4),
    "rotated": _clip("a.mp4", options=X264, turns=1),
}
SHUT_OUT: dict[str, tuple[Make, str]] = {
    "ts": (_clip("a.ts", options=X264), "container"),
    "avi": (_clip("a.avi", "mpeg4"), "container"),
    "gif": (_clip("a.gif", "gif", pix_fmt="rgb8"), "container"),
    "vp9": (_clip("a.webm", "libvpx-vp9", options={"deadline": "realtime"}), "codec is vp9"),
    "edit_list": (
        lambda folder: set_edit(write_clip(folder / "a.mp4", options=X264), 7, 53),
        "edit list",
    ),
    "two_sizes": (
        lambda folder: remux(write_two_sizes(folder / "a.ts"), folder / "a.mkv"),
        "frame size changes",
    ),
}


@pytest.mark.parametrize("kind", LET_IN)
def test_decord_and_pyav_agree(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord is not installed (it is optional)")
    path = LET_IN[kind](tmp_path)
    for asked in ([0, 8, 16, 25, 33, 42, 50, 59], [59, 3, 3, 30], list(range(60))):
        by_decord = read_frames(path, asked, backend="decord")
        by_pyav = read_frames(path, asked, backend="pyav")
        assert read_numbers(by_decord) == asked
        assert np.array_equal(by_decord, by_pyav)


@pytest.mark.parametrize("kind", SHUT_OUT)
def test_decord_refuses_files_that_it_decodes_incorrectly(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord is not installed (it is optional)")
    make, why = SHUT_OUT[kind]
    path = make(tmp_path)
    with pytest.raises(VideoDecodeError, match=why) as caught:
        read_frames(path, [0], backend="decord")
    assert caught.value.reason == "unsupported"
    assert "use the decoder pyav" in str(caught.value)


def test_without_decord_everything_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    path = write_clip(tmp_path / "a.mp4", options=OPEN_GOP)
    assert read_numbers(read_frames(path, [33])) == [33]
    with pytest.raises(VideoDecodeError, match="decord is not installed"):
        read_frames(path, [33], backend="decord")
