"""The bundled small models recognize motion: in new clips, played backwards, and not in still ones.

Results on 800 clips of another seed are in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.nano import accuracy_on, frozen_clips, reversed_clips
from vtcli.cli import run
from vtcli.data.open import open_dataset
from vtcli.errors import EXIT_OK
from vtcli.synthetic.motion8 import make_motion8

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new test split."""
    folder = tmp_path_factory.mktemp("made") / "motion8"
    return make_motion8(folder, clips={"test": 160}, seed=4, workers=2)


@pytest.fixture(scope="module")
def backward_clips(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reversed")
    return reversed_clips(open_dataset("motion8", made, "test"), folder)


@pytest.fixture(scope="module")
def still_clips(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return frozen_clips(open_dataset("motion8", made, "test"), tmp_path_factory.mktemp("still"))


@pytest.mark.parametrize("model", MODELS)
def test_nine_of_ten_new_clips_are_classified_correctly(
    model: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--dataset", "motion8", "--data-root", str(made), "-m", model]
    assert run([*words, "-o", str(tmp_path / "run"), "--format", "json"]) == EXIT_OK
    (head,) = json.loads(capsys.readouterr().out)["heads"]
    assert head["n_read"] == 160
    assert head["top1_read"]["value"] >= 0.9


@pytest.mark.parametrize("model", MODELS)
def test_a_clip_played_backwards_is_classified_as_the_partner_class(
    model: str, backward_clips: dict[str, str]
) -> None:
    assert accuracy_on(model, backward_clips) >= 0.85


@pytest.mark.parametrize("model", MODELS)
def test_a_single_frame_is_not_enough(model: str, still_clips: dict[str, str]) -> None:
    assert accuracy_on(model, still_clips) <= 0.2
