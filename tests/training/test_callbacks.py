"""Callbacks are told of a training from its beginning to its end, whatever ends it."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.evaluation.harness import vt_here
from tests.training.harness import bright_folders, model_file, plan_for, trainer
from vtcli.errors import UsageError
from vtcli.training import Callback, RunInfo
from vtcli.training.callbacks import CallbackList, load_callback
from vtcli.training.results import TrainProgress

EXAMPLES = Path(__file__).parents[2] / "examples"


class Recorder(Callback):
    """Keeps every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_run_begin(self, run: RunInfo) -> None:
        self.calls.append(("begin", (run.steps, run.steps_done, run.resumed)))

    def on_step_end(self, progress: TrainProgress) -> None:
        self.calls.append(("step", (progress.epoch, progress.step)))

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        self.calls.append(("epoch", row["epoch"]))

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        self.calls.append(("end", (ended, best and best["epoch"])))


class Broken(Callback):
    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        raise ConnectionError("the tracker is away")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_folders(tmp_path_factory.mktemp("data"), 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "vivit")


def test_every_call_comes_in_its_order(data: Path, model: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    maker = trainer(tmp_path, plan_for(data, model))
    maker.callbacks.callbacks.append(recorder)
    maker.fit()
    best = maker.position.best + 1
    assert recorder.calls == [
        ("begin", (4, 0, False)),
        ("step", (0, 1)),
        ("step", (0, 2)),
        ("epoch", 1),
        ("step", (1, 1)),
        ("step", (1, 2)),
        ("epoch", 2),
        ("end", ("all epochs done", best)),
    ]


def test_a_stopped_and_resumed_training_says_so(data: Path, model: Path, tmp_path: Path) -> None:
    plan = plan_for(data, model)
    recorder = Recorder()
    maker = trainer(tmp_path, plan)
    maker.callbacks.callbacks.append(recorder)
    maker.fit(lambda progress: os.kill(os.getpid(), signal.SIGTERM))
    assert recorder.calls[-1] == ("end", ("terminated", None))
    resumed = trainer(tmp_path, plan, resume=True)
    resumed.callbacks.callbacks.append(again := Recorder())
    resumed.fit()
    done = recorder.calls[-2][1][1]
    assert again.calls[0] == ("begin", (4, done, True))
    assert again.calls[-1][1][0] == "all epochs done"


def test_an_error_ends_the_run_as_failed(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = trainer(tmp_path, plan_for(data, model))
    maker.callbacks.callbacks.append(recorder := Recorder())
    monkeypatch.setattr(maker, "_validate", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        maker.fit()
    assert recorder.calls[-1] == ("end", ("failed", None))


def test_a_callback_that_fails_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = CallbackList([Broken(), recorder := Recorder()])
    with caplog.at_level(logging.WARNING):
        callbacks.on_epoch_end({"epoch": 1})
        callbacks.on_epoch_end({"epoch": 2})
    assert recorder.calls == [("epoch", 1), ("epoch", 2)]
    (record,) = caplog.records
    assert "the callback Broken failed in on_epoch_end and is not called again" in record.message
    assert "the tracker is away" in record.message


def test_a_callback_that_cannot_begin_ends_the_command_before_training(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "on_run_begin", Broken.on_epoch_end)
    maker = trainer(tmp_path, plan_for(data, model))
    maker.callbacks.callbacks.append(Broken())
    with pytest.raises(UsageError, match="Broken cannot begin: ConnectionError: the tracker is"):
        maker.fit()
    assert maker.position.steps_done == 0


def test_metrics_as_json_lines_are_those_of_history(
    data: Path, model: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path, plan_for(data, model))
    maker.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    table = list(csv.DictReader((tmp_path / "history.csv").open()))
    rows = [{name: value for name, value in row.items() if value} for row in table]
    assert [json.loads(line) for line in lines] == maker.position.history
    assert [{k: str(v) for k, v in json.loads(line).items()} for line in lines] == rows


@pytest.mark.parametrize("words", [("--recipe", "nano", "--epochs", "1"), ("--trainable", "head")])
def test_the_command_calls_a_class_of_a_file(
    words: tuple[str, ...], data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from vtcli.training import Callback\n"
        "class Own(Callback):\n"
        "    def on_run_begin(self, run): self.file = run.folder / 'own.txt'\n"
        "    def on_epoch_end(self, row): self.file.write_text(f'{row[\"val_macro\"]}')\n"
        "    def on_run_end(self, ended, best): self.file.open('a').write(f' {ended}')\n"
    )
    run = tmp_path / "run"
    source = ("--dataset", data, "-m", model, "-o", run, "-j", "1", "--callback")
    done = vt_here("finetune", *source, f"{tmp_path / 'own.py'}:Own", *words)
    assert done.returncode == 0, done.stderr
    macro, _, ended = (run / "own.txt").read_text().partition(" ")
    assert 0 <= float(macro) <= 1
    assert ended == "all epochs done"


def test_a_class_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Other: pass\n")
    (tmp_path / "bad.py").write_text("import no_such_tracker\n")
    for name, sentence in {
        "own.py": "--callback takes FILE.py:CLASS",
        f"{tmp_path}/own.py:Other": "has no class Other that derives from vtcli.training.Callback",
        f"{tmp_path}/own.py:None_": "has no class None_",
        f"{tmp_path}/none.py:Own": "FileNotFoundError",
        f"{tmp_path}/bad.py:Own": "No module named 'no_such_tracker'",
        "no_such_module:Own": "No module named 'no_such_module'",
    }.items():
        with pytest.raises(UsageError) as caught:
            load_callback(name)
        assert sentence in str(caught.value)
    assert isinstance(load_callback("tests.training.test_callbacks:Recorder"), Callback)


class StubRun:
    """Of the methods of a tracker's run, those that the examples use."""

    def __init__(self, log: list[Any]) -> None:
        self.calls, self.summary = log, {}

    def log(self, row: dict[str, Any], step: int) -> None:
        self.calls.append(("log", step, row["val_top1"]))

    def finish(self, exit_code: int) -> None:
        self.calls.append(("finish", exit_code, self.summary["ended"]))


def test_the_wandb_example_logs_every_epoch_and_resumes_its_run(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    def init(**options: Any) -> StubRun:
        log.append(("init", options["id"], options["resume"], options["config"]["seed"]))
        return StubRun(log)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    name = f"{EXAMPLES / 'wandb_callback.py'}:WandbCallback"
    for _ in range(2):  # the second one resumes a finished training
        maker = trainer(tmp_path, plan_for(data, model), resume=True)
        maker.callbacks.callbacks.append(load_callback(name))
        maker.fit()
    epochs = [("log", row["epoch"], row["val_top1"]) for row in maker.position.history]
    id = (tmp_path / "wandb_id.txt").read_text()
    begin, end = ("init", id, "allow", 5), ("finish", 0, "all epochs done")
    assert log == [begin, *epochs, end, begin, end]


def test_the_mlflow_example_logs_every_epoch_and_resumes_its_run(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    def start_run(**options: Any) -> SimpleNamespace:
        log.append(("start", options))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    stub = SimpleNamespace(
        start_run=start_run,
        log_params=lambda params: log.append(("params", params["epochs"])),
        log_metrics=lambda metrics, step: log.append(("metrics", step, metrics["val_top1"])),
        set_tag=lambda name, value: log.append((name, value)),
        end_run=lambda status: log.append(("end", status)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    name = f"{EXAMPLES / 'mlflow_callback.py'}:MlflowCallback"
    for _ in range(2):
        maker = trainer(tmp_path, plan_for(data, model), resume=True)
        maker.callbacks.callbacks.append(load_callback(name))
        maker.fit()
    epochs = [("metrics", row["epoch"], row["val_top1"]) for row in maker.position.history]
    end = [("ended", "all epochs done"), ("end", "FINISHED")]
    first = [("start", {"run_name": tmp_path.name}), ("params", 2)]
    assert log == [*first, *epochs, *end, ("start", {"run_id": "abc"}), *end]
