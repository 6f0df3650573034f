"""Opens a local video file safely: what is let in, and what is said of the rest.

Follows the decoding specification, section 5: local regular files only, a whitelist of containers
(a playlist or a picture named .mp4 is refused before anything is decoded), the best video stream,
never a cover picture.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtcli.errors import VideoDecodeError, VideoReason
from vtcli.runtime.io_errors import is_transient_io_error

# Libav writes to stderr from C, past Python's logging; what matters comes back as exceptions.
av.logging.set_level(None)

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,gif,asf,ogg"
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}

# (offset, bytes there) -> what the file is; only consulted once libav has refused it.
_PLAYLIST = "is a playlist, not a video; give the video files it lists"
_PICTURE = "is a picture, not a video; give a video file"
_SOUND = "is a sound file and has no video stream; give a video file"
_BROKEN = (
    "begins like a video, but its index is missing or damaged (an interrupted recording or "
    "download?); copy or download it again"
)
_HEADS: tuple[tuple[int, bytes, VideoReason, str], ...] = (
    (0, b"#EXTM3U", "not_video", _PLAYLIST),
    (0, b"ffconcat", "not_video", _PLAYLIST),
    (0, b"\x89PNG", "not_video", _PICTURE),
    (0, b"\xff\xd8\xff", "not_video", _PICTURE),
    (0, b"ID3", "no_video_stream", _SOUND),
    (0, b"fLaC", "no_video_stream", _SOUND),
    (8, b"WAVE", "no_video_stream", _SOUND),
    (8, b"AVI ", "corrupt", _BROKEN),
    (4, b"ftyp", "corrupt", _BROKEN),
    (4, b"mdat", "corrupt", _BROKEN),
    (0, b"\x1a\x45\xdf\xa3", "corrupt", _BROKEN),
)
_UNKNOWN = "is not a video in a known container; give an MP4, MKV, AVI or similar file"


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a regular file that is not empty.

    Raises VideoDecodeError: `unsupported` for a URL, `not_found` for a missing or unreadable file,
    `not_video` for a folder, a device or an empty file.
    """
    name = os.fspath(path)
    if "://" in name:
        raise VideoDecodeError(
            name, "unsupported", "is a URL, and only local files are read; download it first"
        )
    try:
        status = os.stat(name)
        readable = os.access(name, os.R_OK)
    except (OSError, ValueError) as error:
        if is_transient_io_error(error):
            raise io_failure(name, error) from error
        why = getattr(error, "strerror", None) or error
        raise VideoDecodeError(
            name, "not_found", f"cannot be opened ({why}); check the path"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoDecodeError(name, "not_video", "is a folder; give the video files inside it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoDecodeError(name, "not_video", "is not a regular file; give a video file")
    if not readable:
        raise VideoDecodeError(
            name, "not_found", "may not be read (permission denied); change its permissions"
        )
    if status.st_size == 0:
        raise VideoDecodeError(name, "not_video", "is empty (0 bytes); copy or download it again")
    return Path(name)


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened container and its best video stream, closed again in every case.

    Raises VideoDecodeError: `not_video`, `corrupt`, `no_video_stream` or `unsupported`.
    """
    # Absolute, so that a name such as "concat:a" is never taken for one of libav's protocols.
    name = os.path.abspath(path)
    try:
        container = av.open(name, container_options=_OPEN_OPTIONS)
    except Exception as error:
        raise _refusal(path, error) from error
    try:
        stream = _best_stream(path, container)
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = "AUTO" if threads > 1 else "SLICE"
        yield container, stream
    finally:
        container.close()


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets that carry data, up to the end or to where the file breaks off.

    Left out are empty packets (AVI marks a dropped frame so, a decoder would take it for the end)
    and a last packet of which the file holds only a part. Raises VideoDecodeError `io_error`: a
    failing disk or network mount must not pass for the end of the file.
    """
    held: Packet | None = None
    try:
        for packet in container.demux(stream):
            if packet.size:
                if held is not None:
                    yield held
                held = packet
    except av.error.FFmpegError as error:
        if is_transient_io_error(error):
            raise io_failure(container.name, error) from error
    if held is not None and not held.is_corrupt:
        yield held


def decode(stream: VideoStream, packet: Packet | None) -> list[VideoFrame] | None:
    """The frames that a packet (None: the end) brings out of the decoder; None if it is damaged."""
    try:
        return stream.decode(packet)
    except av.error.FFmpegError:
        return None


def _best_stream(path: Path, container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if stream is not None and _is_cover(stream):
        videos = [s for s in container.streams.video if not _is_cover(s)]
        stream = max(videos, key=lambda s: s.width * s.height, default=None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        found = f"only {' and '.join(kinds)}" if kinds else "nothing to decode"
        raise VideoDecodeError(
            path, "no_video_stream", f"has no video stream ({found}); give a file with a video"
        )
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        raise VideoDecodeError(
            path,
            "unsupported",
            "is coded in a way no decoder here knows; convert it, for example to H.264 in MP4",
        )
    return stream


def _is_cover(stream: object) -> bool:
    disposition = getattr(stream, "disposition", None)
    return disposition is not None and bool(disposition & type(disposition).attached_pic)


def io_failure(path: str | Path, error: Exception) -> VideoDecodeError:
    """The error for a file that the system failed to read, which may succeed at another time."""
    why = getattr(error, "strerror", None) or error
    message = f"cannot be read ({why}); check the disk or the network mount and try again"
    return VideoDecodeError(path, "io_error", message, [f"pyav: {error}"])


def _refusal(path: Path, error: Exception) -> VideoDecodeError:
    """The sentence for a file that libav did not open."""
    if is_transient_io_error(error):
        return io_failure(path, error)
    said = [f"pyav: {error}"]
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as unreadable:
        if is_transient_io_error(unreadable):
            return io_failure(path, unreadable)
        return VideoDecodeError(path, "not_found", f"cannot be read ({unreadable.strerror})", said)
    for offset, magic, reason, sentence in _HEADS:
        if head[offset : offset + len(magic)] == magic:
            return VideoDecodeError(path, reason, sentence, said)
    return VideoDecodeError(path, "not_video", _UNKNOWN, said)
