"""A repository of the Hub is named alike in every command: `org/repo`, `hf://org/repo`, FOLDER."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.harness import class_folders
from tests.hub import Hub, point_client_at, running_hub
from tests.weights.hf_models import LABELS, make_model, make_processor
from vtcli.cli import run

REPO = "someone/vivit-falls"
HEADLESS = "someone/vivit-backbone"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 3, list(LABELS))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        point_client_at(server, tmp_path, monkeypatch)
        for repo, headless in ((REPO, False), (HEADLESS, True)):
            folder = tmp_path / repo.replace("/", "-")
            make_model(folder, headless=headless)
            make_processor(folder)
            server.add_repo(repo, {path.name: path.read_bytes() for path in folder.iterdir()})
        yield server


def succeeded(*words: str | Path) -> None:
    assert run([str(word) for word in words]) == 0, words


@pytest.mark.slow
def test_every_command_takes_the_repository(
    hub: Hub, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*words: str | Path) -> Any:
        capsys.readouterr()
        succeeded(*words, "--format", "json")
        return json.loads(capsys.readouterr().out)

    video = next(data.rglob("*.mp4"))
    cpu = ("--device", "cpu")
    rows = answer("predict", video, "-m", REPO, *cpu)["results"][0]["predictions"]
    assert {row["label"] for row in rows} == set(LABELS)
    assert answer("models", "show", f"hf://{REPO}")["config"]["num_heads"] == 3
    assert answer("profile", "-m", REPO, *cpu, "--no-time")
    succeeded("eval", "--dataset", data, "-m", REPO, "-o", tmp_path / "eval", *cpu, "-j", "0")
    succeeded("convert", f"hf://{REPO}", "-o", tmp_path / "own.safetensors", "--verify")
    assert (tmp_path / "own.safetensors").is_file()
    succeeded("convert", REPO, "--to", "onnx", "-o", tmp_path / "own.onnx")


@pytest.mark.parametrize("words", [("-m", REPO), ("--init", REPO), ("--init", HEADLESS)])
def test_training_starts_from_the_repository(
    hub: Hub, data: Path, tmp_path: Path, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "-j", "1", "--epochs", "1", "--batch-size", "2", "--lr", "1e-4")
    succeeded("finetune", "--dataset", data, *words, "-o", tmp_path / "run", *options)
    capsys.readouterr()
    succeeded("models", "show", tmp_path / "run/best.safetensors", "--format", "json")
    card = json.loads(capsys.readouterr().out)
    assert card["arch"] == "vivit"
    assert card["config"]["width"] == 48


def test_two_video_models_for_one_training_are_refused(
    hub: Hub, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--dataset", data, "-m", "videoswin-t", "--init", REPO]
    assert run([str(word) for word in [*words, "-o", tmp_path / "run"]]) == 2
    assert "both name a video model; leave out -m" in capsys.readouterr().err
