"""Tests every decoder on a clip that it writes: `python -m vtcli.video.decoder_check` prints JSON.

`vt doctor` runs it in a separate process, so that a crash in a native library is a result as well.
A test clip consists of a few gray frames of known brightness, which are read out of order by the
same `read_frames` that everything else uses (decoding specification, section 5).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.stream import VideoStream

from vtcli.video.decode import Backend, read_frames

_LEVELS = (30, 80, 130, 180, 230)
_TOLERANCE = 10
_WIDTH, _HEIGHT, _RATE = 64, 48, 25


@dataclass(frozen=True)
class DecoderCheck:
    """The result for one codec. `untested`: it cannot be tested here, `detail` states why."""

    codec: str
    status: Literal["ok", "failed", "untested"]
    detail: str


@dataclass(frozen=True)
class _TestClip:
    codec: str
    encoder: str
    suffix: str
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    backend: Backend = "auto"


_TEST_CLIPS = (
    _TestClip("h264", "libx264", ".mp4"),
    _TestClip("hevc", "libx265", ".mp4", options=(("x265-params", "log-level=none"),)),
    _TestClip("vp8", "libvpx", ".webm"),
    _TestClip("vp9", "libvpx-vp9", ".webm"),
    _TestClip("av1", "libsvtav1", ".mp4", options=(("preset", "12"),)),
    _TestClip("mpeg4", "mpeg4", ".avi"),
    _TestClip("mpeg2video", "mpeg2video", ".mkv"),
    _TestClip("mjpeg", "mjpeg", ".avi", pix_fmt="yuvj420p"),
    _TestClip("gif", "gif", ".gif", pix_fmt="gray"),
    _TestClip("h264 (decord)", "libx264", ".mp4", backend="decord"),
)


def probe_decoders() -> list[DecoderCheck]:
    """Write and read back a short clip in every common video codec."""
    with tempfile.TemporaryDirectory(prefix="vt-decoder-check-") as folder:
        return [_check(clip, Path(folder)) for clip in _TEST_CLIPS]


def _check(clip: _TestClip, folder: Path) -> DecoderCheck:
    path = folder / f"{clip.codec}{clip.suffix}"
    try:
        _write(clip, path)
    except Exception as error:
        found = "is installed" if _has_decoder(clip.codec) else "is missing"
        detail = f"no test clip could be written ({error}); the decoder {found}"
        return DecoderCheck(clip.codec, "untested", detail)
    try:
        order = [4, 0, 2]
        levels = read_frames(path, order, backend=clip.backend).mean(axis=(1, 2, 3))
    except Exception as error:
        if getattr(error, "reason", "") == "unsupported" and clip.backend == "decord":
            detail = "decord, which is optional, is not installed"
            return DecoderCheck(clip.codec, "untested", detail)
        return DecoderCheck(clip.codec, "failed", str(error))
    expected = np.array([_LEVELS[index] for index in order])
    if np.abs(levels - expected).max() > _TOLERANCE:
        found = levels.round().tolist()
        detail = f"frames of brightness {expected.tolist()} were decoded as {found}"
        return DecoderCheck(clip.codec, "failed", detail)
    return DecoderCheck(clip.codec, "ok", "")


def _write(clip: _TestClip, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.encoder, rate=_RATE, options=dict(clip.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, clip.pix_fmt
        for number, level in enumerate(_LEVELS):
            gray_HWC = np.full((_HEIGHT, _WIDTH, 3), level, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(gray_HWC, format="rgb24")
            frame = frame.reformat(format=clip.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _has_decoder(codec: str) -> bool:
    try:
        av.Codec(codec, "r")
    except ValueError:
        return False
    return True


def main() -> None:
    """Print all results as a JSON list."""
    # The AV1 encoder would print a banner to stderr.
    os.environ.setdefault("SVT_LOG", "-1")
    json.dump([asdict(check) for check in probe_decoders()], sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
