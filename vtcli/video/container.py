"""Opens a video file safely, or explains why it is refused.

Follows the decoding specification, section 5: regular files only (or the file object that reads a
URL, see `remote.py`), a whitelist of containers
(a playlist or an image named .mp4 is refused before anything is decoded), the best video stream,
never a cover image.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtcli.errors import VideoDecodeError, VideoReason
from vtcli.runtime.io_errors import is_transient_io_error
from vtcli.video.damage import damage
from vtcli.video.held import close_unless_held
from vtcli.video.remote import RangeFile, RemotePath, is_url, locate, opened

# libav writes to stderr from C; what matters is raised as exceptions.
av.logging.set_level(None)

# None of these refers to another file.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,gif,asf,ogg,mxf,nut,dv,ivf,obu,"
    "h264,hevc,vvc,m4v,mpegvideo,yuv4mpegpipe,apng,wtv,rm,gxf,dhav"
)
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}

_INDEXED_CODECS = ("h264", "hevc", "mpeg4")

# Offset and bytes of a file signature -> why it is refused; used only after libav has refused it.
_PLAYLIST = "is a playlist, not a video; use the video files that it lists"
_IMAGE = "is an image, not a video; use a video file"
_WEBP = (
    "is a WebP image, and the decoder does not read animated ones; convert it to GIF or H.264 in "
    "MP4"
)
_AUDIO = "is an audio file and has no video stream; use a video file"
_NO_INDEX = (
    "starts like a video, but its index is missing or damaged (an interrupted recording or "
    "download?); copy or download it again"
)
_SIGNATURES: tuple[tuple[int, bytes, VideoReason, str], ...] = (
    (0, b"#EXTM3U", "not_video", _PLAYLIST),
    (0, b"ffconcat", "not_video", _PLAYLIST),
    (0, b"\x89PNG", "not_video", _IMAGE),
    (8, b"WEBPVP8X", "unsupported", _WEBP),
    (8, b"WEBP", "not_video", _IMAGE),
    (0, b"II*\0", "not_video", _IMAGE),
    (0, b"MM\0*", "not_video", _IMAGE),
    (0, b"BM", "not_video", _IMAGE),
    (0, b"\xff\xd8\xff", "not_video", _IMAGE),
    (0, b"ID3", "no_video_stream", _AUDIO),
    (0, b"fLaC", "no_video_stream", _AUDIO),
    (8, b"WAVE", "no_video_stream", _AUDIO),
    (8, b"AVI ", "corrupt", _NO_INDEX),
    (4, b"ftyp", "corrupt", _NO_INDEX),
    (4, b"mdat", "corrupt", _NO_INDEX),
    (0, b"\x1a\x45\xdf\xa3", "corrupt", _NO_INDEX),
)
_LISTS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
_LIST = "is not a video in a supported container; give a list of videos with --from-file"
_UNKNOWN = "is not a video in a supported container; use an MP4, MKV, AVI or similar file"


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a regular, non-empty file, or a `RemotePath` for a URL.

    Raises VideoDecodeError: `not_found` for a missing or unreadable file, `not_video` for a folder,
    a device or an empty file; for a URL as `locate` does.
    """
    name = os.fspath(path)
    if is_url(name):
        return cast(Path, name if isinstance(name, RemotePath) else locate(name))
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
        raise VideoDecodeError(name, "not_video", "is a folder; use the video files in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoDecodeError(name, "not_video", "is not a regular file; use a video file")
    if not readable:
        raise VideoDecodeError(
            name, "not_found", "cannot be read (permission denied); change its permissions"
        )
    if status.st_size == 0:
        raise VideoDecodeError(name, "not_video", "is empty (0 bytes); copy or download it again")
    return Path(name)


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container and its best video stream; both are closed at the end of the block, unless
    they are held (`held.py`).

    Raises VideoDecodeError: `not_video`, `corrupt`, `no_video_stream` or `unsupported`.
    """
    with ExitStack() as closing:
        # Absolute, so that a name such as "concat:a" is never interpreted as a protocol of libav.
        file = (
            closing.enter_context(opened(path))
            if isinstance(path, RemotePath)
            else os.path.abspath(path)
        )
        try:
            container = av.open(file, container_options=_OPEN_OPTIONS)
        except VideoDecodeError:
            raise
        except Exception as error:
            raise _refusal(path, error) from error
        closing.callback(close_unless_held, container)
        stream = _best_stream(path, container)
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = "AUTO" if threads > 1 else "SLICE"
        yield container, stream


def hide_media(container: InputContainer, stream: VideoStream) -> bool:
    """From now on packets of a remote file have the right size and times but no contents.

    Only where the container's index has the times; libav's parser, which looks into the packets,
    then does not know the key frames, but the index does. Returns whether they are hidden.
    """
    file = getattr(container.file, "file", None)
    if not isinstance(file, RangeFile):
        return False
    file.hide_media = (
        container.format.name.startswith("mov")
        and stream.codec_context.codec.canonical_name in _INDEXED_CODECS
    )
    return file.hide_media


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets that contain data, up to the end or to where the file is truncated.

    Skipped are empty packets (in AVI a dropped frame, for a decoder the end of the stream) and a
    last packet that the file contains only partly. Raises VideoDecodeError `io_error`, because a
    failing disk or network mount must not be taken for the end of the file.
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
        damage().notes.append(f"reading stops before the end ({error.strerror or error})")
    if held is not None and not held.is_corrupt:
        yield held
    elif held is not None:
        damage().notes.append("the last packet is incomplete")


def decode(stream: VideoStream, packet: Packet | None) -> list[VideoFrame] | None:
    """The frames that the decoder returns for a packet (None: flush); None if it is damaged."""
    try:
        return stream.decode(packet)
    except av.error.FFmpegError:
        damage().failed_packets += 1
        return None


def _best_stream(path: Path, container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if stream is not None and _is_cover(stream):
        videos = [s for s in container.streams.video if not _is_cover(s)]
        stream = max(videos, key=lambda s: s.width * s.height, default=None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        found = f"only {' and '.join(kinds)}" if kinds else "no stream at all"
        raise VideoDecodeError(
            path, "no_video_stream", f"has no video stream ({found}); use a file with one"
        )
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        raise VideoDecodeError(
            path,
            "unsupported",
            "has a codec that no installed decoder supports; convert it, for example to H.264 MP4",
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
    """The error for a file that libav did not open."""
    if is_transient_io_error(error):
        return io_failure(path, error)
    messages = [f"pyav: {error}"]
    try:
        with opened(path) if isinstance(path, RemotePath) else path.open("rb") as file:
            head = file.read(24)
    except OSError as unreadable:
        if is_transient_io_error(unreadable):
            return io_failure(path, unreadable)
        return VideoDecodeError(
            path, "not_found", f"cannot be read ({unreadable.strerror})", messages
        )
    for offset, magic, reason, sentence in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return VideoDecodeError(path, reason, sentence, messages)
    sentence = _LIST if os.path.splitext(path)[1].lower() in _LISTS else _UNKNOWN
    return VideoDecodeError(path, "not_video", sentence, messages)
