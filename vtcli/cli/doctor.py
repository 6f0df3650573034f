"""`vt doctor`: what this installation can do, as text for a bug report."""

from __future__ import annotations

from vtcli.cli.options import FormatOption
from vtcli.errors import EXIT_OK


def doctor(format: FormatOption = "table") -> int:
    """Check versions, processor, decoders, cache and Hub; print the result for a bug report."""
    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import working
    from vtcli.doctor import diagnose
    from vtcli.report.doctor import print_diagnosis

    with working("checking this machine"):
        diagnosis = diagnose()
    print_diagnosis(diagnosis, format)
    print_next(command("demo"), format=format)
    return EXIT_OK
