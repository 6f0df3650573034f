"""`vt doctor`: what this installation can do, as a block for a bug report."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vtcli.errors import EXIT_OK


def doctor(
    format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print.")
    ] = "table",
) -> int:
    """Check versions, processor, decoders, cache and Hub; print a block for a bug report."""
    from vtcli.doctor import diagnose
    from vtcli.report.doctor import print_diagnosis

    print_diagnosis(diagnose(), format)
    return EXIT_OK
