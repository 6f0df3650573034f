"""The result of `vt convert` as text: the file, its tensors, class order and digest.

The record is `vtcli.weights.convert.ConversionReport`, for either direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtcli.inference.quantize import QuantizationReport
    from vtcli.weights.convert import ConversionReport


def print_report(report: ConversionReport, list_tensors: bool) -> None:
    """Print a report on standard output; list_tensors: also every tensor's old and new name."""
    from rich.console import Console
    from rich.text import Text

    # Paths and tensor names are printed as they are, without markup or emoji codes.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    inside = f" under '{report.wrapper_keys}'" if report.wrapper_keys else ""
    source, output = (str(report.source), "bold"), (str(report.output), "bold")
    console.print(Text.assemble(source, " -> ", output))
    console.print(f"  model      {report.model or report.arch}")
    console.print(f"  layout     {report.layout}{inside}")
    console.print(
        f"  tensors    {report.tensors_read} read, {report.tensors_written} written, "
        f"{len(report.dropped)} unused"
    )
    for reason, names in _by_reason(report.dropped).items():
        console.print(f"             {len(names)} x {reason}, for example {names[0]}")
    classes = f"{report.labels}; {_order(report.permutation)}".removeprefix("; ")
    console.print(f"  classes    {classes}")
    if report.verified:
        console.print(f"  verified   {report.verified} tensors bit-identical after a round trip")
    if report.logits_difference is not None:
        difference = f"{report.logits_difference:.1e}"
        console.print(
            f"  logits     on a random clip differ by at most {difference} from "
            f"{report.logits_library}"
        )
    if report.tensors_sha256:
        console.print(f"  digest     {report.tensors_sha256} of the tensors alone")
    for note in report.notes:
        console.print(f"  note       {note}")
    console.print(f"  sha256     {report.sha256}")
    if list_tensors:
        for old, new in report.renamed:
            console.print(f"  {old} -> {new}")
        for name, reason in report.dropped:
            console.print(f"  {name} unused: {reason}")


def print_quantization(report: QuantizationReport) -> None:
    """Print what int8 changes on standard output."""
    fp32, int8 = (report.milliseconds[name] for name in ("fp32", "int8"))
    print(f"  int8       calibrated on {report.calibration} videos")
    print(
        f"  agreement  {report.same_first} of {report.held_out} other videos have the same first "
        f"class as in fp32; probabilities differ by at most {100 * report.largest_difference:.1f} %"
    )
    print(f"  speed      {int8:.1f} ms a clip, {fp32:.1f} in fp32: {fp32 / int8:.2f}x")
    for failure in report.failures:
        print(f"  skipped    {failure}")


def _by_reason(dropped: list[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in dropped:
        reasons.setdefault(reason, []).append(name)
    return reasons


def _order(permutation: str) -> str:
    return f"reordered by {permutation}" if permutation else "in the order of the source file"
