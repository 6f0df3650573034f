"""How the text files of users are encoded."""

from __future__ import annotations


def encoding_of(start: bytes) -> str:
    """The encoding of a text file by its first two bytes: UTF-16 by its byte order mark, else
    UTF-8, whose mark is left out.
    """
    return "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
