"""What a conversion did, for people."""

from __future__ import annotations

from typing import Any


def print_report(report: Any, list_tensors: bool) -> None:
    """Print an engine.converter.Report: the file, what became of its tensors, class order,
    digest.
    """
    from rich.console import Console
    from rich.text import Text

    # Paths and tensor names are printed as they are: brackets and colons in them mean nothing.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    inside = f" under '{report.wrapper_keys}'" if report.wrapper_keys else ""
    source, output = (str(report.source), "bold"), (str(report.output), "bold")
    console.print(Text.assemble(source, " -> ", output))
    console.print(f"  model      {report.model or report.arch}")
    console.print(f"  layout     {report.layout}{inside}")
    console.print(
        f"  tensors    {report.tensors_read} read, {report.tensors_written} written, "
        f"{len(report.dropped)} not used"
    )
    for reason, names in _by_reason(report.dropped).items():
        console.print(f"             {len(names)} x {reason}, such as {names[0]}")
    console.print(f"  classes    {report.labels}" + _order(report.permutation))
    if report.verified:
        console.print(f"  verified   {report.verified} tensors come back bit for bit, both ways")
    console.print(f"  sha256     {report.sha256}")
    if list_tensors:
        for theirs, ours in report.renamed:
            console.print(f"  {theirs} -> {ours}")
        for name, why in report.dropped:
            console.print(f"  {name} not used: {why}")


def _by_reason(dropped: list[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in dropped:
        reasons.setdefault(why, []).append(name)
    return reasons


def _order(permutation: str) -> str:
    return (
        f"; rows re-ordered by {permutation}" if permutation else "; rows kept in the file's order"
    )
