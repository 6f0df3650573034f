"""The commands to type next, printed at the end of a command; only where a person reads along."""

from __future__ import annotations

import os
import shlex
import sys

TITLE = "next:"


def command(*words: object) -> str:
    """A command of vt as it is typed, such as `vt predict 'my clip.mp4'`."""
    return shlex.join(["vt", *map(str, words)])


def without_option(name: str) -> str:
    """The command of this process, as it was typed, without one of its options."""
    return command(*(word for word in sys.argv[1:] if word != name))


def print_next(*commands: str, format: str | None = "table") -> None:
    """Print commands to standard error, one a line.

    Nothing is printed unless the results are a table and both standard output and standard error
    are terminals, so that neither a pipe nor JSON on the screen has anything else in it.
    """
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
    if format != "table" or not (is_first and sys.stdout.isatty() and sys.stderr.isatty()):
        return
    title = TITLE
    for line in commands:
        print(f"{title:{len(TITLE)}} {line}", file=sys.stderr)
        title = ""
