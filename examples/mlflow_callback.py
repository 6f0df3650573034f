"""Follow a fine-tuning in MLflow: `pip install mlflow`, then

    vt finetune --dataset FOLDER -o runs/mine --callback examples/mlflow_callback.py:MlflowCallback

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME apply. A resumed training goes on in the same run,
whose id is kept in the run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import mlflow

from vtcli.training import Callback, RunInfo


class MlflowCallback(Callback):
    """One run of MLflow per run directory, with a metric per column of history.csv."""

    def on_run_begin(self, run: RunInfo) -> None:
        id_file = run.folder / "mlflow_id.txt"
        if id_file.exists():
            mlflow.start_run(run_id=id_file.read_text())
            return
        started = mlflow.start_run(run_name=run.folder.name)
        id_file.write_text(started.info.run_id)
        mlflow.log_params({"model": run.settings["model"], **run.settings["recipe"]})

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        metrics = {name: float(value) for name, value in row.items() if isinstance(value, Real)}
        mlflow.log_metrics(metrics, step=row["epoch"])

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        mlflow.set_tag("ended", ended)
        states = {"interrupted": "KILLED", "terminated": "KILLED", "failed": "FAILED"}
        mlflow.end_run(states.get(ended, "FINISHED"))
