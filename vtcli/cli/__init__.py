"""The command line: one file per command; each parses, calls one public function and renders.

A command's file is imported when it is called (`commands.py`); none imports PyTorch at module
level.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import typer

from vtcli._version import __version__
from vtcli.cli.commands import CommandGroup, import_help
from vtcli.cli.console import option_like_file, prepare
from vtcli.cli.options import RENAMED_OPTIONS
from vtcli.cli.progress import working
from vtcli.cli.suggestions import suggest_command
from vtcli.errors import (
    EXIT_BUG,
    EXIT_DATA,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OUT_OF_MEMORY,
    EXIT_TERMINATED,
    EXIT_USAGE,
    VtError,
)
from vtcli.runtime.csv_cells import CSV_SAFE
from vtcli.weights.repository import one_commit_each

# What a user's files and folders do not allow, whatever command meets it.
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)

app = typer.Typer(
    name="vt",
    cls=CommandGroup,
    help="Recognize actions in video with four video transformers and their published checkpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"vt {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False,
        "--version",
        "-V",
        callback=_print_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
    debug: bool = typer.Option(False, "--debug", help="Print a traceback with an error."),
    csv_safe: bool = typer.Option(
        False,
        "--csv-safe",
        help="Put an apostrophe before text in CSV that a spreadsheet would run as a formula.",
    ),
) -> None: ...


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; tracebacks are printed only with `--debug`."""
    debug = "--debug" in arguments
    words = [word for word in arguments if word not in ("--debug", "--csv-safe")]
    CSV_SAFE.set("--csv-safe" in arguments)
    signal.signal(signal.SIGTERM, _terminate)
    # A caller that ignores the signal, such as nohup, is obeyed.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _interrupt)
    prepare(words)
    if not words or {"-h", "--help"} & set(words):
        import_help()
    try:
        # For work that has no words of its own yet, such as the import of PyTorch.
        with one_commit_each(), working(words[0] if words else "", delay=0.3):
            code = app(words, prog_name="vt", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # how Typer reports Ctrl-C
            return _report("interrupted", EXIT_INTERRUPTED, debug=False)
        return code if isinstance(code, int) else EXIT_OK
    except VtError as error:
        return _report(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _report("interrupted", EXIT_INTERRUPTED, debug=False)
    except SystemExit as exit_:
        # How rich and Typer report a closed output (`vt ... | head`).
        if isinstance(exit_.__context__, BrokenPipeError):
            return _exit_quietly()
        raise
    except BrokenPipeError:
        return _exit_quietly()
    except Exception as error:
        return _report_other(error, debug, words)
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_quietly() -> int:
    """The reader of our output has closed it, as in `vt ... | head`: exit without a message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _report_other(error: Exception, debug: bool, words: Sequence[str]) -> int:
    """Report an exception that is not a `VtError`: wrong usage, a full disk, memory, or a bug."""
    # Typer's usage errors; Typer does not export the classes of its parser.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        if name := option_like_file(words):
            text = f"'{name}' begins with '-' and is read as an option; write ./{name}"
            return _report(text, EXIT_USAGE, debug)
        if unknown := _unknown_command(error):
            return _report(unknown, EXIT_USAGE, debug)
        _suggest_new_name(error)
        _in_plain_words(error)
        error.show()
        return EXIT_USAGE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _report(
            "the disk is full; free some space and run the command again", EXIT_DATA, debug
        )
    if isinstance(error, OSError) and "--install-completion" in words:
        text = f"the completion cannot be installed in the home folder ({error}); set HOME, or save"
        return _report(f"{text} what `vt --show-completion` prints", EXIT_DATA, debug)
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename is not None:
        name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
        text = f"{name!r}: {error.strerror}; change its permissions or choose another place"
        return _report(text, EXIT_DATA, debug)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "too little memory; use a smaller model or batch, fewer views or another --device"
        return _report(text, EXIT_OUT_OF_MEMORY, debug)
    text = f"{type(error).__name__}: {error}"
    hint = "" if debug else "; this is a bug in vt: run again with --debug and report it"
    return _report(text + hint, EXIT_BUG, debug)


def _unknown_command(error: Any) -> str | None:
    """The sentence for a word that does not name a command of `vt`; None for any other error."""
    found = re.fullmatch(r"No such command '(.*?)'\..*", error.format_message(), re.DOTALL)
    if found is None or error.ctx is None or error.ctx.parent is not None:
        return None
    return suggest_command(found[1], list(error.ctx.command.commands))


def _in_plain_words(error: Any) -> None:
    """Say what is wrong with a value without the words of the library that checked it."""
    text = str(getattr(error, "message", "")).removeprefix("Value error, ")
    text = text.replace("Input should be", "it must be", 1).split(", unable to parse")[0]
    error.message = text if text.endswith(".") or not text else f"{text}."


def _suggest_new_name(error: Any) -> None:
    """For an option that was renamed, suggest its new name where the command has it."""
    new_name = RENAMED_OPTIONS.get(getattr(error, "option_name", ""))
    if new_name and any(new_name in option.opts for option in error.ctx.command.params):
        error.possibilities = [new_name]


def _report(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"vt: error: {message}", file=sys.stderr)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    _end_workers()
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    _end_workers()
    raise SystemExit(EXIT_TERMINATED)


def _end_workers() -> None:
    """A decoder that hangs must not hold up the end of the command."""
    pools = sys.modules.get("vtcli.runtime.worker_pool")
    end_all = getattr(pools, "close_all_pools", None)  # the module may be half imported
    if end_all is not None:
        end_all()
