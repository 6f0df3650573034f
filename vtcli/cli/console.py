"""Standard streams and surroundings as they are in containers, old terminals and cron jobs.

A closed stream is replaced by the null device, results are UTF-8 whatever the locale, and control
characters in names are escaped on a terminal.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

# Colors; on standard error also what progress bars need: hide the cursor, erase and move up.
_COLORS = r"\x1b\[[0-9;]*m"
_BARS = _COLORS + r"|\x1b\[\?25[lh]|\x1b\[[0-2]?K|\x1b\[[0-9]*A"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_JSON = ("json", "jsonl")
_JSON_ERRORS = "vt-json"


class EscapingStream:
    """A terminal that shows control characters as `\\x1b` instead of obeying them."""

    def __init__(self, stream: Any, allowed: str) -> None:
        self._stream = stream
        self._pattern = re.compile(f"({allowed})|({_CONTROL})")

    def write(self, text: str) -> int:
        """Write text with its control characters escaped; returns the length of `text`."""
        self._stream.write(self._pattern.sub(lambda m: m[1] or f"\\x{ord(m[2]):02x}", text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write each text."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare(words: Sequence[str]) -> None:
    """Make the standard streams and the home folder usable; `words` are those of the command."""
    _open_closed_streams()
    _have_a_home()
    structured = [f for f in (*_JSON, "csv") if f in words or f"--format={f}" in words]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            _set_encoding(stream, structured)
    if _is_terminal(sys.stdout):
        sys.stdout = EscapingStream(sys.stdout, _COLORS)
    if _is_terminal(sys.stderr):
        sys.stderr = EscapingStream(sys.stderr, _BARS)


def _is_terminal(stream: Any) -> bool:
    return isinstance(stream, io.TextIOWrapper) and stream.isatty()


def _set_encoding(stream: io.TextIOWrapper, structured: Sequence[str]) -> None:
    """Results are UTF-8; a name that is not is written as its bytes, in JSON as `\\udc80`."""
    utf8 = stream.encoding.lower().replace("-", "") == "utf8"
    if stream is sys.stdout and (structured or not stream.isatty()):
        errors = _JSON_ERRORS if set(structured) & set(_JSON) else "surrogateescape"
        stream.reconfigure(encoding="utf-8", errors=errors)
    else:
        stream.reconfigure(errors="surrogateescape" if utf8 else "replace")


def _json_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a file name that the locale could not decode: as they are if they are UTF-8, else
    as JSON escapes of the surrogates that Python stands for them.
    """
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    try:
        raw = text.encode("utf-8", "surrogateescape")
        raw.decode("utf-8")
    except UnicodeError:
        raw = text.encode("utf-8", "backslashreplace")
    return raw, error.end


codecs.register_error(_JSON_ERRORS, _json_bytes)


def _open_closed_streams() -> None:
    """Open the null device in place of closed streams, so that no file gets their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _have_a_home() -> None:
    """Without $HOME and an entry in the user database, caches go to the temporary folder."""
    if os.path.expanduser("~") != "~":
        return
    user = f"vtcli-{os.getuid()}" if hasattr(os, "getuid") else "vtcli"
    os.environ["HOME"] = os.path.join(tempfile.gettempdir(), user)
    os.makedirs(os.environ["HOME"], mode=0o700, exist_ok=True)
    os.environ.setdefault("USER", user)


def option_like_file(words: Sequence[str]) -> str:
    """The first word that begins with `-` and is the name of a file; "" if there is none."""
    return next((w for w in words if w.startswith("-") and len(w) > 1 and os.path.exists(w)), "")
