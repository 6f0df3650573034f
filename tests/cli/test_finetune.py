"""`vt finetune` as a command: output, exit codes, and that a killed run resumes exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.harness import ROOT, class_folders, environment, vt, wait_for
from tests.forked import Forked
from tests.training.harness import model_file, same, weights
from vtcli.cli import run
from vtcli.cli.finetune import option_name
from vtcli.training.checkpoint import find_state
from vtcli.training.recipes import options

TINY = ("--batch-size", "4", "--lr", "1e-3", "--device", "cpu", "-j", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 5, ["a", "b", "c"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "videoswin")


def test_every_field_of_a_recipe_is_an_option() -> None:
    words = vt("finetune", "--help", COLUMNS="200").stdout
    assert all(option_name(field) in words for field in options())


@pytest.mark.slow
def test_from_a_folder_to_a_prediction(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["--dataset", data, "-m", model, "-o", folder, *TINY]
    done = vt("finetune", *words, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert "3 of the 15 samples are held out for validation" in done.stderr
    assert "epoch 2/2: loss" in done.stderr
    assert str(folder / "best.safetensors") in done.stdout
    names = {"best.safetensors", "last.safetensors", "history.csv", "curve.png", "training.json"}
    assert names <= {path.name for path in folder.iterdir()}
    video = next(data.rglob("*.mp4"))
    answer = vt("predict", video, "-m", folder / "best.safetensors", "--format", "json")
    found = json.loads(answer.stdout)["results"][0]["predictions"]
    assert {row["label"] for row in found} == {"a", "b", "c"}
    assert here(*words, "--epochs", "2", "--no-resume") == 7
    assert "holds a training already" in capsys.readouterr().err
    assert here(*words) == 7
    assert "another recipe: epochs (2, not 67)" in capsys.readouterr().err


def here(*words: str | Path) -> int:
    """The command in this process, which has PyTorch already."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run(["finetune", *map(str, words)])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_dry_run_writes_nothing(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["--dataset", data, "-m", model, "-o", folder, "--dry-run", "--format", "json"]
    words += ["--recipe", "paper"]
    assert here(*words, "--batch-size", "4", "--lr-base-scale", "linear") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps_per_epoch"], plan["clips_per_step"], plan["epochs"]) == (3, 4, 30)
    assert plan["lr"] == pytest.approx(1e-3 * 4 / 64)
    assert plan["recipe"] == "paper (videoswin)"
    assert plan["steps"] == 90
    assert plan["memory_bytes"] > 0
    assert plan["total_time"] > 0
    assert not folder.exists()


def test_a_dry_run_says_which_recipe_and_why_and_warns_of_one_that_cannot_learn(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", data, "-m", model, "-o", tmp_path / "run", "--dry-run"]
    assert here(*words) == 0
    shown = capsys.readouterr()
    rows = dict(line.split(None, 1) for line in shown.out.splitlines())
    assert rows["recipe"].startswith("small: 12 training videos are 30 optimizer steps")
    assert rows["steps"].startswith("200: 100 epochs x 2 optimizer steps of 8 clips")
    assert "classifier 0.001, backbone 0.001 down to" in rows["learning"]
    assert "warning" not in shown.out + shown.err
    assert here(*words, "--head-lr", "1e-6") == 0
    shown = capsys.readouterr()
    assert "these settings cannot move the classifier" in shown.out
    assert "warning: these settings cannot move the classifier" in shown.err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--epochs", "0"], 2, "--epochs 0 is below 1"),
        (["--aa", "rand-q7"], 2, "--aa 'rand-q7' is not an augmentation policy"),
        (["--opt", "adamm"], 2, "--opt adamm is not an optimizer"),
        (["--opt", "kron"], 2, "keeps lists of tensors"),
        (["--trainable", "last-0-blocks"], 2, "--trainable must be full, head or last-N-blocks"),
        (["--amp-dtype", "fp16"], 2, "--amp-dtype fp16 needs a GPU"),
        (["--trainable", "last-9-blocks"], 2, "names more blocks"),
    ],
)
def test_bad_options_end_in_a_sentence(
    words: list[str],
    code: int,
    sentence: str,
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--dataset", data, "-m", model, "-o", tmp_path / "run", *TINY, *words]
    assert here(*given) == code
    assert sentence in capsys.readouterr().err


def start(run: Path, data: Path, model: Path) -> Forked:
    return Forked(command(run, data, model), environment(), ROOT)


def command(run: Path, data: Path, model: Path) -> list[str | Path]:
    words = ["finetune", "--dataset", data, "-m", model, "-o", run, "--epochs", "6"]
    return [*words, "--save-every", "1", "--aa", "rand-m5-n1", *TINY]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_weights(
    data: Path, model: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, data, model).wait(60) == 0
    first = start(broken, data, model)
    wait_for(broken / "state.previous.safetensors", first)
    first.send_signal(signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    assert not (broken / "curve.png").exists()
    (broken / "metrics.jsonl").unlink()  # of epoch 0; it is written again after every epoch
    second = start(broken, data, model)
    wait_for(broken / "metrics.jsonl", second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) in (143, 0)
    assert start(broken, data, model).wait(60) == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert same(weights(whole / name), weights(broken / name))
    assert not [path for path in broken.iterdir() if path.name.startswith(".best")]
    assert os.access(broken / "history.csv", os.R_OK)


@pytest.mark.slow
def test_ctrl_c_in_an_epoch_saves_and_is_exit_code_130(
    data: Path, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run, data, model)
    wait_for(run / "state.previous.safetensors", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    saved = find_state(run)
    assert saved
    assert saved.position.steps_done > 1


@pytest.mark.slow
def test_under_nohup_ctrl_c_changes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it, as from nohup
    try:
        words = [*command(run, data, model), "--epochs", "2"]
        started = [sys.executable, "-m", "vtcli", *map(str, words)]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(started, env=environment(), cwd=ROOT, stdout=quiet, stderr=quiet)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(run / "state.safetensors", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
