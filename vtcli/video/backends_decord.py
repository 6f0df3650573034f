"""The decord backend, restricted to files that decord decodes correctly.

Follows the decoding specification, sections 1 and 5. decord counts packets in decoding order but
sorts timestamps, so that a seek into an open GOP silently returns the wrong frame. Reading the file
in order, including the last frame of each GOP, never makes it seek. decord is offered for
comparison with pipelines that use it and is not the default: in every measurement PyAV was faster,
even without the time to import decord. Damage inside a packet is not checked for; decord reports it
less often than PyAV.

Shape legend: N requested frames, H height, W width.
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
from vtcli.video.remote import RemotePath

# Without VP9: it may change its frame size between key frames, which is not checked.
_CODECS = frozenset({"h264", "hevc", "vp8", "mpeg4"})


def read_with_decord(info: VideoInfo, indices: Sequence[int], threads: int) -> NDArray[np.uint8]:
    """Frames `indices` as uint8 RGB [N, H, W, 3], upright.

    Raises VideoDecodeError `unsupported` where decord is not installed or not safe for this file,
    and `corrupt` where decord fails.
    """
    decord = _import_decord(info)
    assert info.index is not None
    unsafe = _why_unsafe(info, info.index)
    if unsafe:
        raise _error(info, "unsupported", f"is not safe to decode with decord ({unsafe})")
    try:
        reader = decord.VideoReader(
            os.path.abspath(info.path), ctx=decord.cpu(0), num_threads=threads
        )
        if len(reader) != info.frames:
            counted = f"it counts {len(reader)} frames instead of {info.frames}"
            raise _error(info, "unsupported", f"is not safe to decode with decord ({counted})")
        return _read_in_order(reader, info, indices)
    except VideoDecodeError:
        raise
    except Exception as error:
        raise _error(info, "corrupt", "cannot be decoded by decord", str(error)) from error


def _import_decord(info: VideoInfo) -> Any:
    try:
        import decord
    except (ImportError, OSError) as error:
        raise _error(info, "unsupported", "decord is not installed", str(error)) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _error(info: VideoInfo, reason: VideoReason, what: str, cause: str = "") -> VideoDecodeError:
    message = f"{what}; use the decoder pyav"
    return VideoDecodeError(info.path, reason, message, [f"decord: {cause or what}"])


def _why_unsafe(info: VideoInfo, index: FrameIndex) -> str:
    """Why decord could return wrong frames of this file; empty if it cannot."""
    if isinstance(info.path, RemotePath):
        return "it is not a local file"
    if not index.seekable:
        return f"its timestamps or its container ({info.container}) do not number the frames"
    if info.codec not in _CODECS:
        return f"its codec is {info.codec}"
    if info.mirrored:
        return "its frames are mirrored"
    if index.any_hidden:
        return "an edit list hides some of its frames"
    if len(index.pts) != info.frames:
        return "its end is missing"
    if _size_changes(info):
        return "its frame size changes"
    return ""


def _size_changes(info: VideoInfo) -> bool:
    """Whether key frames differ in size; these codecs can change the size only there."""
    sizes = set()
    with open_video(info.path) as (container, stream):
        stream.codec_context.skip_frame = "NONKEY"
        for packet in [*(p for p in packets(container, stream) if p.is_keyframe), None]:
            sizes |= {(frame.width, frame.height) for frame in decode(stream, packet) or ()}
    return len(sizes) > 1


def _read_in_order(reader: Any, info: VideoInfo, indices: Sequence[int]) -> NDArray[np.uint8]:
    frames_NHWC = np.empty((len(indices), info.height, info.width, 3), dtype=np.uint8)
    before_keys = {key - 1 for key in reader.get_key_indices() if 0 < key <= max(indices)}
    indices_N = np.asarray(indices)
    reader.seek(0)
    for index in sorted(before_keys.union(indices)):
        frame_1HWC = reader.get_batch([index]).asnumpy()
        if frame_1HWC.shape[1:] != frames_NHWC.shape[1:]:
            raise ValueError(f"a frame has the shape {frame_1HWC.shape[1:]}")
        frames_NHWC[indices_N == index] = frame_1HWC
    return frames_NHWC
