"""`vt datasets list` and `show`: the catalog, a card, an annotation's content; no decoding."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.cli import run

Streams = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VT_DATA", raising=False)


def test_list_names_every_dataset_in_each_format(capsys: Streams) -> None:
    assert run(["datasets", "list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 15
    ssv2 = next(row for row in rows if row["name"] == "ssv2")
    assert (ssv2["classes"], ssv2["split"], ssv2["samples"]) == ("174", "validation", 24777)
    assert run(["datasets", "list", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in table] == [row["name"] for row in rows]
    assert run(["datasets", "list"]) == 0
    out = capsys.readouterr().out
    assert all(row["title"] in out for row in rows)


def test_listing_does_not_import_pytorch() -> None:
    code = (
        "import sys; from vtcli.cli import run; run(['datasets', 'list']); "
        "print([m for m in ('torch', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_card_shows_layout_protocol_and_published_results(capsys: Streams) -> None:
    assert run(["datasets", "show", "something-something-v2"]) == 0
    out = capsys.readouterr().out
    assert "20bn-something-something-v2/{id}.webm" in out
    assert "never: class names include directions" in out
    assert "uniformerv2-b-local.ssv2-16f" in out
    assert "69.5" in out
    assert run(["datasets", "show", "epic100"]) == 0
    assert "CC-BY-NC-4.0" in capsys.readouterr().out
    assert run(["datasets", "show", "epic100", "--format", "json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert [head["size"] for head in card["heads"]] == [97, 300]
    assert card["dataset"] is None
    assert card["checkpoints"][0]["views"] == "4x1"


def test_a_card_with_a_data_root_shows_what_is_stored_there(
    tmp_path: Path, capsys: Streams
) -> None:
    root = str(layouts.ssv2(tmp_path))
    (tmp_path / "20bn-something-something-v2" / "78687.webm").unlink()
    assert run(["datasets", "show", "ssv2", "--data-root", root]) == 0
    out = capsys.readouterr().out
    assert "validation.json: Something-Something v2 json" in out
    assert "1 missing" in out
    args = ["datasets", "show", "ssv2", "--data-root", root, "--split", "train"]
    assert run([*args, "--format", "json"]) == 0
    dataset = json.loads(capsys.readouterr().out)["dataset"]
    assert (dataset["samples"], dataset["missing"], dataset["split"]) == (1, 0, "train")
    counts = {c["name"]: c["samples"] for c in dataset["classes"]["action"]}
    assert len(counts) == 174
    assert counts["Holding something next to something"] == sum(counts.values()) == 1


def test_a_path_shows_classes_with_counts_and_first_samples(
    tmp_path: Path, capsys: Streams
) -> None:
    root = layouts.class_folders(tmp_path / "pets")
    assert run(["datasets", "show", str(root)]) == 0
    out = capsys.readouterr().out
    assert "pets: folder of class folders, labels by name, 2 classes" in out
    assert "tom & co #1.mp4" in out
    assert run(["datasets", "show", str(root), "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [(c["name"], c["samples"]) for c in table["classes"]["action"]] == [
        ("cat", 2),
        ("dog", 2),
    ]
    assert table["first"][-1]["labels"] == ["dog"]


def test_segments_and_heads_are_shown(tmp_path: Path, capsys: Streams) -> None:
    root = str(layouts.epic100(tmp_path))
    assert run(["datasets", "show", root, "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["first"][1]["start"] == 62.5
    assert set(table["classes"]) == {"verb", "noun"}
    assert table["first"][0]["labels"] == ["take", "plate"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "neither a known dataset nor a path"),
        (["./nope.csv"], 4, "check the path"),
        (["k400", "--split", "val"], 7, "the variable VT_DATA is not set"),
        (["{list}"], 7, "mmaction2 and pyslowfast"),
        (["{list}", "--annotations", "yaml"], 2, "unknown annotation format 'yaml'"),
        (["{list}", "--split", "val", "--annotations", "mmaction2"], 7, "names no splits"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(
    tmp_path: Path, capsys: Streams, arguments: list[str], code: int, says: str
) -> None:
    listed = layouts.text(tmp_path / "list.txt", "a.mp4 12 0", "b.mp4 3 1")
    words = [word.format(list=listed) for word in arguments]
    assert run(["datasets", "show", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


def test_the_format_can_be_given(tmp_path: Path, capsys: Streams) -> None:
    listed = layouts.text(tmp_path / "list.txt", "a.mp4 12 0", "b.mp4 3 1")
    args = ["datasets", "show", str(listed), "--annotations", "pyslowfast"]
    assert run(args) == 0
    assert "PySlowFast csv 'path frames label'" in capsys.readouterr().out
