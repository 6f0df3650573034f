"""Trains an architecture from outside the package with two processes: `torchrun` starts this."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from tests.training.harness import STEADY, file_of, losses, plan_for
from vtcli.models import get_architecture
from vtcli.runtime.distributed import process_group
from vtcli.training.trainer import Trainer

RECIPE = replace(STEADY, epochs=1, layer_decay=0.5, grad_checkpointing=True, aa="")


def train(folder: Path) -> None:
    """Train on `folder/data` with shards; what was observed goes to `folder/observed.json`."""
    torch.set_num_threads(1)
    architecture = get_architecture("outside")  # from its entry point
    with process_group() as group:
        model = folder / f"outside-{group.rank}.safetensors"
        file_of(model, "outside", architecture.presets["outside-xs"])
        recipe = replace(RECIPE, batch_size=RECIPE.batch_size // group.size)
        plan = plan_for(
            folder / "data", model, recipe, processes=group.size, parallel="fsdp", save_every=1
        )
        run = folder / "run"
        run.mkdir(exist_ok=True)
        group.all_gather(True)
        maker = Trainer(plan, run, group)
        found = losses(maker)
        blocks = list(maker.model.layers)  # type: ignore[arg-type]
        local = {name: p.to_local().numel() for name, p in maker.model.named_parameters()}
        observed = {
            "losses": found,
            "steps": maker.position.steps_done,
            "forwards": [block.forwards for block in blocks],
            "sharded": [isinstance(block, FSDPModule) for block in blocks],
            "rates": rates(maker),
            "local": local,
        }
        everything = group.all_gather(observed)
        if group.is_main_process:
            (folder / "observed.json").write_text(json.dumps(everything))


def rates(maker: Trainer) -> dict[str, float]:
    """The factor of each parameter's learning rate."""
    names = iter(maker.train_step.names)
    groups = maker.train_step.optimizer.param_groups
    return {next(names): group["lr_scale"] for group in groups for _ in group["params"]}


if __name__ == "__main__":
    train(Path(sys.argv[1]))
