"""How videos are written: MP4 with H.264, which every browser and editor plays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import av
from av.container import OutputContainer

H264: Mapping[str, str] = {"crf": "20", "preset": "veryfast"}
"""Options of the encoder `libx264`."""


def open_mp4(path: Path) -> OutputContainer:
    """An MP4 file to write; raises `OSError`.

    The path is made absolute, so that no name is interpreted as a protocol of libav; the index is
    at the front, so that playback can start during a download.
    """
    return av.open(os.path.abspath(path), "w", format="mp4", options={"movflags": "+faststart"})
