"""Two processes with half the batch each train as one does, with copies and with shards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.evaluating import ROOT, class_folders, environment
from tests.engine.training import STEADY, losses, model_file, plan_for, same, trainer, weights

pytestmark = pytest.mark.slow
JOBS = [("uniformerv2", "ddp"), ("videoswin", "ddp"), ("videoswin", "fsdp")]
STEPS: dict[str, Any] = {"epochs": 17, "freeze_bn": True, "model_ema": False}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings by two processes, in one start of them; a video of each class is broken."""
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
    jobs.append({**jobs[-1], "name": "accumulated", "recipe": {**STEPS, "epochs": 2, **_halves()}})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.engine.training", str(folder)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _halves() -> dict[str, int]:
    return {"batch_size": 1, "grad_accum_steps": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alone(folder: Path, arch: str, **changes: Any) -> list[float]:
    plan = plan_for(
        folder / "data", folder / f"{arch}.safetensors", replace(STEADY, **{**STEPS, **changes})
    )
    return losses(trainer(folder / f"alone-{arch}-{len(changes)}", plan))


@pytest.mark.parametrize(("arch", "parallel"), JOBS)
def test_two_processes_follow_the_losses_of_one(together: Path, arch: str, parallel: str) -> None:
    theirs = json.loads((together / f"{arch}-{parallel}.json").read_text())
    ours = alone(together, arch)
    assert len(ours) == 51
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-4


def test_shards_accumulate_gradients(together: Path) -> None:
    theirs = json.loads((together / "accumulated.json").read_text())
    ours = alone(together, "videoswin", epochs=2)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-4


def test_shards_end_as_one_file(together: Path) -> None:
    sharded, whole = (
        weights(together / f"videoswin-{parallel}" / "last.safetensors")
        for parallel in ("fsdp", "ddp")
    )
    assert sharded.keys() == whole.keys()
    assert all((sharded[name] - whole[name]).abs().max() < 1e-3 for name in whole)
    assert not same(sharded, weights(together / "videoswin.safetensors"))
