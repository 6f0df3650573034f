"""`vt profile`: counts for every selected model, times for named ones, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from tests import tiny
from vtcli.cli import run
from vtcli.profiling import benchmark

Streams = pytest.CaptureFixture[str]
TINY = ["profile", "-m", "tiny.k400-8f", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model without weights, and short measurements."""
    own = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(tmp_path / "none.pth"))
    monkeypatch.setenv("VT_REGISTRY", str(own))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(benchmark, "RUN_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATMUL_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATMUL_SIZE", 64)


def sentence(streams: Streams) -> str:
    out, err = streams.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("vt: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def rows(streams: Streams) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(streams.readouterr().out)))


def test_a_named_model_is_timed_and_patterns_are_only_counted(capsys: Streams) -> None:
    assert run([*TINY, "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["format"] == 2
    assert table["machine"]["device"] == "cpu"
    assert len(table["models"][0]["timings"]) == 1
    assert run(["profile", "tiny*", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["timings"] == []
    assert run([*TINY, "--no-time", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["timings"] == []


def test_without_arguments_each_architectures_default_is_counted(
    capsys: Streams,
) -> None:
    assert run(["profile", "--format", "csv"]) == 0
    table = {row["arch"]: row for row in rows(capsys)}
    assert set(table) == {"uniformerv2", "videoswin", "vivit", "xvit"}
    assert table["videoswin"]["params"] == "88048984"
    assert table["xvit"]["reported_gmacs_per_view"] == "283.3"


def test_the_table_has_paper_and_executed_counts_and_notes_on_wrong_reports(
    capsys: Streams,
) -> None:
    assert run(["profile", "uniformerv2-b.k400-8f", "xvit-b.k600-16f"]) == 0
    out = capsys.readouterr().out
    for words in ("GMACs/view", "executed", "148.1", "281.1", "[1] 1.6 T printed for 12 views"):
        assert words in out


def test_the_table_has_latency_memory_and_utilization(tmp_path: Path, capsys: Streams) -> None:
    clip = str(tiny.video(tmp_path / "clip.mp4"))
    words = ["--precision", "fp32", "-b", "1", "-b", "2", "--layers", "--clip", clip]
    assert run([*TINY, *words]) == 0
    out = capsys.readouterr().out
    for word in ("median", "p95", "videos/s", "peak memory", "peak matmul", "MFU of peak"):
        assert word in out
    for word in ("HFU of peak", "bound by", "blocks.1"):
        assert word in out


def test_csv_has_a_row_per_precision_and_batch_size(capsys: Streams) -> None:
    words = ["--precision", "fp32", "--precision", "bf16", "-b", "1", "-b", "2"]
    assert run([*TINY, *words, "--format", "csv"]) == 0
    table = rows(capsys)
    assert [(r["precision"], r["batch_size"]) for r in table] == [
        ("fp32", "1"),
        ("fp32", "2"),
        ("bf16", "1"),
        ("bf16", "2"),
    ]
    assert all(float(r["latency_median"]) > 0 for r in table)


def test_csv_with_layers_has_a_row_per_block(capsys: Streams) -> None:
    assert run(["profile", "tiny*", "--layers", "--format", "csv"]) == 0
    assert "blocks.0" in [row["block"] for row in rows(capsys)]


def test_the_output_format_is_that_of_the_extension(tmp_path: Path, capsys: Streams) -> None:
    out = tmp_path / "o.csv"
    assert run(["profile", "tiny*", "-o", str(out)]) == 0
    assert out.read_text().startswith("id,")
    assert run(["profile", "tiny*", "-o", str(tmp_path / "o.xyz")]) == 2
    assert "no known file extension" in sentence(capsys)


def test_a_batch_beyond_memory_ends_with_6_and_the_rest_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setattr(benchmark, "available_bytes", lambda: 1)
    assert run([*TINY, "-b", "1", "-b", "4096", "--precision", "fp32"]) == 6
    out, err = capsys.readouterr()
    assert "median" in out
    assert err.count("vt: error: ") == 1
    assert "a batch of 4096 in fp32 does not fit" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "uniformer-b"], "uniformerv2-b"),
        (["nothing*"], "unknown model"),
        (["-m", "tiny.k400-8f", "--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["-m", "tiny.k400-8f", "--precision", "int3"], "unknown precision"),
        (["-m", "tiny.k400-8f", "--device", "cuda:99"], "no device"),
        (["tiny*", "--plot", "plot.bmp"], "is not a plot file"),
    ],
)
def test_an_impossible_request_ends_with_2(words: list[str], says: str, capsys: Streams) -> None:
    assert run(["profile", *words]) == 2
    assert says in sentence(capsys)


def test_a_missing_clip_or_file_ends_with_4(tmp_path: Path, capsys: Streams) -> None:
    assert run(["profile", "tiny*", "--clip", str(tmp_path / "none.mp4")]) == 4
    assert "none.mp4" in sentence(capsys)
    assert run(["profile", "-m", str(tmp_path / "none.safetensors")]) == 4
    assert "none.safetensors" in sentence(capsys)


def test_a_plot_shows_accuracy_against_cost(tmp_path: Path, capsys: Streams) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    path = tmp_path / "cost.svg"
    assert run(["profile", "videoswin-?.k400*32f", "xvit-b.k600-16f", "--plot", str(path)]) == 0
    assert path.read_text().lstrip().startswith("<?xml")
    capsys.readouterr()
    assert run(["profile", "tiny*", "--plot", str(path)]) == 2
    assert "no" in sentence(capsys)


def test_a_missing_matplotlib_is_reported_once_with_the_extra_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["profile", "tiny*", "--plot", str(tmp_path / "a.png")]) == 2
    assert sentence(capsys).endswith("pip install 'vtcli[plot]'")
