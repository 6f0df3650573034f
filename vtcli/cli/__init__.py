"""The command line: one file per command, each parses, calls one engine function and renders.

No file here imports PyTorch at module level: `vt --help` has to be there at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from vtcli._version import __version__
from vtcli.cli import convert, datasets, demo, doctor, eval, finetune, models, predict, profile
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

app = typer.Typer(
    name="vt",
    help="Recognize actions in video: four video transformers, every published checkpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vt {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback with an error."),
) -> None: ...


app.command("predict")(predict.predict)
app.add_typer(eval.app, name="eval")
app.command("finetune")(finetune.finetune)
app.command("convert")(convert.convert)
app.command("profile")(profile.profile)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. No traceback gets out without `--debug`."""
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    _write_any_name()
    try:
        code = app(words, prog_name="vt", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
            return _report("interrupted", EXIT_INTERRUPTED, debug=False)
        return code if isinstance(code, int) else EXIT_OK
    except VtError as error:
        return _report(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _report("interrupted", EXIT_INTERRUPTED, debug=False)
    except SystemExit as leaving:
        # What rich and Typer make of a reader that has gone (`vt ... | head`).
        if isinstance(leaving.__context__, BrokenPipeError):
            return _leave_quietly()
        raise
    except BrokenPipeError:
        return _leave_quietly()
    except Exception as error:
        return _unforeseen(error, debug)


def _write_any_name() -> None:
    """File names and bars are printed wherever they can be, and never stop an answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "replace")


def _leave_quietly() -> int:
    """The reader of our output has gone: nothing is left to say."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _unforeseen(error: Exception, debug: bool) -> int:
    """An exception that no part of the program made a sentence of."""
    # Typer's usage errors: it brings its parser's classes along without exporting them.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return EXIT_USAGE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _report("the disk is full; make room and run again", EXIT_DATA, debug)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "there is too little memory; take a smaller model, fewer views or another --device"
        return _report(text, EXIT_OUT_OF_MEMORY, debug)
    text = f"{type(error).__name__}: {error}"
    hint = "" if debug else "; this is a bug in vt: run again with --debug and report it"
    return _report(text + hint, EXIT_BUG, debug)


def _report(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"vt: error: {message}", file=sys.stderr)
    return code


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)
