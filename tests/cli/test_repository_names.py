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
from vtcli.profiling import benchmark

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
    hub: Hub,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
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
    succeeded("models", "fetch", REPO, f"hf://{HEADLESS}")
    monkeypatch.setattr(benchmark, "RUN_SECONDS", 0.1)
    assert answer("profile", "-m", HEADLESS, *cpu)


def test_a_network_without_a_classifier_is_not_exported(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeeded("convert", HEADLESS, "-o", tmp_path / "own.safetensors")
    captured = capsys.readouterr()
    assert "no classifier" in captured.out
    assert captured.err == ""
    for words in ((str(tmp_path / "own.safetensors"),), (HEADLESS,)):
        assert run(["convert", *words, "--to", "hf", "-o", str(tmp_path / "x.safetensors")]) == 5
        assert "has no classifier; train one" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("-m", REPO), ("--init", REPO), ("--init", HEADLESS)])
def test_training_starts_from_the_repository(
    hub: Hub, data: Path, tmp_path: Path, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "-j", "1", "--epochs", "1", "--batch-size", "2", "--lr", "1e-4")
    succeeded("finetune", "--dataset", data, *words, "-o", tmp_path / "run", *options)
    assert len(hub.asked("GET", "/api/models/")) == 1
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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "what"), [(POINTER, "a Git LFS pointer"), (PAGE, "an HTML page"), (b"", "empty")]
)
def test_what_a_repository_holds_in_place_of_weights_is_said_of_the_repository(
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    what: str,
    weights: str,
) -> None:
    folder = tmp_path / REPO.replace("/", "-")
    files = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    hub.add_repo("someone/broken", {**files, weights: content})
    for command in (["convert", "hf://someone/broken"], ["models", "show", "someone/broken"]):
        assert run(command) == 5
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{weights} of hf://someone/broken is {what}" in line
        assert str(tmp_path) not in line
        assert "name another revision or repository" in line
