"""Samples of a run are stored while it scores, and say no more and no less than before."""

import os
from pathlib import Path

import pytest

from tests.evaluation.test_evaluator import class_folders, evaluate, model_file
from vtcli.data.open import open_dataset
from vtcli.evaluation import evaluator, run_directory
from vtcli.evaluation.run_directory import RunDirectory, RunSample, sample_key
from vtcli.evaluation.run_samples import RunSamples


def test_keys_are_computed_when_asked_for_and_once(tmp_path: Path) -> None:
    videos = class_folders(tmp_path / "videos", 1)
    samples = open_dataset(videos).samples
    target_of = {sample.labels: (sample.labels,) for sample in samples}
    lazy = RunSamples(samples, target_of)
    assert len(lazy) == len(samples)
    os.utime(samples[0].path, (0, 0))
    expected = [RunSample(s.id, s.filename, sample_key(s), (s.labels,)) for s in samples]
    assert list(lazy) == expected  # with the time that the file has now
    os.utime(samples[0].path, (1, 1))
    assert lazy[0] == expected[0]


def test_a_list_is_stored_between_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "STORED_AT_ONCE", 0)
    monkeypatch.setattr(run_directory, "SAMPLES_AT_A_TIME", 1)
    videos = class_folders(tmp_path / "videos", 2)
    model = model_file(tmp_path / "m.safetensors")
    late, early = (tmp_path / name for name in ("late", "early"))
    evaluate(videos, model, late)
    monkeypatch.undo()
    evaluate(videos, model, early)
    stored, expected = (RunDirectory(folder).samples() for folder in (late, early))
    assert stored == expected
    assert len(stored) == len(open_dataset(videos).samples)
    (late / "samples.jsonl").unlink()  # as a run that ended before it was written
    evaluate(videos, model, late)
    assert RunDirectory(late).samples() == expected
    assert len(list((late / "scores").iterdir())) == 1  # nothing was scored again
