"""Which ids, repositories, revisions, file names and addresses are accepted.

They come from registry files, model cards and the command line, and become paths of the cache and
requests; a strict set of characters keeps every path in its folder and every request on https.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_WORD = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
_ID = re.compile(rf"{_WORD}")
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_.][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(rf"{_WORD}(/{_WORD})*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=, -]*(/[A-Za-z0-9_][A-Za-z0-9._+=, -]*)*")
_MAX_LENGTH = 200


def is_id(text: str) -> bool:
    """Whether a text can be a checkpoint id: letters, digits and `._+-`."""
    return _matches(_ID, text)


def is_repo(text: str) -> bool:
    """Whether a text can be `org/name` on the Hub."""
    return _matches(_REPO, text)


def is_revision(text: str) -> bool:
    """Whether a text can be a branch, a tag, a commit or a reference such as `refs/pr/3`."""
    return _matches(_REVISION, text)


def is_file(text: str) -> bool:
    """Whether a text can be a file in a repository, with folders."""
    return _matches(_FILE, text)


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= _MAX_LENGTH and ".." not in text and bool(pattern.fullmatch(text))


def is_safe_url(url: str, trusted_host: str = "") -> bool:
    """Whether an address is https, or http on this machine or on a host that the user named."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or not url.isprintable() or " " in url or parts.username is not None:
        return False
    if parts.scheme == "https":
        return True
    return parts.scheme == "http" and (parts.netloc == trusted_host or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
