"""Follow a fine-tuning in Weights & Biases: `pip install wandb`, then

    vt finetune --dataset FOLDER -o runs/mine --callback examples/wandb_callback.py:WandbCallback

WANDB_PROJECT, WANDB_MODE=offline and the other variables of wandb apply. A resumed training goes on
in the same run, whose id is kept in the run directory.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import wandb

from vtcli.training import Callback, RunInfo


class WandbCallback(Callback):
    """One run of W&B per run directory, one step per epoch; the best epoch is its summary."""

    def on_run_begin(self, run: RunInfo) -> None:
        id_file = run.folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self.run = wandb.init(
            id=id_file.read_text(),
            resume="allow",
            name=run.folder.name,
            config={**run.settings, "train_videos": run.train_videos},
        )

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        self.run.log(dict(row), step=row["epoch"])

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        if best is not None:
            self.run.summary.update({f"best_{name}": value for name, value in best.items()})
        self.run.summary["ended"] = ended
        self.run.finish(exit_code=1 if ended == "failed" else 0)
