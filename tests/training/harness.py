"""Tiny trainings: real videos, a tiny network of each architecture, and plans for both."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import tiny
from vtcli.cli import run
from vtcli.data.splits import TrainValSplit, split_train_val
from vtcli.errors import DataError
from vtcli.models import get_architecture, with_overrides
from vtcli.models.recipe import Recipe
from vtcli.runtime import distributed
from vtcli.runtime.distributed import Group, process_group
from vtcli.training.checkpoint import SHARDS, RunningTotals
from vtcli.training.init import plan_init
from vtcli.training.plan import TrainPlan, TrainSettings
from vtcli.training.recipes import list_recipes
from vtcli.training.results import TrainProgress
from vtcli.training.trainer import Trainer
from vtcli.video.pipeline import Pipeline
from vtcli.weights.checkpoint import CARD_KEY, HeadSpec, ModelCard, open_tensors, write_checkpoint
from vtcli.weights.registry import load_registry

# The published model, the pipeline and the changes that make each architecture tiny.
TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "uniformerv2": (
        "uniformerv2-b",
        "uniformerv2-kinetics",
        {
            **tiny.OVERRIDES,
            "num_frames": 4,
            "local_blocks": 1,
            "dropout": 0.0,
            "global_dropout": 0.0,
        },
    ),
    "videoswin": (
        "videoswin-t",
        "videoswin-kinetics",
        {
            "image_size": 32,
            "num_frames": 4,
            "width": 16,
            "depths": (1, 1),
            "num_heads": (2, 2),
            "window_size": (2, 4, 4),
            "dropout": 0.0,
            "drop_path": 0.0,
        },
    ),
    "vivit": (
        "vivit-b",
        "vivit-kinetics",
        {"image_size": 32, "num_frames": 4, "width": 32, "depth": 2, "num_heads": 2},
    ),
    "xvit": (
        "xvit-b",
        "xvit-kinetics",
        {
            "image_size": 32,
            "patch_size": 16,
            "width": 32,
            "depth": 2,
            "num_heads": 2,
            "temporal_heads": 2,
            "head_hidden": 32,
            "temporal_positions": 4,
            "shift_segments": 4,
            "num_frames": 4,
            "dropout": 0.0,
        },
    ),
}
STEADY = Recipe(
    epochs=2,
    batch_size=4,
    lr=1e-3,
    lr_base_size=4,
    warmup_epochs=0.5,
    scale=(0.5, 1.0),
    aa="rand-m5-n1",
)


def model_file(path: Path, arch: str, labels: Sequence[str] = ("a", "b"), **fields: Any) -> Path:
    """A file with a freshly initialized tiny network."""
    model, _, changes = TINY[arch]
    wanted = {**changes, "num_classes": len(labels), **fields}
    return file_of(
        path, arch, with_overrides(get_architecture(arch).presets[model], wanted), labels
    )


def file_of(path: Path, arch: str, config: Any, labels: Sequence[str] = ("a", "b")) -> Path:
    """A file with a fresh network of this configuration, and a pipeline for its clips."""
    model, pipeline_name, _ = TINY.get(arch, (f"{arch}-xs", "uniformerv2-kinetics", {}))
    config = with_overrides(config, {"num_classes": len(labels)})
    with torch.device("meta"):
        network = get_architecture(arch).build(config)
    torch.manual_seed(0)
    network.to_empty(device="cpu").init_weights()
    side, frames = config.image_size, config.num_frames
    size = {"short_side": side, "crop_size": side, "frames": frames, "clips": 1, "crops": 1}
    usual = load_registry().pipelines[pipeline_name].to_dict()
    pipeline = Pipeline.from_dict({**usual, **size, "stride": 1})
    heads = (HeadSpec("action", len(labels), tuple(labels)),)
    card = ModelCard("", arch, model, asdict(config), heads, pipeline)
    write_checkpoint(path, network.state_dict(), {CARD_KEY: card.to_json()})
    return path


def plan_for(
    data: Path | TrainValSplit,
    model: Path,
    recipe: Recipe = STEADY,
    init: str = "checkpoint",
    processes: int = 1,
    num_frames: int | None = None,
    **settings: Any,
) -> TrainPlan:
    """A plan on the CPU with one decoding thread."""
    split = data if isinstance(data, TrainValSplit) else split_train_val(data)
    heads = {head: len(names) for head, names in split.train.classes.items()}
    model_init = plan_init(model, init, heads, recipe, num_frames)
    chosen = TrainSettings(**{"device": "cpu", "workers": 0, **settings})
    return TrainPlan(split, model_init, "tiny", recipe, 5, processes, chosen)


def trainer(
    folder: Path, plan: TrainPlan, resume: bool = False, group: Group | None = None
) -> Trainer:
    """A trainer whose folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(plan, folder, group or Group(), resume)


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    return open_tensors(path)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def losses(maker: Trainer) -> list[float]:
    """The mean loss of each optimizer step of a whole training, over the clips of all processes."""
    found: list[float] = []
    before = RunningTotals()

    def on_step(progress: TrainProgress) -> None:
        nonlocal before
        if progress.step == 1:
            before = RunningTotals()
        now = maker.position.totals
        found.append((now.loss - before.loss) / (now.clips - before.clips))
        before = replace(now)

    maker.fit(on_step)
    return found


def bright_folders(root: Path, per_class: int = 5) -> Path:
    """Folders of frames whose brightness shows the class: an easy dataset."""
    for label, name in enumerate(("dark", "gray", "light")):
        for number in range(per_class):
            folder = root / name / str(number)
            folder.mkdir(parents=True)
            rng = np.random.default_rng([label, number])
            for frame in range(6):
                noise = rng.integers(0, 60, (40, 48, 3)) + 80 * label
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{frame}.png")
    return root


def recipe_of(arch: str, **changes: Any) -> Recipe:
    """An architecture's own recipe, shortened."""
    short = {"epochs": 1, "batch_size": 4, "warmup_epochs": 0.0}
    return replace(list_recipes()[arch], **{**short, **changes})


class Killed(BaseException):
    """Replaces SIGKILL: nothing catches it."""


def kill_after(steps: int, maker: Trainer) -> Callable[[object], None]:
    """A callback that ends a training after this many optimizer steps, before they are saved."""

    def on_step(progress: object) -> None:
        if maker.position.steps_done == steps:
            raise Killed

    return on_step


def assert_a_kill_changes_nothing(folder: Path, plan: TrainPlan, steps: int) -> None:
    """A training that is killed after some optimizer steps and resumed ends with the weights of
    `folder/whole`, which is trained here without interruption.
    """
    trainer(folder / "whole", plan).fit()
    broken = trainer(folder / "broken", plan)
    with pytest.raises(Killed):
        broken.fit(kill_after(steps, broken))
    trainer(folder / "broken", plan, resume=True).fit()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(weights(folder / "whole" / name), weights(folder / "broken" / name))


@contextmanager
def full_disk(how: str) -> Iterator[None]:
    """The disk is full: reported as such (`seen`), or only when written to."""
    if how == "seen":
        usage = shutil.disk_usage(".")._replace(free=0)
        with mock.patch.object(shutil, "disk_usage", return_value=usage):
            yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _damage(folder: Path) -> None:
    """Truncate the last shard of the latest state."""
    shard = max((folder / SHARDS).glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])


def _do(job: dict[str, Any], folder: Path, group: Group) -> list[Any]:
    """One job of one process: a training to its end, or to where it is interrupted."""
    if "command" in job:
        with mock.patch.object(distributed, "process_group", return_value=nullcontext(group)):
            return [run(job["command"])]
    plan = plan_for(
        Path(job["data"]),
        Path(job["model"]),
        replace(STEADY, **job["recipe"]),
        processes=group.size,
        parallel=job["parallel"],
        save_every=job.get("save_every"),
    )
    if group.is_main_process:
        folder.mkdir(exist_ok=True)
        if job.get("damaged"):
            _damage(folder)
    group.all_gather(True)
    maker = Trainer(plan, folder, group, job.get("resume", False))
    if "full" in job:
        with full_disk(job["full"]) if group.rank == 1 else nullcontext():
            try:
                maker.save()
            except DataError as error:
                return group.all_gather(str(error))
    if "killed_after" in job:
        with suppress(Killed):
            maker.fit(kill_after(job["killed_after"], maker))
        return [maker.position.steps_done]
    if job.get("only_saved"):
        maker.save()
        return [maker.position.steps_done]
    return losses(maker)


def _work(folder: Path) -> None:
    """Started by `torchrun`: run every job of `folder/jobs.json` and write its result to a file."""
    torch.set_num_threads(1)
    with process_group() as group:
        for job in json.loads((folder / "jobs.json").read_text()):
            found = _do(job, folder / job.get("run", job["name"]), group)
            if group.is_main_process:
                (folder / f"{job['name']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
