"""Exported scores are the stored logits, and NumPy, pandas and pyarrow open them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from sklearn.metrics import f1_score, log_loss

from tests.evaluation.harness import CLASSES, evaluated, scores_of, vt_here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, run, shown = evaluated(tmp_path_factory.mktemp("export"))
    assert "macro F1" in shown
    return run


def stored(run: Path) -> dict[tuple[str, int], np.ndarray]:
    return {
        key: np.frombuffer(base64.b64decode(logits["action"]), "<f4")
        for key, logits in scores_of(run).items()
    }


def test_npz_holds_the_stored_logits_and_opens_without_pickle(run: Path, tmp_path: Path):
    done = vt_here("eval", "export", run, "-o", tmp_path / "scores.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "16 videos x 2 views" in done.stderr
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        assert file["action_logits"].shape == (16, 2, 8)
        assert file["action_logits"].dtype == np.float32
        for (sample, view), logits in stored(run).items():
            row = file["id"].tolist().index(sample)
            assert np.array_equal(file["action_logits"][row, view], logits)
        assert file["action_classes"].tolist() == list(CLASSES)
        names = [sample.split("/")[0].replace("_", " ") for sample in file["id"].tolist()]
        assert [CLASSES[k] for k in file["action_target"][:, 0]] == names
        assert json.loads(str(file["settings"]))["view_fusion"]


def test_parquet_is_opened_by_pandas_and_pyarrow(run: Path, tmp_path: Path):
    path = tmp_path / "scores.parquet"
    assert vt_here("eval", "export", run, "-o", path).returncode == 0
    frame = pandas.read_parquet(path)
    assert list(frame) == ["id", "path", "view", "action_target", "action_logits"]
    expected = stored(run)
    assert len(frame) == len(expected) == 32
    for row in frame.itertuples():
        assert np.array_equal(row.action_logits, expected[row.id, row.view])
    metadata = pyarrow.parquet.read_schema(path).metadata
    assert json.loads(metadata[b"action_classes"]) == list(CLASSES)


def test_the_summary_has_the_confidence_metrics_of_the_exported_scores(run: Path, tmp_path: Path):
    vt_here("eval", "export", run, "-o", tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as file:
        logits, target = file["action_logits"].astype(float), file["action_target"][:, 0]
        assert "prob" in json.loads(str(file["settings"]))["view_fusion"]
    views = np.exp(logits - logits.max(2, keepdims=True))
    fused = (views / views.sum(2, keepdims=True)).mean(1)
    head = json.loads((run / "summary.json").read_text())["heads"][0]
    assert head["confidence"]["nll"] == pytest.approx(log_loss(target, fused, labels=range(8)))
    assert head["macro_f1"] == pytest.approx(f1_score(target, fused.argmax(1), average="macro"))
    rescored = vt_here("eval", "rescore", run, "--format", "json")
    assert json.loads(rescored.stdout)["heads"][0]["confidence"] == head["confidence"]
    page = (run / "report.html").read_text()
    assert page.count("<rect") >= sum(1 for b in head["confidence"]["reliability"] if b["n"])
    assert "risk-coverage" in page


def test_another_extension_or_no_run_is_one_sentence(run: Path, tmp_path: Path):
    wrong = vt_here("eval", "export", run, "-o", tmp_path / "scores.csv")
    assert wrong.returncode == 2
    assert "use the extension .npz or .parquet" in wrong.stderr
    missing = vt_here("eval", "export", tmp_path, "-o", tmp_path / "scores.npz")
    assert missing.returncode == 7
    assert "does not contain an evaluation" in missing.stderr
