"""`vt doctor`: what this installation can do, as text for a bug report."""

from __future__ import annotations

from vtcli.cli.options import FormatOption
from vtcli.errors import EXIT_OK


def doctor(format: FormatOption = "table") -> int:
    """Check versions, processor, decoders, cache and Hub; print the result for a bug report."""
    from vtcli.doctor import diagnose
    from vtcli.report.doctor import print_diagnosis

    print_diagnosis(diagnose(), format)
    return EXIT_OK
