"""Two processes with half the batch each train like one, replicated (DDP) and sharded (FSDP), and
resume from each other's states.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.harness import ROOT, class_folders, environment, wait_for
from tests.training.harness import STEADY, losses, model_file, plan_for, same, trainer, weights
from vtcli.errors import DataError
from vtcli.training.checkpoint import FILE, SHARDS, SHARDS_INDEX, CheckpointSlot, find_state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
JOBS = [("uniformerv2", "ddp"), ("videoswin", "ddp"), ("videoswin", "fsdp")]
STEPS: dict[str, Any] = {"epochs": 17, "freeze_bn": True, "model_ema": False}
FITTED = {**STEPS, "epochs": 1, "head_init": "probe"}
LIMIT = 200  # seconds
SIX = {**STEPS, "epochs": 1, "batch_size": 3}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings with two processes, in one launch; one video of each class is corrupt."""
    folder = tmp_path_factory.mktemp("together")
    data = class_folders(folder / "data", 5, ["a", "b", "c"])
    for home in data.iterdir():
        min(home.iterdir()).write_bytes(b"no video at all")
    jobs = []
    for arch, parallel in JOBS:
        model = model_file(folder / f"{arch}.safetensors", arch)
        job = {"data": str(data), "model": str(model), "parallel": parallel}
        name = f"{arch}-{parallel}"
        jobs.append({**job, "name": name, "recipe": {**STEPS, "batch_size": 2}})
    synchronized = {**STEPS, "epochs": 4, "freeze_bn": False, "batch_size": 2}
    jobs.append({**jobs[0], "name": "synchronized", "recipe": synchronized})
    jobs.append({**jobs[2], "name": "accumulated", "recipe": {**STEPS, "epochs": 2, **_halves()}})
    jobs.append({**jobs[1], "name": "fitted", "recipe": {**FITTED, "batch_size": 2}})
    half = {**jobs[2], "name": "half", "recipe": SIX, "save_every": 1, "killed_after": 2}
    jobs += [half, *_broken(jobs[0]), *_other_kind(jobs[0])]
    words = _command(folder, "unbroken")
    jobs.append({"name": "command", "command": [*words, "--parallel", "fsdp"]})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.training.harness", str(folder)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _broken(like: dict[str, Any]) -> list[dict[str, Any]]:
    """A sharded training, and the same one interrupted in every way."""
    recipe = {"epochs": 2, "batch_size": 3, "clip_grad": 1.0}
    whole = {**like, "parallel": "fsdp", "recipe": recipe, "save_every": 1, "name": "whole"}
    resumed = {**whole, "run": "broken", "resume": True}
    return [
        whole,
        {**resumed, "name": "killed", "resume": False, "killed_after": 3},
        {**resumed, "name": "no room", "full": "seen"},
        {**resumed, "name": "no more room", "full": "unseen"},
        {**resumed, "name": "killed again", "damaged": True, "killed_after": 4},
        {**resumed, "name": "resumed"},
    ]


def _other_kind(like: dict[str, Any]) -> list[dict[str, Any]]:
    """A sharded training that resumes a state of a replicated one."""
    one = {**like, "recipe": {**STEPS, "epochs": 1, "batch_size": 2}, "run": "both"}
    return [
        {**one, "name": "copies", "save_every": 1, "killed_after": 2},
        {**one, "name": "shards", "parallel": "fsdp", "resume": True, "only_saved": True},
    ]


def _command(folder: Path, run: str) -> list[str]:
    words = ["finetune", "--dataset", str(folder / "data"), "-o", str(folder / run)]
    words += ["-m", str(folder / "videoswin.safetensors"), "--epochs", "2", "--batch-size", "2"]
    return [*words, "--lr", "1e-3", "--device", "cpu", "-j", "1"]


def _halves() -> dict[str, int]:
    return {"batch_size": 1, "grad_accum_steps": 2}


def alone(folder: Path, arch: str, **changes: Any) -> list[float]:
    plan = plan_for(
        folder / "data", folder / f"{arch}.safetensors", replace(STEADY, **{**STEPS, **changes})
    )
    return losses(trainer(folder / f"alone-{arch}-{len(changes)}", plan))


@pytest.mark.parametrize(("arch", "parallel"), JOBS)
def test_two_processes_follow_the_losses_of_one(together: Path, arch: str, parallel: str) -> None:
    two = json.loads((together / f"{arch}-{parallel}.json").read_text())
    one = alone(together, arch)
    assert len(one) == 51
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


def test_batchnorm_sees_the_clips_of_all_processes(together: Path) -> None:
    two = json.loads((together / "synchronized.json").read_text())
    one = alone(together, "uniformerv2", epochs=4, freeze_bn=False)
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    stored, expected = (
        weights(together / name / "last.safetensors")
        for name in ("synchronized", "alone-uniformerv2-2")
    )
    statistics = [name for name in stored if "running_" in name]
    assert statistics
    for name in statistics:
        assert torch.allclose(stored[name], expected[name], atol=1e-4)


def test_two_processes_fit_the_new_classifier_as_one_does(together: Path) -> None:
    two = json.loads((together / "fitted.json").read_text())
    one = alone(together, "videoswin", **FITTED)
    assert abs(one[0] - math.log(3)) > 0.01  # not the zeros that it had
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


def test_shards_accumulate_gradients(together: Path) -> None:
    two = json.loads((together / "accumulated.json").read_text())
    one = alone(together, "videoswin", epochs=2)
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


def test_a_sharded_training_writes_one_file_of_weights(together: Path) -> None:
    sharded, whole = (
        weights(together / f"videoswin-{parallel}" / "last.safetensors")
        for parallel in ("fsdp", "ddp")
    )
    assert sharded.keys() == whole.keys()
    assert all((sharded[name] - whole[name]).abs().max() < 1e-3 for name in whole)
    assert not same(sharded, weights(together / "videoswin.safetensors"))


def found(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_killed_sharded_training_ends_with_the_same_weights(together: Path) -> None:
    assert found(together, "killed") == [3]
    assert found(together, "killed again") == [4]
    assert (together / "broken" / SHARDS).is_dir()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(*(weights(together / run / name) for run in ("whole", "broken")))
    ends = [find_state(together / run) for run in ("whole", "broken")]
    assert ends[0]
    assert ends[1]
    rows = [[(r["val_loss"], r["train_loss"]) for r in s.position.history] for s in ends if s]
    assert rows[0] == rows[1]


def test_each_process_saves_only_its_shards(together: Path) -> None:
    sizes = [path.stat().st_size for path in (together / "whole" / SHARDS).glob("*.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 0.7 * sum(sizes)


@pytest.mark.parametrize(
    ("job", "words"), [("no room", "the disk is full"), ("no more room", "File too large")]
)
def test_a_full_disk_is_a_sentence_in_every_process(together: Path, job: str, words: str) -> None:
    sentences = found(together, job)
    assert len(sentences) == 2
    assert all(words in sentence for sentence in sentences)


def test_replicated_and_sharded_trainings_resume_each_other(together: Path, tmp_path: Path) -> None:
    copies = weights(together / "both" / FILE)
    shutil.copytree(together / "both" / SHARDS, tmp_path / SHARDS)
    one = replace(STEADY, **{**STEPS, "epochs": 1})
    plan = plan_for(together / "data", together / "uniformerv2.safetensors", one)
    alone = trainer(tmp_path, plan, resume=True)
    assert alone.position.steps_done == 1
    alone.save()
    assert same(copies, weights(tmp_path / FILE))


def test_one_process_resumes_a_training_of_two(together: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "half" / SHARDS, tmp_path / SHARDS)
    recipe = replace(STEADY, **{**SIX, "batch_size": 6})
    plan = plan_for(together / "data", together / "videoswin.safetensors", recipe)
    one = trainer(tmp_path, plan, resume=True)
    assert one.position.steps_done == 1
    one.fit()
    whole = trainer(tmp_path / "whole", plan)
    whole.fit()
    resumed, uninterrupted = one.position.history, whole.position.history
    for key in ("train_loss", "val_loss"):
        expected = [row[key] for row in uninterrupted]
        assert [row[key] for row in resumed] == pytest.approx(expected, abs=1e-4)


def test_the_latest_state_of_either_form_is_used(together: Path, tmp_path: Path) -> None:
    for name in (SHARDS, CheckpointSlot(tmp_path, SHARDS).previous.name):
        shutil.copytree(together / "whole" / name, tmp_path / name)
    shutil.copy(together / "both" / FILE, tmp_path)
    newest = find_state(tmp_path)
    shutil.rmtree(tmp_path / SHARDS)
    before = find_state(tmp_path)
    shutil.rmtree(CheckpointSlot(tmp_path, SHARDS).previous)
    copies = find_state(tmp_path)
    found = [
        (s.path.name, s.position.epoch, s.position.step) for s in (newest, before, copies) if s
    ]
    assert found == [(SHARDS, 2, 0), ("state.previous.dcp", 1, 2), (FILE, 0, 1)]


def test_an_incomplete_folder_of_shards_is_ignored(together: Path, tmp_path: Path) -> None:
    fresh = CheckpointSlot(tmp_path, SHARDS).new
    shutil.copytree(together / "whole" / SHARDS, fresh)
    assert find_state(tmp_path)  # killed between two renames
    (fresh / SHARDS_INDEX).unlink()
    assert find_state(tmp_path) is None  # killed while it was written
    fresh.rename(tmp_path / SHARDS)
    with pytest.raises(DataError, match="is damaged; start again"):
        find_state(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in Linux' /proc")
def test_restarted_by_torchrun_it_resumes_by_itself(together: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["--max-restarts=1", "-m", "vtcli", *_command(together, str(run))]
    command += ["--parallel", "fsdp", "--save-every", "1"]
    with (tmp_path / "log.txt").open("w") as log:
        launcher = subprocess.Popen(
            [sys.executable, *command], stderr=log, stdout=log, env=environment(), cwd=ROOT
        )
    try:
        wait_for(CheckpointSlot(run, SHARDS).previous, launcher)
        workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(min(map(int, workers)), signal.SIGKILL)  # the one that has locked the folder
        assert launcher.wait(LIMIT) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    finally:
        launcher.terminate()
    assert "resuming after optimizer step" in (tmp_path / "log.txt").read_text()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(weights(together / "unbroken" / name), weights(run / name))
