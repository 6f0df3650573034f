"""Videos behind URLs: https://, s3://, gs:// and hf://datasets/..., read in ranges through fsspec.

libav never opens a URL: it reads a file object of ours, so that playlists and references inside a
file stay refused. Of an MP4 or MOV only the header, the index and the frames that are asked for are
read; the rest (other containers, servers without ranges, small files) is downloaded to a temporary
file first, up to `MAX_DOWNLOAD` bytes.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from vtcli.errors import UsageError, VideoDecodeError

SCHEMES = ("http", "https", "s3", "gs", "hf")
MAX_DOWNLOAD = 1 << 30
"""Bytes of a file that is downloaded whole because it cannot be read in ranges."""

WHOLE_BYTES = 2 << 20
"""Files up to this size are downloaded whole: one request is quicker than several."""

_BLOCK = 128 << 10
_MOST_BLOCKS = 32
"""Read at once where a file is read in order."""
_CACHED_BLOCKS = 256
_ATTEMPTS = 3
_SILENCE_SECONDS = 30
_TOP_LEVEL = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp", b"pnot")

spool_folder: str | None = None
"""Where this process puts temporary files; None: the system's folder for them."""


class RemotePath(str):
    """A URL that was opened once: where its bytes are, and how many were transferred.

    `spooled` is the temporary copy ("" where it is read in ranges), `size` in bytes.
    """

    size: int = -1
    spooled: str = ""
    bytes_read: int = 0

    @property
    def suffix(self) -> str:
        """The file extension of the URL's path, as of a `pathlib.Path`."""
        return os.path.splitext(self.partition("?")[0])[1]


def is_url(path: object) -> bool:
    """Whether a path is a URL rather than a local file."""
    return "://" in str(path)


@dataclass(frozen=True)
class RemoteStat:
    """Size in bytes (-1: not stated) and what tells whether the content changed."""

    size: int
    tag: str


def stat_url(url: str) -> RemoteStat:
    """Size and ETag, by one request; raises `VideoDecodeError` and `UsageError`."""
    with _translated(url):
        system, path = _system(url)
        about = system.info(path)
    tag = about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("LastModified")
    return RemoteStat(int(about.get("size") or -1), str(tag or "").strip('"'))


def expand_url(url: str) -> list[str]:
    """The videos that a pattern or a folder of a file store names; a URL of one file is itself."""
    from vtcli.video.extensions import has_video_suffix

    scheme = url.partition("://")[0]
    is_pattern = any(c in url for c in "*?[")
    if scheme not in ("s3", "gs", "hf") or not (is_pattern or not has_video_suffix(url)):
        return [url]
    with _translated(url):
        system, path = _file_store(url)
        found = system.glob(path) if is_pattern else system.find(path)
        return sorted(f"{scheme}://{name}" for name in found if has_video_suffix(name)) or [url]


def locate(url: str) -> RemotePath:
    """Find out how a file is best read, and download it where it must be.

    Raises `VideoDecodeError` (`not_found`, `io_error`, `limit`, `unsupported`) and `UsageError`.
    """
    about = stat_url(url)
    path = RemotePath(url)
    path.size = about.size
    if about.size < 0 or about.size > WHOLE_BYTES:
        head = _head(path)
        if head is not None and head[4:8] in _TOP_LEVEL:
            return path
    if about.size > MAX_DOWNLOAD:
        raise _too_large(url)
    path.spooled = _download(path)
    return path


@contextmanager
def opened(path: RemotePath) -> Iterator[RangeFile | IO[bytes]]:
    """The bytes of a located file, for libav."""
    if path.spooled:
        with open(path.spooled, "rb") as file:
            yield file
        return
    with _translated(path):
        system, name = _system(path)
        raw = system.open(name, "rb", cache_type="none", block_size=_BLOCK, size=path.size)
    with raw:
        yield RangeFile(path, raw)


class RangeFile(io.RawIOBase):
    """A seekable file that fetches the blocks that are read; `hide_media` leaves those out that
    hold nothing but frames.
    """

    def __init__(self, path: RemotePath, raw: Any) -> None:
        self.path, self.raw, self.size = path, raw, path.size
        self.position = 0
        self.hide_media = False
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._ahead = -1, 1
        self._boxes: list[tuple[int, int, bool]] = []  # start and end of contents; is it media

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self.size, self.position + size)
        pieces = []
        while self.position < end:
            stop, hidden = self._extent(self.position, end)
            piece = bytes(stop - self.position) if hidden else self._fetched(self.position, stop)
            pieces.append(piece)
            self.position = stop
        return b"".join(pieces)

    def _extent(self, start: int, end: int) -> tuple[int, bool]:
        """How far a read reaches without a change between media and the rest; is it hidden."""
        if not self.hide_media:
            return end, False
        while not self._boxes or self._boxes[-1][1] <= start:
            self._boxes.append(self._next_box(self._boxes[-1][1] if self._boxes else 0))
        for first, last, is_media in reversed(self._boxes):
            if first <= start < last:
                return min(end, last), is_media
        return end, False

    def _next_box(self, at: int) -> tuple[int, int, bool]:
        """The next box of an MP4 file's top level (ISO/IEC 14496-12, 4.2): of media, the contents;
        of another, all of it.
        """
        head = self._fetched(at, min(at + 16, self.size))
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        header = 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        if size < header:  # 0: up to the end of the file
            size = self.size - at
        end = min(at + size, self.size)
        if kind == b"mdat":
            self._boxes.append((at, min(at + header, end), False))
            return min(at + header, end), end, True
        return at, max(end, at + 1), False

    def _fetched(self, start: int, end: int) -> bytes:
        first, last = start // _BLOCK, (end - 1) // _BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[start - first * _BLOCK : end - first * _BLOCK]

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        # Twice as many at a time as long as the file is read in order.
        self._ahead = min(2 * self._ahead, _MOST_BLOCKS) if number == self._next_block else 1
        start = number * _BLOCK
        end = min(start + self._ahead * _BLOCK, self.size)
        data = _fetch(self.path, self.raw, start, end)
        for offset in range(0, len(data), _BLOCK):
            self._blocks[(start + offset) // _BLOCK] = data[offset : offset + _BLOCK]
        self._next_block = number + self._ahead
        while len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]


def _fetch(path: RemotePath, raw: Any, start: int, end: int) -> bytes:
    """A range, tried a few times; raises `VideoDecodeError`."""
    for attempt in range(_ATTEMPTS):
        try:
            with _translated(path):
                raw.seek(start)
                data: bytes = raw.read(end - start)
                path.bytes_read += len(data)
                if len(data) != end - start:
                    raise OSError(f"{len(data)} bytes came instead of {end - start}")
                return data
        except VideoDecodeError as error:
            if error.reason != "io_error" or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError


def _head(path: RemotePath) -> bytes | None:
    """The first bytes; None where the server gives no ranges."""
    if path.size < 0:
        return None
    try:
        with opened(path) as file:
            if not isinstance(file, RangeFile):
                return None
            # Not the first byte: from there a server without ranges sends all.
            _fetch(path, file.raw, path.size - 1, path.size)
            return file.read(16)
    except VideoDecodeError as error:
        if error.reason == "unsupported":
            return None
        raise


def _download(path: RemotePath) -> str:
    """A temporary copy, tried a few times; raises `VideoDecodeError`."""
    for attempt in range(_ATTEMPTS):
        handle, name = tempfile.mkstemp(path.suffix, "vt-", spool_folder)
        try:
            with os.fdopen(handle, "wb") as target, _translated(path):
                _copy(path, target)
            return name
        except BaseException as error:
            os.unlink(name)
            retry = isinstance(error, VideoDecodeError) and error.reason == "io_error"
            if not retry or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError


def _copy(path: RemotePath, target: IO[bytes]) -> None:
    system, name = _system(path)
    if 0 <= path.size <= WHOLE_BYTES:
        data = system.cat_file(name)
        path.bytes_read += len(data)
        target.write(data)
    else:
        with system.open(name, "rb", cache_type="readahead", block_size=4 << 20) as source:
            while data := source.read(1 << 20):
                path.bytes_read += len(data)
                if target.tell() + len(data) > MAX_DOWNLOAD:
                    raise _too_large(path)
                target.write(data)
    if path.size >= 0 and target.tell() != path.size:
        raise OSError(f"{target.tell()} bytes came instead of {path.size}")


def _too_large(url: str) -> VideoDecodeError:
    return VideoDecodeError(
        url,
        "limit",
        f"can only be read whole and is larger than {MAX_DOWNLOAD >> 30} GiB; convert it to MP4 on "
        "a server with range requests, or download it first",
    )


def _system(url: str) -> tuple[Any, str]:
    """The fsspec file system and the name in it."""
    if url.startswith("hf://"):
        return _hub_file(url)
    return _file_store(url)


def _file_store(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise VideoDecodeError(
            url, "unsupported", f"is a URL of another kind than {known}; download it first"
        )
    try:
        import fsspec

        options = _http_options() if scheme.startswith("http") else {}
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs libraries that are not installed ({error}): "
            "pip install 'vtcli[remote]'"
        ) from error
    return system, path


def _http_options(**client: Any) -> dict[str, Any]:
    """Of the HTTP client: a server that is silent for long is an error."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)
    return {"client_kwargs": {"timeout": timeout, **client}}


def _hub_file(url: str) -> tuple[Any, str]:
    """A file of a data set on the Hugging Face Hub: hf://datasets/ORG/NAME[@REVISION]/FILE."""
    from huggingface_hub import get_token, hf_hub_url

    kind, *parts = url.removeprefix("hf://").split("/")
    if kind != "datasets" or len(parts) < 3:
        raise VideoDecodeError(
            url, "unsupported", "is not of the form hf://datasets/ORG/NAME/FILE; correct the URL"
        )
    name, _, revision = parts[1].partition("@")
    address = hf_hub_url(
        f"{parts[0]}/{name}", "/".join(parts[2:]), repo_type="dataset", revision=revision or None
    )
    try:
        import fsspec

        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return fsspec.filesystem("http", **_http_options(headers=headers)), address
    except ImportError as error:
        raise UsageError(
            f"hf:// needs libraries that are not installed ({error}): pip install 'vtcli[remote]'"
        ) from error


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Whatever a file system raises, as a `VideoDecodeError`."""
    try:
        yield
    except (VideoDecodeError, UsageError, MemoryError):
        raise
    except Exception as error:
        raise _failure(str(url), error) from error


def _failure(url: str, error: Exception) -> VideoDecodeError:
    cause = error.__cause__
    # fsspec reports every failure to look at an HTTP resource as a missing file.
    told = cause if type(cause).__module__.startswith("aiohttp") else error
    status = getattr(told, "status", None)
    if status in (401, 403) or isinstance(error, PermissionError):
        why = f"HTTP {status}" if status else _words(error)
        return VideoDecodeError(url, "not_found", f"may not be read ({why}); check the credentials")
    if status in (404, 410) or (told is error and isinstance(error, FileNotFoundError)):
        return VideoDecodeError(url, "not_found", "does not exist; check the URL")
    if "range requests" in str(error):
        return VideoDecodeError(
            url, "unsupported", "is on a server without range requests; download it first"
        )
    why = f"HTTP {status}" if status else _words(told)
    return VideoDecodeError(
        url, "io_error", f"cannot be read ({why}); check the connection and try again"
    )


def _words(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__
