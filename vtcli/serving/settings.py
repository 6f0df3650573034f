"""What a server allows: `ServeSettings`, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import os
import posixpath
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from vtcli.errors import UsageError
from vtcli.video.remote import is_url

MAX_TOPK = 1000


@dataclass(frozen=True)
class ServeSettings:
    """Address and limits of a server; raises `UsageError` for values that do not go together.

    allowed: folders and URL prefixes below which requests may name a video. max_bytes: of an
    upload. max_seconds: duration of a video. concurrent: requests that are decoded or scored at a
    time. queue: requests that may wait besides them; further ones are refused with status 429.
    upload_timeout: seconds without a byte of an upload. request_timeout: seconds of decoding and
    scoring. api_key: what clients must send, needed for an address that is not loopback.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allowed: tuple[str, ...] = ()
    max_bytes: int = 512 << 20
    max_seconds: float = 3600.0
    concurrent: int = 8
    queue: int = 32
    upload_timeout: float = 30.0
    request_timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.api_key and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from other machines, which needs a key; set VT_API_KEY"
                " or add --api-key KEY, or leave out --host"
            )
        for prefix in self.allowed:
            if not is_url(prefix) and not os.path.isdir(prefix):
                raise UsageError(
                    f"--allow takes a folder or a URL that ends with a slash, and '{prefix}' is "
                    "neither; create the folder first"
                )
            if is_url(prefix) and not prefix.endswith("/"):
                raise UsageError(f"a URL prefix ends with a slash: --allow {prefix}/")

    def allows(self, source: str) -> bool:
        """Whether a request may name this file or URL."""
        is_below = _url_is_below if is_url(source) else _file_is_below
        return any(is_below(source, one) for one in self.allowed if is_url(one) == is_url(source))


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _file_is_below(path: str, folder: str) -> bool:
    """Links are followed: what counts is where the file really is."""
    try:
        root = os.path.realpath(folder)
        return os.path.commonpath([os.path.realpath(path), root]) == root
    except ValueError:  # a null byte, or another drive
        return False


def _url_is_below(url: str, prefix: str) -> bool:
    try:
        asked, root = urlsplit(url), urlsplit(prefix)
    except ValueError:
        return False
    place = unquote(asked.path)
    is_plain = posixpath.normpath(place) == place and "\\" not in place
    same_server = (asked.scheme, asked.netloc) == (root.scheme, root.netloc)
    return same_server and is_plain and place.startswith(unquote(root.path) or "/")
