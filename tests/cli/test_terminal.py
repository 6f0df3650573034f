"""Output on a terminal and in a pipe: nothing is cut, read as markup or overwritten."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vtcli.cli.progress import fetch_progress, file_progress
from vtcli.report.conversion import print_report
from vtcli.report.models import print_card, print_list
from vtcli.weights.registry import load_registry

REGISTRY = load_registry(extra=())
ROWS = list(REGISTRY.checkpoints.values())
BRACKETS = "q[/x][red]:smile:.safetensors"


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def _streams(monkeypatch: pytest.MonkeyPatch, out: bool, err: bool) -> tuple[Stream, Stream]:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    streams = Stream(out), Stream(err)
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


@pytest.mark.parametrize("width", [50, 80, 120, 160])
def test_the_list_fits_a_terminal_without_cut_cells(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    out, _ = _streams(monkeypatch, out=True, err=True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_list(ROWS, REGISTRY, "table")
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "…" not in text
    assert all(row.id in text for row in ROWS)
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("GMACs" in text) == (width >= 120)


def test_a_piped_list_has_every_column_and_one_line_per_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, _ = _streams(monkeypatch, out=False, err=True)
    monkeypatch.setenv("COLUMNS", "40")
    rows = [replace(ROWS[0], id="x" * 200 + BRACKETS)]
    print_list(rows, REGISTRY, "table")
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if rows[0].id in line)
    assert row.split()[-1] in ("alive", "likely", "unknown", "dead")
    assert any("GMACs" in line for line in lines)
    assert all(len(line) < 400 for line in lines)


def test_names_and_paths_are_printed_without_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_card(replace(ROWS[0], notes=BRACKETS), Path(BRACKETS), "table")
    assert capsys.readouterr().out.count(BRACKETS) == 2
    report = SimpleNamespace(
        source=BRACKETS,
        output=Path(BRACKETS),
        wrapper_keys=BRACKETS,
        model="m",
        arch="a",
        layout="vt",
        tensors_read=1,
        tensors_written=1,
        dropped=[(BRACKETS, "why")],
        labels=BRACKETS,
        permutation="",
        verified=0,
        logits_difference=None,
        sha256="0",
        renamed=[(BRACKETS, BRACKETS)],
        notes=[],
        tensors_sha256="0",
    )
    print_report(report, list_tensors=True)
    assert capsys.readouterr().out.count(BRACKETS) == 8


@pytest.mark.parametrize(
    ("out", "err", "to_file", "shown"),
    [
        (True, True, False, False),
        (True, True, True, True),
        (False, True, False, True),
        (False, False, True, False),
    ],
)
def test_the_progress_bar_never_shares_a_terminal_with_results(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool, to_file: bool, shown: bool
) -> None:
    stdout, stderr = _streams(monkeypatch, out, err)
    monkeypatch.setenv("COLUMNS", "200")
    with file_progress(2, to_file) as advance:
        advance(BRACKETS, 2, None)
    assert (BRACKETS in stderr.getvalue()) == shown
    assert stdout.getvalue() == ""


def test_redirected_results_stay_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = _streams(monkeypatch, out=False, err=True)
    monkeypatch.setenv("COLUMNS", "200")
    with fetch_progress() as progress:
        progress(BRACKETS, 1, 2)
        print("result")
    assert stdout.getvalue() == "result\n"
    assert BRACKETS in stderr.getvalue()
