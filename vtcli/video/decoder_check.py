"""Tries every decoder on a clip it has just written: `python -m vtcli.video.decoder_check` prints JSON.

For `vt doctor`, which runs it in a process of its own, so that a crash in a native library is an
answer too. A trial clip holds a few gray frames of known brightness, read back out of order through
the same `read_frames` as everything else (decoding specification, section 5).
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
    """One codec's result. `untested`: it cannot be tried here, `detail` says why."""

    codec: str
    status: Literal["ok", "failed", "untested"]
    detail: str


@dataclass(frozen=True)
class _Trial:
    codec: str
    encoder: str
    suffix: str
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    backend: Backend = "auto"


_TRIALS = (
    _Trial("h264", "libx264", ".mp4"),
    _Trial("hevc", "libx265", ".mp4", options=(("x265-params", "log-level=none"),)),
    _Trial("vp8", "libvpx", ".webm"),
    _Trial("vp9", "libvpx-vp9", ".webm"),
    _Trial("av1", "libsvtav1", ".mp4", options=(("preset", "12"),)),
    _Trial("mpeg4", "mpeg4", ".avi"),
    _Trial("mpeg2video", "mpeg2video", ".mkv"),
    _Trial("mjpeg", "mjpeg", ".avi", pix_fmt="yuvj420p"),
    _Trial("gif", "gif", ".gif", pix_fmt="gray"),
    _Trial("h264 (decord)", "libx264", ".mp4", backend="decord"),
)


def probe_decoders() -> list[DecoderCheck]:
    """Write and read back a short clip in every codec that videos commonly come in."""
    with tempfile.TemporaryDirectory(prefix="vt-selftest-") as folder:
        return [_check(trial, Path(folder)) for trial in _TRIALS]


def _check(trial: _Trial, folder: Path) -> DecoderCheck:
    path = folder / f"{trial.codec}{trial.suffix}"
    try:
        _write(trial, path)
    except Exception as error:
        found = "is there" if _has_decoder(trial.codec) else "is missing"
        detail = f"no trial clip could be written ({error}); the decoder {found}"
        return DecoderCheck(trial.codec, "untested", detail)
    try:
        order = [4, 0, 2]
        levels = read_frames(path, order, backend=trial.backend).mean(axis=(1, 2, 3))
    except Exception as error:
        if getattr(error, "reason", "") == "unsupported" and trial.backend == "decord":
            return DecoderCheck(trial.codec, "untested", "decord, which is optional, is not there")
        return DecoderCheck(trial.codec, "failed", str(error))
    wanted = np.array([_LEVELS[index] for index in order])
    if np.abs(levels - wanted).max() > _TOLERANCE:
        detail = f"frames of brightness {wanted.tolist()} came back as {levels.round().tolist()}"
        return DecoderCheck(trial.codec, "failed", detail)
    return DecoderCheck(trial.codec, "ok", "")


def _write(trial: _Trial, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(trial.encoder, rate=_RATE, options=dict(trial.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, trial.pix_fmt
        for place, level in enumerate(_LEVELS):
            gray_HWC = np.full((_HEIGHT, _WIDTH, 3), level, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(gray_HWC, format="rgb24")
            frame = frame.reformat(format=trial.pix_fmt)
            frame.pts, frame.time_base = place, Fraction(1, _RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _has_decoder(codec: str) -> bool:
    try:
        av.Codec(codec, "r")
    except ValueError:
        return False
    return True


def main() -> None:
    """Print the checks as a JSON list, also of those that failed."""
    # The AV1 encoder would greet on stderr.
    os.environ.setdefault("SVT_LOG", "-1")
    json.dump([asdict(check) for check in probe_decoders()], sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
