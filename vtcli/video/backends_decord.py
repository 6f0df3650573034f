"""Frames through decord, behind a gate that keeps away every file it would read wrongly.

Follows the decoding specification, sections 1 and 5. decord counts packets in decoding order but
sorts timestamps, so a seek into an open GOP lands on the wrong frame without an error. Walking
through the file, touching the last frame of each GOP on the way, never makes it seek. It is
offered for comparison with pipelines built on it and is not the default: PyAV was the faster of
the two wherever they were measured side by side, without the time to load decord. The gate does
not see damage inside a packet, which decord reports less often than PyAV.

Shape legend: N frames asked for, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import VideoDecodeError, VideoReason
from vtcli.video.container import decode, open_video, packets
from vtcli.video.probe import FrameIndex, VideoInfo

# VP9 is left out: it may change its frame size between key frames, where the gate does not look.
_CODECS = frozenset({"h264", "hevc", "vp8", "mpeg4"})


def read_with_decord(info: VideoInfo, indices: Sequence[int], threads: int) -> NDArray[np.uint8]:
    """Frames `indices` as uint8 RGB [N, H, W, 3], upright.

    Raises VideoDecodeError `unsupported` where decord is not installed or the gate is shut, and
    `corrupt` where decord fails.
    """
    decord = _import_decord(info)
    assert info.index is not None
    shut = _why_shut(info, info.index)
    if shut:
        raise _error(info, "unsupported", f"is not safe to read with decord ({shut})")
    try:
        reader = decord.VideoReader(
            os.path.abspath(info.path), ctx=decord.cpu(0), num_threads=threads
        )
        if len(reader) != info.frames:
            counted = f"it counts {len(reader)} frames instead of {info.frames}"
            raise _error(info, "unsupported", f"is not safe to read with decord ({counted})")
        return _walk(reader, info, indices)
    except VideoDecodeError:
        raise
    except Exception as error:
        raise _error(info, "corrupt", "cannot be read by decord", str(error)) from error


def _import_decord(info: VideoInfo) -> Any:
    try:
        import decord
    except (ImportError, OSError) as error:
        raise _error(info, "unsupported", "decord is not installed", str(error)) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _error(info: VideoInfo, reason: VideoReason, what: str, said: str = "") -> VideoDecodeError:
    message = f"{what}; read it with the decoder pyav"
    return VideoDecodeError(info.path, reason, message, [f"decord: {said or what}"])


def _why_shut(info: VideoInfo, index: FrameIndex) -> str:
    """Why decord might return wrong frames of this file; empty if it would not."""
    if not index.seekable:
        return f"its timestamps or its container ({info.container}) do not number the frames"
    if info.codec not in _CODECS:
        return f"its codec is {info.codec}"
    if index.any_hidden:
        return "an edit list hides some of its frames"
    if len(index.pts) != info.frames:
        return "its end is missing"
    if _size_changes(info):
        return "its frame size changes"
    return ""


def _size_changes(info: VideoInfo) -> bool:
    """Whether the key frames, where alone these codecs may change the size, differ in size."""
    sizes = set()
    with open_video(info.path) as (container, stream):
        stream.codec_context.skip_frame = "NONKEY"
        for packet in [*(p for p in packets(container, stream) if p.is_keyframe), None]:
            sizes |= {(frame.width, frame.height) for frame in decode(stream, packet) or ()}
    return len(sizes) > 1


def _walk(reader: Any, info: VideoInfo, indices: Sequence[int]) -> NDArray[np.uint8]:
    frames_NHWC = np.empty((len(indices), info.height, info.width, 3), dtype=np.uint8)
    before_keys = {key - 1 for key in reader.get_key_indices() if 0 < key <= max(indices)}
    indices_N = np.asarray(indices)
    reader.seek(0)
    for index in sorted(before_keys.union(indices)):
        frame_1HWC = reader.get_batch([index]).asnumpy()
        if frame_1HWC.shape[1:] != frames_NHWC.shape[1:]:
            raise ValueError(f"frames of shape {frame_1HWC.shape[1:]} came")
        frames_NHWC[indices_N == index] = frame_1HWC
    return frames_NHWC
