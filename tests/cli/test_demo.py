"""`vt demo` runs every step offline and writes what it promises."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from vtcli.cli import run
from vtcli.errors import EXIT_DATA, EXIT_OK, DataError
from vtcli.synthetic.demo import Demo
from vtcli.synthetic.motion8 import MOTIONS
from vtcli.video.decode import probe

pytestmark = pytest.mark.slow
MODELS = {f"{arch}-nano.motion8" for arch in ("uniformerv2", "videoswin", "vivit", "xvit")}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of one demo, and its JSON output."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VT_CACHE", str(folder / "cache"))
        patch.setattr("sys.stdout", out)
        assert run(["demo", "-o", str(folder), "-j", "2", "--format", "json"]) == EXIT_OK
        return folder, out.getvalue()


def test_it_predicts_with_all_models_for_all_motions(shown: tuple[Path, str]) -> None:
    folder, text = shown
    table = json.loads(text)
    assert [clip["target"] for clip in table["clips"]] == list(MOTIONS)
    assert all(clip["predictions"].keys() == MODELS for clip in table["clips"])
    assert {cost["id"] for cost in table["costs"]} == MODELS
    assert all(cost["timings"] for cost in table["costs"])
    assert {e["model"] for e in table["evaluations"]} == MODELS
    assert all(evaluation["top1"] > 0.8 for evaluation in table["evaluations"])
    assert not (folder / "cache").exists()


def test_it_writes_reports_and_an_annotated_film(shown: tuple[Path, str]) -> None:
    folder, text = shown
    table = json.loads(text)
    for evaluation in table["evaluations"]:
        assert "<html" in Path(evaluation["report"]).read_text(encoding="utf-8")
    film, annotated = probe(folder / "film.mp4"), probe(table["annotated"])
    assert film.frames == annotated.frames == 24 * len(MOTIONS)
    labels = [segment["label"] for segment in table["timeline"]["segments"]]
    assert sum(label == motion for label, motion in zip(labels, MOTIONS, strict=False)) >= 6


def test_a_second_demo_takes_what_is_there(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    Demo(folder, seed=1).make_clips()
    with pytest.raises(DataError, match=r"holds another Motion-8 .*seed 1"):
        Demo(folder, seed=2).make_clips()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        Demo(folder, seed=1).make_clips()


def test_a_folder_that_is_not_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["demo", "-o", str(tmp_path)]) == EXIT_DATA
    assert "is not an empty folder; name another with -o" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
