"""Bytes that are hashed, written or checked are reported, up to all of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch

from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import CountedFile, counted_tensors

Reports = list[tuple[str, int, int | None]]


def test_hashing_reports_every_block(tmp_path: Path) -> None:
    data, reports = bytes(9_000_000), Reports()
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    digest = file_sha256(path, lambda *report: reports.append(report))
    assert digest == hashlib.sha256(data).hexdigest()
    assert len(reports) > 2
    assert reports[-1] == ("hashing weights.bin", len(data), len(data))


def test_a_file_counts_what_is_written_to_it() -> None:
    reports, buffer = Reports(), io.BytesIO()
    counted = CountedFile(buffer, "writing", 4, lambda *report: reports.append(report))
    assert counted.write(b"abc") == 3
    counted.write(b"defg")  # a trailer that is not in the total
    assert [done for _, done, _ in reports] == [3, 4]
    assert counted.getvalue() == b"abcdefg"


def test_tensors_are_counted_when_they_are_done() -> None:
    reports = Reports()
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.int64)}
    items = counted_tensors(tensors, "checking", lambda *report: reports.append(report))
    assert [name for name, _ in items] == ["a", "b"]
    assert reports == [("checking", 8, 32), ("checking", 32, 32)]
