"""A review names wrong labels first, verifies duplicates by their frames, and writes two files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from tests.evaluation.harness import CLASSES, class_folders, model_file, vt_here
from vtcli.data.open import open_dataset
from vtcli.training import review

NAMES = ("a", "b", "c")


def clusters(count: int = 60) -> tuple[np.ndarray, list[int]]:
    """Logits [N,K] of three clusters and their labels."""
    rng = np.random.default_rng(0)
    target = [n % 3 for n in range(count)]
    return 4 * np.eye(3)[target] + rng.standard_normal((count, 3)), target


def test_wrong_labels_come_first() -> None:
    logits, target = clusters()
    wrong = {5: 0, 17: 1, 40: 2}
    for row, label in wrong.items():
        assert target[row] != label
        target[row] = label
    found = review._cross_validated(logits, target)
    assert found is not None
    items = sorted(review._improbable_labels(*found, target, NAMES), key=lambda i: -i.score)
    assert {item.row for item in items[:3]} == set(wrong)
    assert items[0].detail.startswith("labeled ")


def test_a_class_of_one_video_is_not_judged() -> None:
    logits, target = clusters(9)
    target[0] = 2
    target[3:] = [1] * 6
    found = review._cross_validated(logits, target)
    assert found is not None
    assert found[1] == [row for row, label in enumerate(target) if target.count(label) > 1]
    assert review._cross_validated(logits[:3], [0, 1, 2]) is None


def test_the_divergence_of_views_is_that_of_scipy() -> None:
    agreeing = np.array([[3.0, 0, 0], [2, 1, 0]])
    split = np.array([[3.0, 0, 0], [0, 2, 1]])
    (item,) = review._views([agreeing, split], NAMES)
    one, other = review._softmax(split)
    assert item.row == 1
    assert item.score == pytest.approx(jensenshannon(one, other) ** 2)
    assert item.detail in ("a in 1, b in 1 of 2 views", "b in 1, a in 1 of 2 views")


def test_uncertain_is_a_second_class_of_half_the_probability() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.4, 0.39, 0.21]])
    items = {item.row: item for item in review._uncertain(p, NAMES)}
    assert set(items) == {0, 2}
    assert items[2].score > items[0].score
    assert items[0].detail == "a 50%, b 30%"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run in which one video occurs twice, with two labels."""
    folder = tmp_path_factory.mktemp("review")
    data = class_folders(folder / "data", 2)
    first, second = (data / name.replace(" ", "_") for name in CLASSES[:2])
    shutil.copy(sorted(first.iterdir())[0], second / "a copy <b>.mp4")
    model = model_file(folder / "tiny.safetensors")
    words = ["eval", "--dataset", data, "-m", model, "-o", folder / "run", "-j", "1"]
    assert vt_here(*words).returncode == 0
    return folder / "run"


def test_a_page_shows_every_kind_with_frames(run: Path, tmp_path: Path) -> None:
    done = vt_here("review", run, "-o", tmp_path / "r.html", "--most", "3", "-j", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "1 duplicate" in done.stderr
    page = (tmp_path / "r.html").read_text()
    assert all(title in page for title in review.TITLES.values())
    assert page.count("<img") >= 8
    assert "a copy &lt;b&gt;.mp4" in page
    assert "a copy <b>" not in page


def test_label_studio_has_label_prediction_and_reasons(run: Path, tmp_path: Path) -> None:
    output = run.parent / "tasks.json"
    assert vt_here("review", run, "-o", output, "-j", "1").returncode == 0
    tasks = json.loads(output.read_text())
    reasons = [task["data"]["review"] for task in tasks]
    assert any("Near-duplicates with different labels" in reason for reason in reasons)
    assert all(task["predictions"][0]["result"][0]["value"]["choices"] for task in tasks)
    samples = open_dataset(output).samples
    assert len(samples) == len(tasks)
    assert all(sample.path.is_file() for sample in samples)


def test_what_cannot_be_reviewed_is_one_sentence(run: Path, tmp_path: Path) -> None:
    done = vt_here("review", run, "-o", tmp_path / "r.csv")
    assert done.returncode == 2
    assert "use the extension .html or .json" in done.stderr
    done = vt_here("review", tmp_path, "-o", tmp_path / "r.html")
    assert done.returncode == 7
    assert "does not contain an evaluation" in done.stderr
